"""`python -m benchmark.ablation`: what each part of the distillation is worth, on the validation split.

The arms of one seed and step budget train side by side on the same batches, the teacher's passes shared, so each one's
difference from 'plain' is paired. Killed runs go on, finished ones are not trained again. Rows, one for each image, go
to `results/hmds/ablation.csv`; page and figures are made of them. Imports `mdrn` and this package; nothing imports it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mdrn.recipe import TrainConfig
from mdrn.trainer import TrainingError

from benchmark.comparisons import paired_bootstrap
from benchmark.design import as_markdown, write_csv
from benchmark.drawing import COLOURS, MARKERS, Figure, column_axes, finish
from benchmark.plan import PLAIN, Run
from benchmark.rows import short_hash, write_bytes_atomically
from benchmark.training import seconds_per_step
from mdrn.allocator import reuse_freed_memory
from mdrn.checkpoint import CheckpointError, load, read_header
from mdrn.data import DataError, data_root, read_uint8, validation_files
from mdrn.distill import LOSSES, DistillConfig
from mdrn.model import PRESETS
from mdrn.train import fit_together, validate

ROWS, COSTS = "ablation.csv", "step_cost.csv"
STUDY = ["size", "level", "teacher", "start", "batch", "recipe", "rate", "budget"]  # what arms share
RUN = [*STUDY, "arm", "seed"]  # columns that tell runs apart
COST = ("size", "device", "optimizer", "batch_size", "patch_size")  # what a step's cost depends on
SCRATCH = "nothing"  # where runs start without --init-from


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        what: for the table.
        strategy: as in `TrainConfig`.
        distill: how the teacher guides.
        as_long_as: an arm whose cost it has: its steps are more by the ratio of the two arms' times for a step.
    """

    what: str
    strategy: str = PLAIN
    distill: DistillConfig = DistillConfig()
    as_long_as: str | None = None


ARMS: dict[str, Arm] = {
    PLAIN: Arm("no teacher"),
    "capacity": Arm("capacity: output term", "hmds_c"),
    "capacity_features": Arm("capacity: feature term", "hmds_c", DistillConfig(output_weight=0.0, feature_weight=0.1)),
    "capacity_both_terms": Arm("capacity: output and feature terms", "hmds_c", DistillConfig(feature_weight=0.1)),
    "capacity_weight_1": Arm("capacity: the teacher in place of the truth", "hmds_c", DistillConfig(1.0)),
    "noise": Arm("noise: teacher at half the level", "hmds_n"),
    "noise_quarter": Arm("noise: teacher at a quarter of the level", "hmds_n", DistillConfig(teacher_level=0.25)),
    "noise_three_quarters": Arm("noise: at three quarters of it", "hmds_n", DistillConfig(teacher_level=0.75)),
    "noise_scaled": Arm("noise: half the level, one realisation merely scaled", "hmds_n", DistillConfig(nested=False)),
    "both": Arm("capacity and noise", "hmds"),
    "both_weight_0.25": Arm("both, output weight 0.25", "hmds", DistillConfig(output_weight=0.25)),
    "both_weight_1": Arm("both, output weight 1: the teacher in place of the truth", "hmds", DistillConfig(1.0)),
    "both_to_zero": Arm("both, weight falling to 0", "hmds", DistillConfig(final_weight=0.0)),
    "plain_as_long": Arm("no teacher, as long as `both` takes", as_long_as="both"),
}

STRATEGIES = ("capacity", "noise", "both", "plain_as_long")  # drawn against the budget

PAGE = """# What the distillation strategies (HMDS) are worth

Written by `python -m benchmark.ablation`; do not edit. Validation split (32 images of BSDS500); no test set takes part.
The arms of a line's seed and budget share initial weights, batches and noise. `gain`: mean PSNR over that of `plain`,
in dB, paired by image and averaged over seeds, with the 95 % bootstrap interval over the images (it leaves out the
spread over seeds, which `by seed` shows). `start`: the weights that every arm starts from. `batch`: patches in a step x
their side. `recipe`: optimizer and loss. `rate`: peak learning rate. `budget`: training steps of every arm but
`plain_as_long`, which has more by the ratio of the times for a step (`step_cost.csv`).
"""


def config_of(arm: str, options: argparse.Namespace, seed: int, budget: int, ratio: float = 1.0) -> TrainConfig:
    """Return what trains an arm; its id is that of a size '{preset}-{arm}'."""
    chosen = ARMS[arm]
    return TrainConfig(
        preset=f"{options.size}-{arm}",
        model=PRESETS[options.size],
        noise_level=(options.level, options.level),
        strategy=chosen.strategy,
        teacher=None if chosen.strategy == PLAIN else options.teacher,
        distill=chosen.distill,
        seed=seed,
        steps=round(budget * ratio),
        batch_size=options.batch_size,
        patch_size=options.patch_size,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        loss=options.loss,
        init_from=options.init_from,
        data=tuple(options.data),
    )


