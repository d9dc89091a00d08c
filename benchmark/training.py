"""Training what a plan is missing: runs of one group side by side, groups one after another or several at once.

A finished run is never done again, a killed one goes on where it stopped, and two processes never do the same one.
`run` imports this module.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import filelock
import torch
from mdrn.recipe import TrainConfig
from mdrn.trainer import Trainer, build_criterion, draw_batch

from benchmark.plan import Run, groups_of, teacher_missing, weights_exist
from benchmark.report import CURVES
from benchmark.rows import short_hash, write_atomically
from mdrn import checkpoint, train
from mdrn.data import PatchSource, read_uint8, sample_files
from mdrn.distill import Guide
from mdrn.teacher import TEACHERS

_WARM_STEPS, _TIMED_STEPS = 3, 8


class PlanError(ValueError):
    """A plan cannot be carried out; the message says what it lacks."""


def train_group(
    runs: list[Run], root: Path | None, device: str, threads: int | None = None, quiet: bool = False
) -> list[Path]:
    """Train what is unfinished of a group side by side, waiting for another process that is at it; keep the curves.

    Returns:
        The weights files.
    """
    if threads:
        torch.set_num_threads(threads)
    with runs[0].lock():
        waiting = [run for run in runs if not run.finished]
        if waiting:
            guides: dict[str, Guide] = {}
            criteria = [build_criterion(_taught(run.config, run.teacher), guides) for run in waiting]
            train.fit_together(
                [run.config for run in waiting],
                waiting[0].workplace,
                root=root,
                device=device,
                criteria=criteria,
                validations=waiting[0].validations,
                quiet=quiet,
            )
            for run in waiting:
                run.keep()
        for run in runs:
            write_atomically(run.out / CURVES / run.plan / run.curve.name, run.curve.read_text())
    return [run.weights for run in runs]


def _taught(config: TrainConfig, teacher: str | None) -> TrainConfig:
    """Return the configuration with the file of its teacher in place of the teacher's name."""
    return dataclasses.replace(config, teacher=teacher if config.teacher else None)


def train_all(runs: list[Run], root: Path | None, device: str, jobs: int = 1, quiet: bool = False) -> None:
    """Train what is missing: the plan's own teacher, then `jobs` groups at a time, those that others are at last.

    Raises:
        PlanError: if a teacher is missing; nothing is trained.
        TrainingError: if a run fails; the others' results are kept.
    """
    first, rest = in_order(runs)
    for group in first + rest if jobs == 1 else first:
        train_group(group, root, device, quiet=quiet)
    if jobs == 1:
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(train_group, group, root, device, threads, quiet) for group in rest]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def in_order(runs: list[Run]) -> tuple[list[list[Run]], list[list[Run]]]:
    """Return the groups with something to train: teachers that others wait for, and the rest, in hand elsewhere last.

    Raises:
        PlanError: if a teacher is missing.
    """
    waiting = [run for run in runs if not run.finished]
    check_teachers(waiting, runs)
    groups = sorted(groups_of(waiting), key=_in_hand)
    needed = {run.teacher for run in waiting}
    first = [group for group in groups if str(group[0].weights) in needed]
    return first, [group for group in groups if group not in first]


def check_teachers(wanted: list[Run], runs: list[Run]) -> None:
    """See that each run that is to be trained has its teacher, or that it is one of `runs`.

    Raises:
        PlanError: if not.
    """
    for run in wanted:
        if teacher_missing(run, runs):
            raise PlanError(
                f"{run.config.id}: its teacher {run.teacher} is neither released nor a file; train it (`python -m mdrn "
                "train --preset teacher --noise-level 0-75`) and give --teacher FILE, or train --only '*.plain_*'"
            )


def _in_hand(group: list[Run]) -> bool:
    lock = group[0].lock()
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def seconds_per_step(runs: list[Run], device: str) -> float:
    """Measure how long a step of these runs side by side takes here, on bundled photographs and without a trace.

    A teacher that is not there yet is stood in for by an untrained one.
    """
    config, target = runs[0].config, torch.device(device)
    source = PatchSource.from_images([read_uint8(path, config.model.channels) for path in sample_files()[2:]], target)
    with tempfile.TemporaryDirectory(prefix="mdrn-timing-") as folder:
        guides: dict[str, Guide] = {}
        configs = [_taught(run.config, _teacher_or_stand_in(run, Path(folder))) for run in runs]
        trainers = [Trainer(config, build_criterion(config, guides), target) for config in configs]
    for step in range(_WARM_STEPS + _TIMED_STEPS):
        if step == _WARM_STEPS:
            began = time.perf_counter()
        batch = draw_batch(config, source, step)
        for trainer in trainers:
            trainer.train_step(*batch)
            trainer.check_finite()
    return (time.perf_counter() - began) / _TIMED_STEPS


def _teacher_or_stand_in(run: Run, folder: Path) -> str | None:
    if run.teacher is None or weights_exist(run.teacher):
        return run.teacher
    path, config = folder / f"teacher{checkpoint.SUFFIX}", TEACHERS["teacher"]
    if not path.exists():
        header = checkpoint.Header(
            id="teacher",
            model=config,
            noise_level=(0.0, 75.0),
            strategy="plain",
            seed=0,
            patches=0,
            recipe={},
            data={},
            git="",
            torch=torch.__version__,
            architecture="teacher",
        )
        checkpoint.write_weights(path, config.build(), header)
    return str(path)


def remaining_seconds(runs: list[Run], device: str) -> dict[str, float]:
    """Return how long each unfinished run still takes on this machine, by its id: measured once for each kind of group.

    Runs side by side have equal shares of their group's time.
    """
    measured: dict[str, float] = {}
    left = {}
    for group in groups_of([run for run in runs if not run.finished]):
        config = group[0].config
        strategies = [run.config.strategy for run in group]
        key = short_hash([dataclasses.asdict(config.model), config.batch_size, config.patch_size, strategies])
        if key not in measured:
            measured[key] = seconds_per_step(group, device)
        seconds = measured[key] * (config.steps - min(run.steps_done for run in group))
        left |= {run.config.id: seconds / len(group) for run in group}
    return left
