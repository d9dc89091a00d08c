"""Which evaluations are wanted, which of them are missing, and doing those. `run` imports this module."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmark import rows, testsets
from benchmark.evaluate import ESTIMATOR_LEVELS, Conditions, evaluate, evaluate_estimator
from benchmark.methods import BM3D, NOISY, Method, estimator_key
from benchmark.rows import ESTIMATOR, Row
from mdrn.data import DataError
from mdrn.noise import estimate_noise_level

SLOW_SETS = ("Urban100", "Urban100_rgb")  # classical methods take hours there: only if the set is asked for
SAME = 0.005  # dB: rows of unchanged weights come again at least this close


class MethodError(ValueError):
    """No method answers to a name."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One evaluation to do.

    Args:
        method: what restores; None is the noise-level estimator.
        set_name: on which test set.
        noise_level: standard deviation on the 8-bit scale.
    """

    method: Method | None
    set_name: str
    noise_level: float

    @property
    def name(self) -> str:
        """The method's name as rows have it."""
        return self.method.name if self.method else ESTIMATOR

    def identity(self, conditions: Conditions) -> tuple:
        """Return what a row of exactly this job has in its key columns, weights included."""
        key = self.method.key() if self.method else estimator_key()
        return (*key.values(), conditions.protocol, conditions.noise_seed, self.noise_level, self.set_name)


def identity_of(row: Row) -> tuple:
    """Return `Job.identity` of the job that wrote a row."""
    return (
        *(row.plan, row.method, row.config, row.weights),
        *(row.protocol, row.noise_seed, row.noise_level, row.set),
    )


def choose_sets(root: Path | None, asked: list[str] | None) -> tuple[list[str], str]:
    """Return the test sets to use, and a sentence on what was found where.

    Raises:
        DataError: if a set that was asked for is unknown or not there.
    """
    if asked:
        for name in asked:
            if name not in testsets.SETS:
                raise DataError(f"--sets: expected some of {', '.join(testsets.SETS)}, got {name!r}")
            if testsets.SETS[name].folder and testsets.find_folder(name, root) is None:
                raise DataError(
                    f"{name}: not found in {root or 'any data root'}; give --data-root, set MDRN_DATA, or --fetch it"
                )
        return asked, f"test sets: {', '.join(asked)}"
    found, absent = testsets.sets_found(root)
    if not found:
        where = f"no test set found in {root}" if root else "no data root given (--data-root or MDRN_DATA, or --fetch)"
        return ["samples", "samples_rgb"], f"{where}: evaluating on scikit-image's bundled photographs"
    missing = f"; not found: {', '.join(absent)}" if absent else ""
    return found, f"test sets in {root}: {', '.join(found)}{missing}"


def choose_methods(methods: list[Method], asked: list[str] | None, untrained: Sequence[str] = ()) -> list[Method]:
    """Keep the methods whose names match one of the patterns asked for; None keeps all but those on request.

    Args:
        methods: those there are.
        asked: patterns.
        untrained: names of networks that will be there once they are trained.

    Raises:
        MethodError: if a pattern matches nothing.
    """
    names = [*(method.name for method in methods), *untrained, ESTIMATOR]
    for pattern in asked or []:
        if pattern == BM3D and BM3D not in names:
            raise MethodError("--methods bm3d: not installed; `pip install bm3d` (its licence: non-commercial use)")
        if not fnmatch.filter(names, pattern):
            raise MethodError(f"--methods: expected some of {', '.join(names)}, got {pattern!r}")
    if asked is None:
        return [method for method in methods if not method.on_request]
    return [method for method in methods if any(fnmatch.fnmatch(method.name, pattern) for pattern in asked)]