def named(weights: str | None) -> str:
    """Return what rows call a weights file, '{id}@{hash}', or its absence."""
    if weights is None:
        return SCRATCH
    header = read_header(weights)
    return f"{header.id}@{header.sha256[:8]}"


def study(options: argparse.Namespace, budget: int) -> dict[str, object]:
    """Return what the arms of one comparison share, as rows have it."""
    return {
        "size": options.size,
        "level": options.level,
        "teacher": named(options.teacher),
        "start": named(options.init_from),
        "batch": f"{options.batch_size} x {options.patch_size}",
        "recipe": f"{options.optimizer}, {options.loss}",
        "rate": options.learning_rate,
        "budget": budget,
    }


def step_costs(options: argparse.Namespace, arms: list[str]) -> dict[str, float]:
    """Return each arm's time for a step, trained alone, against plain's: measured once for what `COST` names."""
    path, here = options.out / COSTS, {key: getattr(options, key) for key in COST}
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*COST, "arm", "milliseconds", "ratio"])
    same = (known[list(COST)] == pd.Series(here)).all(axis=1)
    rows = known[same]
    if missing := [arm for arm in dict.fromkeys([PLAIN, *arms]) if arm not in set(rows.arm)]:
        arms = list(dict.fromkeys([*rows.arm, PLAIN, *missing]))  # all again: ratios hold within one run
        configs = {arm: config_of(arm, options, 0, 1) for arm in arms}
        runs = {arm: [Run(config, options.out, "", config.teacher)] for arm, config in configs.items()}
        seconds = {arm: seconds_per_step(run, options.device) for arm, run in runs.items()}
        rows = pd.DataFrame(
            [here | {"arm": arm, "milliseconds": 1000 * s, "ratio": s / seconds[PLAIN]} for arm, s in seconds.items()]
        ).round(3)
        write_csv(pd.concat([known[~same], rows], ignore_index=True), path)
    return dict(zip(rows.arm, rows.ratio, strict=True))


def train(options: argparse.Namespace, seed: int, budget: int) -> dict[str, Path]:
    """Train the arms of one seed and budget, or find them trained; return their weights files."""
    root = data_root(options.data_root)
    folder = options.runs / short_hash(study(options, budget) | {"data": options.data})
    longer = [ARMS[arm].as_long_as for arm in options.only if ARMS[arm].as_long_as]
    costs = step_costs(options, longer) if longer else {}
    found: dict[str, Path] = {}
    by_steps: dict[int, list[tuple[str, TrainConfig]]] = {}
    for arm in options.only:
        config = config_of(arm, options, seed, budget, costs.get(ARMS[arm].as_long_as, 1.0))
        found[arm] = folder / f"{config.id}.safetensors"
        if not found[arm].exists():
            by_steps.setdefault(config.steps, []).append((arm, config))
    for group in by_steps.values():
        configs = [config for _, config in group]
        fit_together(configs, folder, root=root, device=options.device, validations=4, quiet=options.quiet)
    return found


