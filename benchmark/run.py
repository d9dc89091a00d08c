"""`python -m benchmark.run`: plan, train what is missing, evaluate, report.

Without options it evaluates the released weights that have no rows yet and trains nothing. Nothing imports this module.
"""

import argparse
import dataclasses
import fnmatch
import sys
import tempfile
from pathlib import Path

import filelock

import mdrn
from benchmark import cluster, evaluate, fetch, methods, report, rows, testsets
from benchmark.plan import PLANS, Run, duration, runs_of, weights_exist
from benchmark.rows import RELEASE
from benchmark.training import describe, train_all
from mdrn import metrics
from mdrn.checkpoint import read_header
from mdrn.data import data_root
from mdrn.denoiser import MdrnError, check_device
from mdrn.noise import PROTOCOLS

OUT = "results"  # the folder that is tracked, and whose tables the README beside it shows


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for, complete and checked: the options of `_parser`, which explains them; None is its default."""

    preset: str | None
    root: Path | None  # folder of image sets
    out: Path
    conditions: evaluate.Conditions
    levels: tuple[float, ...] | None
    methods: tuple[str, ...] | None
    sets: tuple[str, ...] | None
    only: tuple[str, ...] | None
    seeds: tuple[int, ...] | None
    teacher: str | None
    jobs: int
    ray: str | None
    fetch: str | None
    force: bool
    dry_run: bool
    report_only: bool
    quiet: bool


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if evaluating unchanged weights again gave other numbers; 2 with one line on stderr for any error.
    """
    try:
        request = parse(arguments)
        runs = plan(request)
        train(request, runs)
        change = measure(request, runs)
        write_report(request)
        return int(change > evaluate.SAME)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"python -m benchmark.run: {where}{error.strerror or error}", file=sys.stderr)
    except MdrnError as error:
        print(f"python -m benchmark.run: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def plan(request: Request) -> list[Run]:
    """Fetch images that are asked for, and return the runs of the plan after showing them; none without a plan."""
    if request.report_only:
        return []
    if request.fetch:
        _fetch(request)
    if request.preset is None:
        return []
    chosen = PLANS[request.preset]
    if request.teacher:
        read_header(request.teacher)
        chosen = dataclasses.replace(chosen, teacher=request.teacher)

    def keep(run: Run) -> bool:
        patterns = request.only or ("*",)
        return (
            (request.levels is None or set(run.config.noise_level) <= set(request.levels))
            and (request.seeds is None or run.config.seed in request.seeds)
            and any(fnmatch.fnmatch(name, pattern) for name in (run.config.id, run.label) for pattern in patterns)
        )

    runs = runs_of(request.preset, chosen, request.out, keep)
    if not runs:
        labels = ", ".join(run.label for run in runs_of(request.preset, chosen, request.out))
        raise MdrnError(f"--preset {request.preset}: --only, --levels and --seeds leave no run of {labels}")
    print(describe(request.preset, runs, request.conditions.device, request.jobs), flush=True)
    return runs


def train(request: Request, runs: list[Run]) -> None:
    """Train what is not finished, here or on a cluster; nothing, if images or a teacher are not what they should be."""
    if request.dry_run or not runs:
        return
    _check_writable(request.out)
    if any("bsds" in run.config.data for run in runs if not run.finished):
        testsets.check_training(request.root)
    if request.ray:
        cluster.train_all(runs, request.root, request.conditions.device, request.jobs, request.ray, request.quiet)
    else:
        train_all(runs, request.root, request.conditions.device, request.jobs, request.quiet)


def measure(request: Request, runs: list[Run]) -> float:
    """Evaluate what has no rows, or with --force everything; return the largest change of unchanged weights in dB."""
    if request.report_only:
        return 0.0
    conditions, out, jobs = request.conditions, request.out, _jobs(request, runs)
    missing = jobs if request.force else evaluate.missing(jobs, conditions, out)
    print(f"evaluations: {len(jobs)}, of which {len(jobs) - len(missing)} have their rows; {len(missing)} to do")
    if request.dry_run:
        for job in missing:
            print(f"  {job.set_name} {'auto' if job.level is None else f'{job.level:g}'} {job.method.name}")
        for run in runs:
            if not run.finished:
                print(f"  and, once it is trained, {run.label}")
        if missing:
            print(f"  about {duration(evaluate.seconds_left(missing, conditions, request.root))}, measured here")
        return 0.0
    _check_writable(out)
    before = evaluate.psnr_by_identity(out) if request.force else {}
    with filelock.FileLock(out / ".evaluate.lock"):  # the second of two invocations sees the first one's rows
        missing = jobs if request.force else evaluate.missing(jobs, conditions, out)
        written = evaluate.run_jobs(missing, conditions, out, request.root, request.quiet)
    print(f"{written} rows added to {out / rows.ROWS}", flush=True)
    if not request.force:
        return 0.0
    change = evaluate.largest_change(before, evaluate.psnr_by_identity(out))
    print(f"largest change of PSNR in rows of unchanged weights: {change:.4f} dB (allowed: {evaluate.SAME})")
    return change


def write_report(request: Request) -> None:
    """Write summary, tables, figures and pages from the rows."""
    if request.dry_run:
        return
    out = request.out
    if not (out / rows.EVALUATIONS).exists() and not (out / rows.SPEED).exists():
        raise MdrnError(f"{out}: expected a folder with {rows.EVALUATIONS}, found none; run without --report-only")
    written = report.write(out)
    print(f"{len(written)} files written; read {written[0]}")
    if out.name == OUT and report.update_readme(out.resolve().parent / "README.md", out):
        print("tables in the top README written")


def _jobs(request: Request, runs: list[Run]) -> list[evaluate.Job]:
    """List the evaluations: released networks without a plan, the plan's with one; and methods without weights."""
    files = [name for name in request.methods or () if name.endswith(".safetensors")]
    patterns = [name for name in request.methods or () if name not in files]
    usual = PLANS[request.preset].sets if request.preset else None
    sets, found = testsets.choose(request.root, request.sets or usual)
    print(found)
    available = [(method, sets) for method in methods.without_weights()]
    if request.preset is None:
        available += [(method, sets) for method in methods.networks(mdrn.list_models(), RELEASE)]
    trained = [run for run in runs if run.finished]
    outside = dict.fromkeys(run.teacher for run in trained if run.teacher and weights_exist(run.teacher))
    outside = [name for name in outside if name not in {str(run.weights) for run in trained}]
    available += [(methods.network(name, request.preset), sets) for name in outside]  # teachers are measured, too
    for run in trained:
        method = methods.network(run.weights, run.plan, run.arm, run.config.steps)
        available.append((method, request.sets or run.sets or sets))
    names = [run.config.id for run in runs if not run.finished]  # a dry run leaves them so
    chosen = evaluate.choose_methods([m for m, _ in available], patterns if request.methods else None, names)
    pairs = [(method, on) for method, on in available if method in chosen]
    pairs += [(method, sets) for method in methods.networks(files, "given")]
    jobs = [job for m, on in pairs for job in evaluate.wanted([m], on, request.levels, bool(request.sets))]
    coloured = {job.set_name for job in jobs if job.method.weights} | set(request.sets or ())
    jobs = [job for job in jobs if testsets.SETS[job.set_name].channels == 1 or job.set_name in coloured]
    return sorted(jobs, key=lambda job: list(testsets.SETS).index(job.set_name))  # each set is read once


def _fetch(request: Request) -> None:
    """Download what is missing of the images, or in a dry run say what would be."""
    configs = [run.config for run in runs_of("", PLANS[request.preset], request.out)] if request.preset else []
    folders = fetch.folders_of(request.sets, any("bsds" in c.data for c in configs))
    absent = {folder: len(fetch.missing_images(folder, request.root)) for folder in folders}
    listed = ", ".join(f"{folder} {count}" for folder, count in absent.items() if count)
    print(f"images missing in {request.root}: {listed or 'none'}", flush=True)
    if not request.dry_run:
        request.root.mkdir(parents=True, exist_ok=True)
        fetch.fetch(folders, request.root, request.fetch, request.quiet)


def _check_writable(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _parser() -> argparse.ArgumentParser:
    plans = "\n".join(f"  {name:8} {known.summary}" for name, known in PLANS.items())
    names = [*(method.name for method in methods.without_weights()), *mdrn.list_models()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.run",
        description=__doc__.split("\n\n")[0],
        epilog=f"plans:\n{plans}\n\nmethods: {', '.join(names)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")
    add = parser.add_argument
    add("--preset", choices=PLANS, help="train what is missing of this plan, then evaluate it; default: train nothing")
    add("--data-root", metavar="DIR", help="folder of image sets (Set12, BSD68, Urban100, ...); default: MDRN_DATA")
    add(
        "--fetch",
        metavar="HOST",
        nargs="?",
        const=fetch.HOST,
        help="first download the images that are missing, into the data root or else a cache; default host: GitHub",
    )
    add("--out", metavar="DIR", help="rows, tables and figures; default: results, runs/smoke for --preset smoke")
    add("--levels", metavar="L", type=float, nargs="+", help="noise levels; default: the set's, or a network's own")
    add("--protocol", choices=PROTOCOLS, default="awgn", help="default: awgn, the literature's")
    add("--methods", metavar="M", nargs="+", help="names (see below), patterns or weights files; default: all")
    add("--sets", metavar="SET", nargs="+", help=f"of {', '.join(testsets.SETS)}; default: those found, else samples")
    add("--only", metavar="RUN", nargs="+", help="with --preset: train these runs alone, ids or patterns")
    add("--teacher", metavar="T", help="with --preset: released id or weights file; default: the plan's")
    add("--seeds", metavar="S", type=int, nargs="+", help="with --preset: training seeds")
    add("--noise-seed", type=int, default=0, help="seed of the benchmark's noise; default: 0, the literature's")
    add("--jobs", type=int, default=1, help="with --preset: runs that share the machine; default: 1")
    add("--ray", metavar="ADDRESS", help="with --preset: train on a Ray cluster, 'auto' or its address; needs ray")
    add("--device", default="cpu", help="cpu or cuda; default: cpu")
    add("--lpips", choices=("alex", "none"), default="alex", help="trunk of LPIPS, none leaves it out; default: alex")
    add("--force", action="store_true", help="evaluate again what has rows already, and compare")
    add("--dry-run", action="store_true", help="say what would be done, and how long it takes here")
    add("--report-only", action="store_true", help="write tables and figures again from the rows")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def parse(arguments: list[str] | None = None) -> Request:
    """Turn the command line into a request, if its options go together and its numbers are within their limits."""
    said = _parser().parse_args(arguments)
    for name in ("only", "seeds", "teacher", "ray"):
        if getattr(said, name) and not said.preset:
            raise MdrnError(f"--{name} needs --preset {'|'.join(PLANS)}")
    for level in said.levels or []:
        if not 0 < level <= 75:
            raise MdrnError(f"--levels: expected numbers above 0, up to 75, got {level:g}")
    if said.jobs < 1:
        raise MdrnError(f"--jobs: expected at least 1, got {said.jobs}")
    if not 0 <= said.noise_seed < 2**32:
        raise MdrnError(f"--noise-seed: expected 0 to 2**32 - 1, got {said.noise_seed}")
    check_device(said.device)
    root = data_root(said.data_root)
    same = {f.name: getattr(said, f.name) for f in dataclasses.fields(Request) if hasattr(said, f.name)}
    lists = {name: tuple(value) for name, value in same.items() if isinstance(value, list)}
    out = Path(said.out or ("runs/smoke" if said.preset == "smoke" else OUT))
    lpips = said.lpips != "none" and not said.report_only and _has_lpips(said.force, out)
    made = {
        "root": root or (fetch.CACHE if said.fetch else None),
        "out": out,
        "conditions": evaluate.Conditions(said.protocol, said.noise_seed, said.device, lpips),
    }
    return Request(**same | lists | made)


def _has_lpips(force: bool, out: Path) -> bool:
    if metrics.lpips_available():
        return True
    missing = "LPIPS: the weights of its trunk (alex) are not under TORCH_HOME"
    if force and any(evaluation.lpips for evaluation in rows.read_evaluations(out)):
        raise MdrnError(f"{missing}, and --force would lose what the rows have; set TORCH_HOME, or add --lpips none")
    print(f"{missing}; its cells stay empty")
    return False


if __name__ == "__main__":
    sys.exit(main())
