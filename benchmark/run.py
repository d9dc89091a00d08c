"""`python -m benchmark.run`: plan, train what is missing, evaluate, report.

Without options it evaluates the released weights that have no rows yet and trains nothing. Nothing imports this module;
torch is loaded only when something is to be computed.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from pathlib import Path

from benchmark import overview, report, results, rows

# of benchmark.presets.PLANS, which loads torch
_PRESETS = ("smoke", "quick", "full", "release", "release_rgb", "hmds_10", "hmds_30", "hmds_100")
_DEFAULT_OUT = "results"


class UsageError(ValueError):
    """The options make no sense together."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m benchmark.run", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add(
        "--preset",
        choices=_PRESETS,
        help="train what is missing of this plan, then evaluate it; default: train nothing",
    )
    add("--data-root", metavar="DIR", help="folder of image sets (Set12, BSD68, Urban100, ...); default: MDRN_DATA")
    add(
        "--fetch",
        metavar="HOST",
        nargs="?",
        const=True,
        help="first download the images that are missing, into the data root or else a cache; default host: GitHub",
    )
    add(
        "--out", metavar="DIR", help=f"rows, tables and figures; default: {_DEFAULT_OUT}, runs/smoke for --preset smoke"
    )
    add(
        "--levels", metavar="L", type=float, nargs="+", help="noise levels; default: 15 25 50, or what a network is for"
    )
    add("--protocol", choices=("awgn", "clip8"), default="awgn", help="default: awgn, the literature's")
    add("--methods", metavar="M", nargs="+", help="names, patterns ('mdrn_tiny*') or weights files; default: all")
    add("--sets", metavar="SET", nargs="+", help="test sets; default: those found, else the bundled samples")
    add("--only", metavar="RUN", nargs="+", help="with --preset: train these runs alone, ids or patterns")
    add("--teacher", metavar="T", help="with --preset: released id or weights file; default: the plan's")
    add("--seeds", metavar="S", type=int, nargs="+", help="with --preset: training seeds")
    add("--noise-seed", type=int, default=0, help="seed of the benchmark's noise; default: 0, the literature's")
    add("--jobs", type=int, default=1, help="with --preset: groups of networks that share the machine; default: 1")
    add("--ray", metavar="ADDRESS", help="with --preset: train on a Ray cluster, 'auto' or its address; needs ray")
    add("--device", default="cpu", help="cpu or cuda; default: cpu")
    add("--lpips", choices=("alex", "squeeze", "none"), default="alex", help="trunk of LPIPS; default: alex")
    add("--force", action="store_true", help="evaluate again what has rows already, and compare")
    add("--retrain", action="store_true", help="with --preset: train finished runs again, and evaluate them")
    add("--dry-run", action="store_true", help="say what would be done, and how long training takes here")
    add("--report-only", action="store_true", help="write tables and figures again from the rows")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if evaluating unchanged weights again gave other numbers; 2 with one line on stderr for any error.
    """
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        out = Path(options.out or ("runs/smoke" if options.preset == "smoke" else _DEFAULT_OUT))
        if options.report_only:
            return _report(out)
        return _benchmark(options, out)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        print(f"python -m benchmark.run: {line}", file=sys.stderr)
        return 2


def _check(options: argparse.Namespace) -> None:
    if not options.preset:
        for name in ("only", "seeds", "teacher", "ray", "retrain"):
            if getattr(options, name):
                raise UsageError(f"--{name} needs --preset {'|'.join(_PRESETS)}")
    for level in options.levels or []:
        if not 0 < level <= 75:
            raise UsageError(f"--levels: expected numbers above 0, up to 75, got {level:g}")
    if options.jobs < 1:
        raise UsageError(f"--jobs: expected at least 1, got {options.jobs}")
    if not 0 <= options.noise_seed < 2**32:
        raise UsageError(f"--noise-seed: expected 0 to 2**32 - 1, got {options.noise_seed}")
    if not (options.device in ("cpu", "cuda") or options.device.startswith("cuda:")):
        raise UsageError(f"--device: expected cpu or cuda, got {options.device!r}")


def _benchmark(options: argparse.Namespace, out: Path) -> int:
    import torch

    from benchmark import jobs, prepare
    from benchmark.evaluate import Conditions
    from benchmark.plan import duration
    from mdrn.data import data_root

    if options.device != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"--device {options.device}: torch sees no GPU here; use cpu")
    root = data_root(options.data_root)
    if options.fetch:
        root = prepare.fetch_missing(options, root)
    runs = prepare.planned_runs(options, out) if options.preset else []
    planned_sets = None
    if options.preset:
        from benchmark.presets import PLANS

        planned_sets = PLANS[options.preset].sets
    sets, found = jobs.choose_sets(root, options.sets or (list(planned_sets) if planned_sets else None))
    print(found)
    if not options.dry_run:
        _check_writable(out)
        prepare.train_missing(options, runs, root)
    conditions = Conditions(options.protocol, options.noise_seed, options.device, _lpips_trunk(options.lpips))
    wanted = _wanted(options, runs, sets)
    earlier = rows.newest(rows.read(out / rows.ROWS))
    missing = wanted if options.force or options.retrain else jobs.missing_jobs(wanted, conditions, out)
    estimate = f", about {duration(jobs.seconds_left(missing, conditions))}, measured here" if missing else ""
    done = len(wanted) - len(missing)
    print(f"evaluations: {len(wanted)}, of which {done} have their rows; {len(missing)} to do{estimate}", flush=True)
    if options.dry_run:
        for job in missing:
            print(f"  {job.set_name} {job.noise_level:g} {job.name}")
        return 0
    with _only_one(out):
        if not (options.force or options.retrain):
            missing = jobs.missing_jobs(wanted, conditions, out)
        written = jobs.run_jobs(missing, conditions, out, root, options.quiet)
        print(f"{written} rows added to {out / rows.ROWS}")
        if not (options.methods or options.levels or options.only or options.seeds or options.noise_seed):
            _keep_crops(wanted, conditions, out)
        code = _report(out)
    return max(code, _compare(earlier, out)) if options.force else code


def _wanted(options: argparse.Namespace, runs: list, sets: list[str]) -> list:
    """List the evaluations: released networks without a preset, the plan's with one; and methods without weights."""
    import mdrn
    from benchmark import jobs, methods
    from benchmark.plan import weights_exist

    files = [name for name in options.methods or [] if name.endswith(".safetensors")]
    patterns = [name for name in options.methods or [] if name not in files]
    available = methods.without_weights()
    if options.preset:
        trained = [run for run in runs if run.finished]
        teachers = [run.teacher for run in trained if run.teacher and weights_exist(run.teacher)]
        weights = dict.fromkeys([*teachers, *(str(run.weights) for run in trained)])  # teachers are measured, too
        available += [methods.network(name, options.preset) for name in weights]
    else:
        available += methods.networks(mdrn.list_models(), "released")
    everything = not options.methods
    untrained = [run.config.id for run in runs if not run.finished]  # a dry run leaves them so
    chosen = jobs.choose_methods(available, None if everything else patterns, untrained)
    chosen += methods.networks(files, "given")
    estimator = everything or any(fnmatch.fnmatch(rows.ESTIMATOR, pattern) for pattern in patterns)
    levels = tuple(options.levels) if options.levels else None
    if options.preset and levels is None:
        levels = tuple(sorted({low for low, high in (run.config.noise_level for run in runs) if low == high})) or None
    return jobs.wanted_jobs(chosen, sets, levels, bool(options.sets), estimator and options.preset is None)