def evaluate(weights: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the PSNR in dB of every validation image."""
    root = None if set(options.data) == {"samples"} else data_root(options.data_root)
    network, level = load(weights, options.device), options.level
    images = {path.stem: read_uint8(path, 1) for path in validation_files(root)}
    return {name: validate(network, [image], [level])[f"{level:g}"] for name, image in images.items()}


def add_rows(options: argparse.Namespace, seed: int, budget: int, found: dict[str, Path]) -> None:
    """Evaluate the arms' networks, and put their rows in the place of older ones of the same runs."""
    path, new = options.out / ROWS, []
    for arm, weights in found.items():
        header = read_header(weights)
        run = study(options, budget) | {"arm": arm, "seed": seed}
        run |= {"steps": header.recipe["steps"], "patches": header.patches, "weights": header.sha256[:16]}
        new += [run | {"image": image, "psnr": round(psnr, 4)} for image, psnr in evaluate(weights, options).items()]
    earlier = [pd.read_csv(path)] if path.exists() else []
    rows = pd.concat([*earlier, pd.DataFrame(new)], ignore_index=True).drop_duplicates([*RUN, "image"], keep="last")
    write_csv(rows.sort_values([*RUN, "image"]), path)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each comparison and arm: PSNR, and the gain over 'plain' where it is there.

    The gain is averaged over the seeds that both have, image by image; `low` and `high` bound it.
    """
    lines = []
    for key, runs in rows.groupby(STUDY):
        psnr = runs.pivot_table(index=["seed", "image"], columns="arm", values="psnr")
        for arm in (name for name in ARMS if name in psnr):
            line = dict(zip(STUDY, key, strict=True)) | {"arm": arm, "what": ARMS[arm].what}
            line |= {"steps": runs[runs.arm == arm].steps.max(), "psnr": psnr[arm].groupby("image").mean().mean()}
            gain = (psnr[arm] - psnr[PLAIN]).dropna() if arm != PLAIN and PLAIN in psnr else pd.Series(dtype=float)
            if len(gain):
                by_image = gain.groupby("image").mean()
                low, high = paired_bootstrap(by_image.to_numpy())
                seeds = gain.groupby("seed").mean()
                line |= {"gain": by_image.mean(), "low": low, "high": high}
                line |= {"by seed": ", ".join(f"{seed}: {value:+.3f}" for seed, value in seeds.items())}
            lines.append(line)
    columns = [*STUDY, "arm", "what", "steps", "psnr", "gain", "low", "high", "by seed"]
    return pd.DataFrame(lines).reindex(columns=columns).round({"psnr": 3, "gain": 3, "low": 3, "high": 3})


def write_page(out: Path) -> None:
    """Write `README.md` and the figures from the rows in `out`."""
    table, parts = summary(pd.read_csv(out / ROWS)), [PAGE]
    for key, lines in table.groupby(STUDY[:-1]):
        size, level, teacher, start, batch, recipe, rate = key
        parts.append(f"## {size} at level {level:g} from {start}\n")
        parts.append(f"Teacher `{teacher}`, batches of {batch} pixels, {recipe}, learning rate {rate:g}.\n")
        for figure in figures(lines, f"{size}_{level:g}_{short_hash(key)[:6]}"):
            figure.write(out)
            parts.append(f"![{figure.caption}]({figure.name}.png)\n")
        parts.append(as_markdown(lines.drop(columns=STUDY[:-1])))
    write_bytes_atomically(out / "README.md", "\n".join(parts).encode())


def figures(lines: pd.DataFrame, name: str) -> list[Figure]:
    """Draw the gains of one size and level: of every arm at the budget with most arms, and against the budget."""
    drawn, gains = [], lines.dropna(subset=["gain"])
    if gains.empty:
        return []
    budget = gains.groupby("budget").arm.nunique().sort_index(ascending=False).idxmax()
    with column_axes() as (figure, axes):
        shown = gains[gains.budget == budget].drop_duplicates("arm", keep="last").iloc[::-1]
        places = np.arange(len(shown))
        spread = [shown.gain - shown.low, shown.high - shown.gain]
        axes.errorbar(shown.gain, places, xerr=spread, fmt="o", color=COLOURS[0], elinewidth=1)
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.set_yticks(places, shown.arm)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("validation PSNR minus plain (dB)")
        caption = f"Gain over plain training after {budget} steps, with 95 % intervals over images."
        drawn.append(finish(figure, f"arms_{name}", caption))
    if gains.budget.nunique() > 1:
        with column_axes() as (figure, axes):
            for index, arm in enumerate(STRATEGIES):
                shown = gains[gains.arm == arm].drop_duplicates("budget", keep="last").sort_values("budget")
                style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "capsize": 2}
                spread = [shown.gain - shown.low, shown.high - shown.gain]
                axes.errorbar(shown.budget, shown.gain, yerr=spread, label=arm, elinewidth=0.8, **style)
            axes.axhline(0.0, color="black", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_xticks(budgets := sorted(gains.budget.unique()), [f"{budget}" for budget in budgets])
            axes.minorticks_off()
            axes.set_xlabel("training steps")
            axes.set_ylabel("validation PSNR minus plain (dB)")
            axes.legend()
            drawn.append(finish(figure, f"budgets_{name}", "Gain over plain training against the step budget."))
    return drawn


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmark.ablation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", default="teacher.plain_n0-75_s0", help="released id or weights file")
    parser.add_argument("--size", choices=[name for name, c in PRESETS.items() if c.channels == 1], default="mdrn_tiny")
    parser.add_argument("--level", type=float, default=50.0, help="noise level; default: 50")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[4000], metavar="N", help="budgets; default: 4000")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--patch-size", type=int, default=64)
    parser.add_argument("--optimizer", default=TrainConfig.optimizer)
    parser.add_argument("--loss", choices=LOSSES, default=TrainConfig.loss)
    parser.add_argument("--learning-rate", type=float, default=TrainConfig.learning_rate)
    parser.add_argument("--init-from", metavar="W", help="released id or weights file that every arm starts from")
    parser.add_argument("--data", nargs="+", default=["bsds"], help="training sets, as in `python -m mdrn train`")
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="weights and training states")
    parser.add_argument("--out", type=Path, default=Path("results/hmds"))
    parser.add_argument("--report-only", action="store_true", help="write page and figures from the rows alone")
    parser.add_argument("--quiet", action="store_true")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")
    options = parser.parse_args(arguments)
    options.only = [arm for arm in ARMS if arm in {PLAIN, *options.only}]
    options.fail = parser.error
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 2 with one line on stderr for any error. Rows of finished seeds and budgets are kept."""
    options = _parse(arguments)
    reuse_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if not options.report_only:
            for seed in options.seeds:
                for budget in options.steps:
                    add_rows(options, seed, budget, train(options, seed, budget))
        write_page(options.out)
    except (CheckpointError, DataError, TrainingError, ValueError, OSError) as error:
        options.fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
