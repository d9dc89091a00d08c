"""Rows: the record of what was measured, one per image, from which every table and figure is derived.

`rows.csv` holds the numbers, `evaluations.jsonl` how each group of them came about. Both only ever grow, are written
whole or not at all, and are refused, untouched, when damaged. Any module of `benchmark` may import this one; it
imports neither torch nor `mdrn`.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import tempfile
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

ROWS, EVALUATIONS, SPEED = "rows.csv", "evaluations.jsonl", "speed.csv"
ESTIMATOR = "estimate_noise_level"  # rows of this method hold levels, not images
AUTO = "+auto"  # suffix of a method that estimates the noise level instead of being told


class RowsError(ValueError):
    """A file of rows is damaged; it was not touched."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One image restored by one method; what cannot be measured is None, never 0.

    Args:
        plan: 'released' for released weights, else the plan that trained the run; empty for a method without weights.
        method: a run's id, '+auto' added where it estimates the noise level itself, or another method's name.
        config: hash of the configuration that trained it, or of the code of a method without weights.
        weights: first 16 digits of the SHA-256 of the weights; empty without weights.
        protocol: 'awgn' or 'clip8'.
        noise_seed: seed of the benchmark's noise.
        noise_level: standard deviation on the 8-bit scale.
        set: name of the test set.
        image: name of the image in it.
        stage: the stage that this image came out of, from 1.
        stages: how many there are; the last one's image is the result.
        psnr: in dB.
        ssim: of the last stage alone.
        lpips: of the last stage alone.
        estimated_level: the noise level that the method found for itself, on the 8-bit scale.
        seconds: wall time of all stages, on the last stage's row; see speed.csv for comparable timings.
        evaluation: id of the record in evaluations.jsonl.
    """

    plan: str
    method: str
    config: str
    weights: str
    protocol: str
    noise_seed: int
    noise_level: float
    set: str
    image: str
    stage: int
    stages: int
    psnr: float | None
    ssim: float | None
    lpips: float | None
    estimated_level: float | None
    seconds: float | None
    evaluation: str


KEY = ("plan", "method", "protocol", "noise_seed", "noise_level", "set")  # one evaluation; the last in the file counts


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """Median time of one network in one memory format, measured in turn with the others of the same run.

    Args:
        run: what the rows measured together share.
        network: name of the network or the classical denoiser.
        parameters: number of them; 0 for a classical denoiser.
        gmacs: multiply-accumulates for this image, in 10^9; None for a classical denoiser.
        memory_format: 'contiguous' or 'channels_last'; empty for a classical denoiser.
        size: side of the square grey image in pixels.
        milliseconds: median; None where it would have taken too long.
        fastest: lowest, in milliseconds.
        repeats: number of timed repeats.
        device: 'cpu' or 'cuda'.
        machine: name of the processor or GPU.
        threads: of torch.
        torch: version.
        git: commit.
        start: of the run, UTC.
        peak_mib: memory taken beyond network and image in the faster memory format, in a process of its own.
    """

    run: str
    network: str
    parameters: int
    gmacs: float | None
    memory_format: str
    size: int
    milliseconds: float | None
    fastest: float | None
    repeats: int
    device: str
    machine: str
    threads: int
    torch: str
    git: str
    start: str
    peak_mib: float | None = None


_DECIMALS = {"psnr": 4, "ssim": 5, "lpips": 5, "estimated_level": 3, "seconds": 5, "milliseconds": 2, "fastest": 2}
_DECIMALS |= {"peak_mib": 1}
RowType = TypeVar("RowType", Row, SpeedRow)


def _to_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_DECIMALS[name]}f}" if name in _DECIMALS else f"{value:g}"
    return str(value)


def _from_text(kind: object, text: str) -> object:
    if kind == float | None:
        return None if text == "" else _from_text(float, text)
    value = kind(text)
    if kind is float and math.isnan(value):
        raise ValueError("not a number")
    return value


def read(path: Path, row_type: type[RowType] = Row) -> list[RowType]:
    """Read a file of rows; a file that is not there holds none.

    Raises:
        RowsError: if anything in it is not as `append` writes it; the line is named.
    """
    if not path.exists():
        return []
    kinds = typing.get_type_hints(row_type)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, 1, "text", "bytes that are none") from error
    if not text.endswith("\n"):
        raise _damaged(path, text.count("\n") + 1, "a whole line", "a line cut short")
    result = []
    for number, fields in enumerate(csv.reader(io.StringIO(text)), start=1):
        if number == 1:
            if fields != list(kinds):
                raise _damaged(path, 1, ",".join(kinds), ",".join(fields)[:80])
            continue
        if len(fields) != len(kinds):
            raise _damaged(path, number, f"{len(kinds)} fields", f"{len(fields)}")
        values = {}
        for (name, kind), field in zip(kinds.items(), fields, strict=True):
            try:
                values[name] = _from_text(kind, field)
            except ValueError as error:
                raise _damaged(path, number, f"a number for {name}", repr(field)) from error
        result.append(row_type(**values))
    return result


def append(path: Path, new: Iterable[RowType], row_type: type[RowType] = Row) -> None:
    """Add rows to a file, all or none of them; two processes may do so at once.

    Raises:
        RowsError: if the file that is there is damaged; it is left as it was.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in new:
        writer.writerow([_to_text(field.name, getattr(row, field.name)) for field in dataclasses.fields(row_type)])
    header = ",".join(field.name for field in dataclasses.fields(row_type)) + "\n"
    with _lock(path):
        read(path, row_type)
        earlier = path.read_text(encoding="utf-8") if path.exists() else header
        write_atomically(path, earlier + text.getvalue())


def read_evaluations(path: Path) -> dict[str, dict]:
    """Read evaluations.jsonl: id -> record; a file that is not there holds none.

    Raises:
        RowsError: if a line is damaged.
    """
    records: dict[str, dict] = {}
    if not path.exists():
        return records
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            record = json.loads(line)
            records[record["id"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, number, "a JSON record with an id", line[:60]) from error
    return records


def append_evaluation(path: Path, record: Mapping[str, object]) -> None:
    """Add one record to evaluations.jsonl, atomically.

    Raises:
        RowsError: if the file that is there is damaged; it is left as it was.
    """
    with _lock(path):
        read_evaluations(path)
        earlier = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomically(path, earlier + json.dumps(record, sort_keys=True) + "\n")


def newest(all_rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the newest evaluation of each plan, method, protocol, seed, level and set."""
    last: dict[tuple, str] = {}
    listed = list(all_rows)
    for row in listed:
        last[tuple(getattr(row, name) for name in KEY)] = row.evaluation
    return [row for row in listed if last[tuple(getattr(row, name) for name in KEY)] == row.evaluation]


def short_hash(value: object) -> str:
    """Return 16 hexadecimal digits that stand for a JSON-able value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: `mdrn.checkpoint` has the same, but importing it loads torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _lock(path: Path):
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path.parent / ".rows.lock", timeout=60)


def _damaged(path: Path, line: int, expected: str, got: str) -> RowsError:
    return RowsError(
        f"{path}, line {line}: expected {expected}, got {got}; nothing was written: restore the file, or move it away"
    )