def _keep_crops(wanted: list, conditions, out: Path) -> None:
    """Keep crops of a photograph for the report, of all networks of a plan."""
    from benchmark import crops

    methods = {job.method.name: job.method for job in wanted if job.method and job.method.weights}
    levels = tuple(sorted({job.noise_level for job in wanted if job.name in methods}))
    for plan in sorted({method.plan for method in methods.values()}):
        of_plan = [method for method in methods.values() if method.plan == plan]
        crops.write(of_plan, levels, plan, conditions, out / report.CROPS)


def _lpips_trunk(asked: str) -> str | None:
    if asked == "none":
        return None
    from mdrn.metrics import lpips_available

    if lpips_available(asked):
        return asked
    print(f"LPIPS: the weights of its trunk ({asked}) are not under TORCH_HOME; its cells stay empty")
    return None


def _check_writable(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _only_one(out: Path):
    """Return a lock, so that of two invocations the second sees the first one's rows and repeats nothing."""
    import filelock

    return filelock.FileLock(out / ".evaluate.lock")


def _report(out: Path) -> int:
    if not (out / rows.ROWS).exists() and not (out / rows.SPEED).exists():
        raise UsageError(f"{out}: expected a folder with {rows.ROWS}, found none; run without --report-only first")
    written = report.write(out)
    print(f"{len(written)} files written; read {written[0]}")
    if overview.update(out.resolve().parent / "README.md", results.load(out)):
        print("table in the top README written")
    return 0


def _compare(earlier: list[rows.Row], out: Path) -> int:
    from benchmark.jobs import SAME, largest_change

    change = largest_change(earlier, rows.newest(rows.read(out / rows.ROWS)))
    print(f"largest change of PSNR in rows of unchanged weights: {change:.4f} dB (allowed: {SAME})")
    return int(change > SAME)


def _one_line(error: Exception) -> str | None:
    """Return one line for an error that a user can do something about, None for one that is a fault of this code."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    known = [UsageError, rows.RowsError]
    for module, name in (
        ("mdrn.data", "DataError"),
        ("mdrn.checkpoint", "CheckpointError"),
        ("mdrn.trainer", "TrainingError"),
        ("benchmark.evaluate", "EvaluationError"),
        ("benchmark.jobs", "MethodError"),
        ("benchmark.training", "PlanError"),
        ("benchmark.cost", "CostError"),
    ):
        if module in sys.modules:
            known.append(getattr(sys.modules[module], name))
    return " ".join(str(error).split()) if isinstance(error, tuple(known)) else None


if __name__ == "__main__":
    sys.exit(main())
