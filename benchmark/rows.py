"""Rows: what was measured, as CSV files of typed records, from which everything else in a results folder is derived.

A file is written whole or not at all, and refused, untouched, when it is damaged. An evaluation counts once its record
is there; a newer one of the same method on the same images takes its place. Any module of `benchmark` may import this.
"""

import csv
import dataclasses
import hashlib
import io
import json
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import filelock

from mdrn.denoiser import MdrnError
from mdrn.files.writing import write_atomically

EVALUATIONS, SPEED, RUNS = "evaluations.csv", "speed.csv", "runs.csv"
ROWS, CURVES = "rows", "curves"  # folders with one file for each plan
RELEASE = "release"  # the plan of what comes with the package
BASELINES = "baselines"  # the plan of methods without weights
ESTIMATOR = "estimate_noise_level"  # its rows hold levels, not images
AUTO = "+auto"  # suffix of a method that estimates the noise level instead of being told


@dataclasses.dataclass(frozen=True)
class Row:
    """One image restored by one method; what was not measured is None, never 0."""

    evaluation: str  # id of its `Evaluation`
    image: str  # name of the image in the test set
    psnr: float | None = None  # in dB
    ssim: float | None = None  # structural similarity
    lpips: float | None = None  # perceptual distance
    estimated: float | None = None  # the noise level that the method found for itself, on the 8-bit scale
    stages: str = ""  # PSNR after each stage but the last, such as '27.10 28.33'; empty without such stages


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the rows of one method on one test set at one noise level came about."""

    id: str  # what its rows name
    plan: str  # the plan that its network belongs to; 'release' for those in the package, 'baselines' without weights
    method: str  # a run's id, or the name of another method; '+auto' at its end where the level was estimated
    arm: str  # of the plan, see `benchmark.plan.Group`
    steps: int | None  # of training
    set: str  # name of the test set
    level: float | None  # of the noise on the 8-bit scale; None where the images came with noise of unknown level
    protocol: str  # 'awgn', 'clip8', or what the test set says of its own noise
    noise_seed: int  # of the benchmark's noise
    weights: str  # first 16 digits of the SHA-256 of the weights
    code: str  # hash of the source of a method without weights, or of the estimator
    images: int  # how many rows it has
    pixels: str  # first 16 digits of the SHA-256 over the images
    lpips: str  # trunk of LPIPS; empty where it was not computed
    parameters: int | None  # of the network
    gmacs: float | None  # multiply-accumulates for 256 x 256, in 10^9
    seconds: float  # for all images
    device: str  # name of the processor or GPU, and torch's threads
    torch: str  # version
    git: str  # commit
    start: str  # UTC

    @property
    def place(self) -> tuple:
        """What a newer evaluation must share to take this one's place."""
        steps = None if self.plan == RELEASE else self.steps  # a released name is one network, however long it took
        return (self.plan, self.method, self.arm, steps, self.set, self.level, self.protocol, self.noise_seed)

    @property
    def identity(self) -> tuple:
        """What makes it the same measurement: done again, it gives the same numbers."""
        run = (self.plan, self.method, self.arm, self.steps)
        return (*run, self.set, self.level, self.protocol, self.noise_seed, self.weights, self.code)


@dataclasses.dataclass(frozen=True)
class RunRow:
    """What one training run cost and what it gave."""

    config: str  # hash of its whole configuration, see `benchmark.plan.config_hash`
    plan: str  # the plan that trained it
    run: str  # its id
    arm: str  # of the plan
    steps: int  # how many it took
    minutes: float | None  # of training, None if not recorded; on a CPU those of one core's work, whatever else it did
    device: str  # what it ran on
    threads: int  # of torch
    teacher: str  # id of its teacher
    validation: str  # PSNR in dB on the validation images, such as '15:30.850 25:28.440'


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """Validation in the course of a run: PSNR in dB at one noise level after so many steps."""

    config: str
    step: int
    level: float
    psnr: float


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """Median time of one network in one memory format, measured in turn with the others of the same run."""

    run: str  # what the rows measured together share
    network: str  # name of the network or the classical denoiser
    parameters: int  # number of them; 0 for a classical denoiser
    gmacs: float | None  # multiply-accumulates for this image, in 10^9; None for a classical denoiser
    memory_format: str  # 'contiguous' or 'channels_last'; empty for a classical denoiser
    size: int  # side of the square grey image in pixels
    milliseconds: float | None  # median; None where it would have taken too long
    fastest: float | None  # lowest, in milliseconds
    repeats: int  # number of timed repeats
    device: str  # 'cpu' or 'cuda'
    machine: str  # name of the processor or GPU
    threads: int  # of torch
    torch: str  # version
    git: str  # commit
    start: str  # of the run, UTC
    # memory taken beyond network and image in the faster memory format, in a process of its own
    peak_mib: float | None = None


