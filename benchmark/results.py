"""Everything in a results folder as pandas frames, complete or refused.

`tables`, `figures` and `report` read from here; it imports neither torch nor `mdrn`.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from pathlib import Path

import pandas as pd

from benchmark import rows

PUBLISHED = Path(__file__).parent / "facts" / "published_psnr.csv"
RUN_ID = re.compile(r"^(?P<size>.+)\.(?P<strategy>[a-z_]+)_n(?P<levels>[\d.]+(-[\d.]+)?)_s(?P<seed>\d+)$")
SETS = ("Set12", "BSD68", "Urban100", "CBSD68", "Urban100_rgb", "samples", "samples_rgb", "samples_held_out")
AS_OVERVIEW = ("BM3D", "DnCNN-S", "FFDNet", "DRUNet")  # published methods that the top README quotes
_SHARE = re.compile(r"_(\d+)$")  # a plan named so, as 'hmds_30', has this percentage of the steps of the one with 100
WITHOUT_WEIGHTS = ("noisy", "total_variation", "wavelet", "non_local_means", "bm3d")  # in the order of tables


@dataclasses.dataclass(frozen=True)
class Results:
    """What a results folder holds.

    Args:
        images: newest rows, one per image and stage, without the estimator's.
        estimates: newest rows of the estimator.
        records: evaluation id -> provenance.
        speed: rows of the newest speed run on each machine.
    """

    images: pd.DataFrame
    estimates: pd.DataFrame
    records: dict[str, dict]
    speed: pd.DataFrame

    @functools.cached_property
    def final(self) -> pd.DataFrame:
        """The rows of the last stages: the results proper."""
        return self.images[self.images.stage == self.images.stages]

    @property
    def plans(self) -> list[str]:
        """Plans whose networks were evaluated, 'released' first; [''] if there is no network at all."""
        found = set(self.images.plan) - {""}
        return sorted(found, key=lambda plan: (plan != "released", plan)) or [""]

    @property
    def shares(self) -> dict[str, int]:
        """Plans that repeat another with a share of its steps, themselves at 100 included -> percentage."""
        found = {plan: int(share[1]) for plan in self.plans if (share := _SHARE.search(plan))}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def of_plan(self, plan: str) -> pd.DataFrame:
        """The final rows of one plan's networks and of methods without weights."""
        return self.final[self.final.plan.isin((plan, ""))]

    def parameters(self, shown: pd.DataFrame) -> int | None:
        """What the largest network behind some rows has, by their own records; None for methods without."""
        records = (self.records.get(evaluation, {}) for evaluation in shown.evaluation.unique())
        return max((record["parameters"] for record in records if record.get("parameters")), default=None)


def load(out: Path) -> Results:
    """Read and check a results folder; an empty one gives empty frames.

    Raises:
        RowsError: if a file is damaged, or an evaluation is not complete.
    """
    newest = rows.newest(rows.read(out / rows.ROWS))
    current = {(row.plan, row.method): row.weights for row in newest}
    newest = [  # a network told the level and the same one estimating it are compared: never two weights
        row
        for row in newest
        if not row.method.endswith(rows.AUTO)
        or row.weights == current.get((row.plan, row.method.removesuffix(rows.AUTO)), row.weights)
    ]
    records = rows.read_evaluations(out / rows.EVALUATIONS)
    frame = pd.DataFrame(newest, columns=[field.name for field in dataclasses.fields(rows.Row)])
    _check_complete(frame, records, out)
    frame = frame.sort_values([*rows.KEY, "image", "stage"], ignore_index=True)
    measured = ["psnr", "ssim", "lpips", "estimated_level", "seconds"]
    frame[measured] = frame[measured].astype(float)
    estimator = frame.method == rows.ESTIMATOR
    speed = pd.DataFrame(
        rows.read(out / rows.SPEED, rows.SpeedRow), columns=[field.name for field in dataclasses.fields(rows.SpeedRow)]
    )
    numeric = ["gmacs", "milliseconds", "fastest", "peak_mib"]
    speed[numeric] = speed[numeric].astype(float)
    newest_runs = (
        speed.groupby(["machine", "threads", "device", "size"]).run.transform("last") if len(speed) else speed.run
    )
    return Results(frame[~estimator], frame[estimator], records, speed[speed.run == newest_runs])


def _check_complete(frame: pd.DataFrame, records: dict[str, dict], out: Path) -> None:
    for evaluation, group in frame.groupby("evaluation", sort=False):
        if evaluation not in records:
            raise rows.RowsError(f"{out / rows.EVALUATIONS}: expected a record {evaluation}, which rows name, got none")
        expected, stages = records[evaluation]["images"], group.stages.iloc[0]
        if len(group) != expected * stages or group.duplicated(["image", "stage"]).any():
            raise rows.RowsError(
                f"{out / rows.ROWS}: expected {expected} images of {group.method.iloc[0]} on {group['set'].iloc[0]}, "
                f"{stages} stages each, once (evaluation {evaluation}), got {len(group)} rows; restore the file"
            )


@functools.cache
def published() -> pd.DataFrame:
    """Return the published numbers: method, year, params_m, gmacs_256, set, level, psnr, source."""
    with PUBLISHED.open(newline="") as file:
        frame = pd.DataFrame(list(csv.DictReader(file)))
    numeric = ["year", "params_m", "gmacs_256", "level", "psnr"]
    frame[numeric] = frame[numeric].apply(pd.to_numeric)
    return frame


def line_of(method: str) -> str:
    """Return the table line of a method: networks for one level each share a line, '{size}.{strategy}_n*_s{seed}'.

    Example:
        >>> line_of("mdrn.plain_n25_s0"), line_of("mdrn.plain_n0-75_s0+auto"), line_of("wavelet")
        ('mdrn.plain_n*_s0', 'mdrn.plain_n0-75_s0+auto', 'wavelet')
    """
    parts = RUN_ID.match(method)
    if not parts or "-" in parts["levels"]:
        return method
    return f"{parts['size']}.{parts['strategy']}_n*_s{parts['seed']}"


def order_of(line: str) -> tuple:
    """Sort key of a table line: noisy, classical, then networks by name."""
    position = WITHOUT_WEIGHTS.index(line) if line in WITHOUT_WEIGHTS else len(WITHOUT_WEIGHTS)
    return position, line


def level_text(level: float) -> str:
    """Write a noise level: 25, 12.5."""
    return f"{level:g}"
