"""A results folder as pandas frames, and the tidy tables that everything else is drawn from.

`summary.csv` has one line for each method, test set and noise level, measured here or published; `gains.csv` one for
each comparison of a distilled with a plain network. `tables`, `figures`, `report` and `publish` import this module.
"""

import dataclasses
import functools
import re
from pathlib import Path

import pandas as pd

from benchmark import compare, rows
from benchmark.testsets import FACTS
from mdrn.denoiser import MdrnError

SUMMARY, GAINS = "summary.csv", "gains.csv"
PUBLISHED = "published"  # the plan of what others printed
RUN_ID = re.compile(
    r"^(?P<size>.+)\.(?P<strategy>[a-z][a-z0-9_]*)_n(?P<trained>[\d.]+(-[\d.]+)?)_s(?P<seed>\d+)(\+auto)?$"
)
COLUMNS = ["plan", "method", "size", "strategy", "trained", "seed", "arm", "steps", "set", "level", "protocol"]
COLUMNS += ["noise_seed", "images", "psnr", "ssim", "lpips", "estimated", "level_error", "stages", "parameters"]
COLUMNS += ["gmacs", "ms_512", "weights", "source"]  # of summary.csv
_DECIMALS = {"psnr": 3, "ssim": 4, "lpips": 4, "estimated": 2, "level_error": 2, "gmacs": 3, "ms_512": 1}
_DECIMALS |= {"plain": 3, "distilled": 3, "gain": 4, "low": 4, "high": 4}
_DECIMALS |= dict.fromkeys(("seed", "steps", "noise_seed", "images", "parameters"), 0)
_TEXT = ("size", "strategy", "trained", "arm", "stages", "weights", "source")  # empty where they do not apply
_TIMED_AS = {"DnCNN-S": "DnCNN", "FFDNet": "FFDNet"}  # published name: name in speed.csv


@dataclasses.dataclass(frozen=True)
class Results:
    """What a results folder holds."""

    summary: pd.DataFrame  # the lines of summary.csv
    gains: pd.DataFrame  # the lines of gains.csv
    speed: pd.DataFrame  # rows of the newest speed run on each machine
    runs: pd.DataFrame  # what training cost and gave
    curves: pd.DataFrame  # validation in the course of those runs
    evaluations: pd.DataFrame  # how the numbers came about


def load(out: Path) -> Results:
    """Read and check a results folder; an empty one gives empty frames.

    Raises:
        MdrnError: if a file is damaged, or an evaluation is not complete.
    """
    evaluations = _frame(rows.read_evaluations(out), rows.Evaluation)
    plans = sorted(set(evaluations.plan))
    images = _frame([row for plan in plans for row in rows.read(rows.rows_path(out, plan), rows.Row)], rows.Row)
    images = images[images.evaluation.isin(evaluations.id)]
    _check_complete(images, evaluations, out)
    shared = evaluations.drop(columns=["lpips", "seconds"]).rename(columns={"id": "evaluation"})
    joined = images.merge(shared, on="evaluation")
    joined = joined.join(joined.method.str.extract(RUN_ID)[["size", "strategy", "trained", "seed"]])
    speed = _frame(rows.read(out / rows.SPEED, rows.SpeedRow), rows.SpeedRow)
    speed = speed[speed.run == speed.groupby(["machine", "threads", "device", "size"]).run.transform("last")]
    runs = _frame(rows.read(out / rows.RUNS, rows.RunRow), rows.RunRow)
    paths = [out / rows.CURVES / f"{plan}.csv" for plan in sorted(set(runs.plan))]
    curves = _frame([point for path in paths for point in rows.read(path, rows.CurvePoint)], rows.CurvePoint)
    summary = pd.concat([_means(joined), _published()], ignore_index=True)
    text = summary[list(_TEXT)].astype(object).fillna("").astype(str)
    summary = summary.assign(ms_512=_milliseconds(summary, speed), **text)
    numbers = {name: float for name in COLUMNS if name not in (*_TEXT, "plan", "method", "set", "protocol")}
    order = ["plan", "method", "arm", "steps", "set", "level", "protocol", "noise_seed"]
    summary = summary[COLUMNS].astype(numbers).sort_values(order, ignore_index=True)
    return Results(summary, compare.gains(joined), speed, runs, curves, evaluations)


def as_csv(frame: pd.DataFrame) -> str:
    """Write a frame as CSV, its numbers with `_DECIMALS` or, without such, as short as they are."""
    shown = frame.copy()
    for name in frame:
        if name in _DECIMALS or frame[name].dtype.kind == "f":
            form = f".{_DECIMALS[name]}f" if name in _DECIMALS else "g"
            shown[name] = ["" if pd.isna(value) else format(float(value), form) for value in frame[name]]
    return shown.to_csv(index=False, lineterminator="\n")


def _frame(records: list, kind: type) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=[field.name for field in dataclasses.fields(kind)])
    numbers = {f.name: float for f in dataclasses.fields(kind) if f.type in (float, float | None, int | None)}
    return frame.astype(numbers)


def _check_complete(images: pd.DataFrame, evaluations: pd.DataFrame, out: Path) -> None:
    found = images.groupby("evaluation").image.agg(["size", "nunique"]).reindex(evaluations.id, fill_value=0)
    for (number, count), expected in zip(found.iterrows(), evaluations.itertuples(), strict=True):
        if not count["size"] == count["nunique"] == expected.images:
            raise MdrnError(
                f"{rows.rows_path(out, expected.plan)}: expected {expected.images} images of {expected.method} on "
                f"{expected.set} (evaluation {number}), each once, got {count['size']} rows; restore the file"
            )


def _means(joined: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the images of each evaluation."""
    joined = joined.assign(level_error=(joined.estimated - joined.level).abs())
    groups = joined.groupby("evaluation", sort=False)
    means = groups[["psnr", "ssim", "lpips", "estimated", "level_error"]].agg(lambda scores: scores.mean(skipna=False))
    return groups.first().assign(**means, stages=groups.stages.agg(_stages))


def _stages(texts: pd.Series) -> str:
    table = texts.str.split(expand=True).astype(float)
    return " ".join(f"{mean:.3f}" for mean in table.mean())


@functools.cache
def _published() -> pd.DataFrame:
    """Return what others printed, as lines of the summary."""
    frame = pd.read_csv(FACTS / "published_psnr.csv")
    frame = frame.assign(plan=PUBLISHED, protocol="awgn", parameters=frame.params_m * 1e6, gmacs=frame.gmacs_256)
    frame = frame.assign(strategy="", arm="", size=frame.method, stages="", weights="")
    kept = ["plan", "method", "size", "arm", "set", "level", "protocol", "psnr", "parameters", "gmacs", "source"]
    return frame.assign(source=frame.year.astype(str) + ", " + frame.source)[kept]


def _milliseconds(summary: pd.DataFrame, speed: pd.DataFrame) -> list[float | None]:
    """Return each line's time for 512 x 512 on the CPU, of a network with this name and so many parameters."""
    on_cpu = speed[(speed.device == "cpu") & (speed["size"] == 512)]
    times = on_cpu.groupby(["network", "parameters"]).milliseconds.min().to_dict()
    found = []
    for line in summary.itertuples():
        if line.plan == PUBLISHED:
            own = [ms for (name, _), ms in times.items() if name == _TIMED_AS.get(line.method)]
            found.append(own[0] if own else None)
        elif pd.isna(line.parameters):
            found.append(times.get((line.method.removesuffix(rows.AUTO), 0)))
        else:
            found.append(times.get((line.size, line.parameters)))
    return found