_DECIMALS = {"psnr": 3, "ssim": 4, "lpips": 4, "estimated": 2, "seconds": 1, "minutes": 1, "gmacs": 4}
_DECIMALS |= {"milliseconds": 2, "fastest": 2, "peak_mib": 1}
Record = TypeVar("Record", Row, Evaluation, RunRow, CurvePoint, SpeedRow)


def _to_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_DECIMALS[name]}f}" if name in _DECIMALS else f"{value:g}"
    return str(value)


def _from_text(kind: object, text: str) -> object:
    of, *optional = typing.get_args(kind) or (kind,)
    if optional and not text:
        return None
    value = of(text)
    if value != value:
        raise ValueError("not a number")
    return value


def read(path: Path, kind: type[Record]) -> list[Record]:
    """Read a file of records; a file that is not there holds none.

    Raises:
        MdrnError: if anything in it is not as `write` writes it; the line is named.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, 1, "UTF-8 text", "other bytes") from error
    if not text.endswith("\n"):
        raise _damaged(path, text.count("\n") + 1, "a whole line", "a line cut short")
    kinds = typing.get_type_hints(kind)
    lines = csv.reader(io.StringIO(text))
    if (header := next(lines)) != list(kinds):
        raise _damaged(path, 1, ",".join(kinds), ",".join(header)[:80])
    records = []
    for number, fields in enumerate(lines, start=2):
        if len(fields) != len(kinds):
            raise _damaged(path, number, f"{len(kinds)} fields", f"{len(fields)}")
        values = {}
        for (name, of), field in zip(kinds.items(), fields, strict=True):
            try:
                values[name] = _from_text(of, field)
            except ValueError as error:
                raise _damaged(path, number, f"a number for {name}", repr(field)) from error
        records.append(kind(**values))
    return records


def write(path: Path, records: Iterable[Record], kind: type[Record]) -> None:
    """Write a file of records, whole or not at all."""
    names, text = [field.name for field in dataclasses.fields(kind)], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_to_text(name, getattr(record, name)) for name in names] for record in records)
    write_atomically(path, text.getvalue().encode())


def append(path: Path, new: Iterable[Record], kind: type[Record], replaces: Callable | None = None) -> None:
    """Add records at the end of a file, all or none of them; two processes may do so at once.

    `replaces` gives a record's key: what has the key of a new record goes. None keeps everything as it is.

    Raises:
        MdrnError: if the file that is there is damaged; it is left as it was.
    """
    added = list(new)
    with lock(path.parent):
        fresh = {replaces(record) for record in added} if replaces else set()
        kept = [record for record in read(path, kind) if replaces is None or replaces(record) not in fresh]
        write(path, kept + added, kind)


def rows_path(out: Path, plan: str) -> Path:
    """Return the file with the rows of a plan."""
    return out / ROWS / f"{plan}.csv"


def add_evaluation(out: Path, evaluation: Evaluation, rows: list[Row]) -> None:
    """Add an evaluation to a results folder; the one whose place it takes goes, with its rows."""
    with lock(out):
        path = rows_path(out, evaluation.plan)
        append(path, rows, Row)
        append(out / EVALUATIONS, [evaluation], Evaluation, replaces=lambda e: e.place)
        counted = {e.id for e in read_evaluations(out)}
        there = read(path, Row)
        kept = [row for row in there if row.evaluation in counted]
        if len(kept) < len(there):
            write(path, kept, Row)


def read_evaluations(out: Path) -> list[Evaluation]:
    """Read the evaluations of a results folder, oldest first."""
    return read(out / EVALUATIONS, Evaluation)


def short_hash(value: object) -> str:
    """Return 16 hexadecimal digits that stand for a JSON-able value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lock(folder: Path) -> filelock.BaseFileLock:
    """Return the lock of a folder's files; whoever holds it may take it again."""
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder.resolve() / ".rows.lock", timeout=60, is_singleton=True)


def _damaged(path: Path, line: int, expected: str, got: str) -> MdrnError:
    return MdrnError(
        f"{path}, line {line}: expected {expected}, got {got}; nothing was written: restore the file, or move it away"
    )