def wanted_jobs(
    methods: list[Method], sets: list[str], levels: tuple[float, ...] | None, asked_sets: bool, estimator: bool
) -> list[Job]:
    """List the evaluations, set by set.

    Colour sets are for colour networks; methods without weights join them there, or where the set was asked for. On
    large sets the slow ones among them join only where the set was asked for.

    Args:
        methods: what to evaluate.
        sets: names of test sets.
        levels: noise levels; None leaves the choice to each method.
        asked_sets: whether the sets were named by the user.
        estimator: whether to measure the noise-level estimator, on BSD68 or the samples.
    """
    colour_network = any(m.weights and 3 in m.channels for m in methods)
    jobs = []
    for name in sets:
        channels = testsets.SETS[name].channels
        if channels == 3 and not (colour_network or asked_sets):
            continue
        for method in methods:
            slow = name in SLOW_SETS and not (method.weights or asked_sets or method.name == NOISY)
            if channels in method.channels and not slow:
                jobs += [Job(method, name, level) for level in method.levels_among(levels)]
        if estimator and name in ("BSD68", "samples"):
            jobs += [Job(None, name, level) for level in levels or ESTIMATOR_LEVELS]
    return jobs


def missing_jobs(jobs: list[Job], conditions: Conditions, out: Path) -> list[Job]:
    """Return the jobs whose newest rows are not of exactly these weights and this code."""
    done = {identity_of(row) for row in rows.newest(rows.read(out / rows.ROWS))}
    return [job for job in jobs if job.identity(conditions) not in done]


def seconds_left(jobs: list[Job], conditions: Conditions) -> float:
    """Measure how long evaluations take here: each kind of method on a crop, twice, the first time not counted."""
    per_pixel: dict[tuple, float] = {}
    total = 0.0
    for job in jobs:
        channels = testsets.SETS[job.set_name].channels
        network = job.method.header.model if job.method and job.method.header else job.name
        kind = (network, channels, job.method is not None and job.method.estimate is not None)
        if kind not in per_pixel:
            image = testsets.load("samples_rgb" if channels == 3 else "samples").images["coffee"][:192, :320]
            crop = testsets.TestSet("crop", channels, {"coffee": image})
            for _ in range(2):
                record, _ = _evaluate(job, crop, conditions)
            per_pixel[kind] = record["seconds"] / (image.shape[0] * image.shape[1])
        total += per_pixel[kind] * testsets.pixels(job.set_name)
    return total


def _evaluate(
    job: Job, test_set: testsets.TestSet, conditions: Conditions, on_image: Callable[[], object] = lambda: None
) -> tuple[dict[str, object], list[Row]]:
    if job.method:
        return evaluate(job.method, test_set, job.noise_level, conditions, on_image)
    return evaluate_estimator(estimate_noise_level, test_set, job.noise_level, conditions, on_image)


def run_jobs(jobs: list[Job], conditions: Conditions, out: Path, root: Path | None, quiet: bool = False) -> int:
    """Do evaluations one after another; each one's rows are written when it is complete.

    Returns:
        The number of rows written.

    Raises:
        DataError: if a test set is not what it should be.
        EvaluationError: if a method fails on an image.
        RowsError: if the files of rows are damaged.
    """
    written = 0
    total = sum(testsets.count(job.set_name) for job in jobs)
    test_set = None
    with tqdm(total=total, unit="image", disable=quiet, mininterval=0.5) as bar:
        for job in jobs:
            if test_set is None or test_set.name != job.set_name:
                bar.set_description_str(f"reading {job.set_name}")
                test_set = testsets.load(job.set_name, root)
            bar.set_description_str(f"{job.set_name} {job.noise_level:g} {job.name}")
            record, new = _evaluate(job, test_set, conditions, bar.update)
            rows.append_evaluation(out / rows.EVALUATIONS, record)
            rows.append(out / rows.ROWS, new)
            written += len(new)
    return written


def largest_change(earlier: list[Row], later: list[Row]) -> float:
    """Return the largest PSNR difference in dB between rows of the same weights, image and stage; 0 without any."""
    before = {(*identity_of(row), row.image, row.stage): row.psnr for row in earlier}
    changes = [0.0]
    for row in later:
        psnr = before.get((*identity_of(row), row.image, row.stage))
        if psnr is not None and row.psnr is not None and psnr != row.psnr:
            changes.append(abs(psnr - row.psnr))
    return max(changes)
