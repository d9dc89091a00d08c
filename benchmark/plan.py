"""Plans: which networks to train, told apart by a hash of everything that decides a run, and training what is missing.

A finished run is never done again, a killed one goes on where it stopped, and two processes never do the same one.
`run` imports this module.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock
import torch

from benchmark.report import CURVES
from benchmark.rows import short_hash, write_atomically
from mdrn import train
from mdrn.checkpoint import read_header
from mdrn.data import PatchSource, read_uint8, sample_files
from mdrn.recipe import TrainConfig
from mdrn.trainer import Trainer, build_criterion, draw_batch

RUNS = "runs"  # folder under --out with the training state; not for git
_TIMED_STEPS = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes x strategies x levels x seeds, all else equal.

    Args:
        name: of the preset; rows carry it.
        summary: one line for --help.
        sizes: presets of `mdrn.model.PRESETS`.
        strategies: as in `TrainConfig.strategy`.
        levels: one network is trained for each noise level.
        seeds: of training.
        options: other fields of `TrainConfig`.
        sets: test sets; None takes what is found.
        validations: how often a run is validated, for its curve.
        teacher: released id or file of the teacher of every strategy but 'plain'.
    """

    name: str
    summary: str
    sizes: tuple[str, ...]
    strategies: tuple[str, ...]
    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    options: Mapping[str, object]
    sets: tuple[str, ...] | None = None
    validations: int = 10
    teacher: str | None = None

    def configs(self) -> list[TrainConfig]:
        """Return the configuration of every run, plain before distilled ones."""
        grid = itertools.product(self.sizes, self.strategies, self.levels, self.seeds)
        return [
            TrainConfig(
                preset=size,
                strategy=strategy,
                teacher=None if strategy == "plain" else self.teacher,
                noise_level=(level, level),
                seed=seed,
                **self.options,
            )
            for size, strategy, level, seed in grid
        ]


_SMOKE = {"steps": 120, "batch_size": 8, "patch_size": 48, "data": ("samples",), "warmup_steps": 10, "ema_decay": 0.98}

PLANS: dict[str, Plan] = {
    "smoke": Plan(
        name="smoke",
        summary="tiny networks, seconds of training on bundled photographs, tested on two others: shows that all works",
        sizes=("mdrn_tiny",),
        strategies=("plain",),
        levels=(25.0, 50.0),
        seeds=(0,),
        options=_SMOKE,
        sets=("samples_held_out",),
        validations=4,
    ),
    "quick": Plan(
        name="quick",
        summary="both sizes, short runs, one seed: an hour or two on two cores, minutes on a GPU",
        sizes=("mdrn_tiny", "mdrn"),
        strategies=("plain",),
        levels=(15.0, 25.0, 50.0),
        seeds=(0,),
        options={"steps": 3_000},
    ),
    "full": Plan(
        name="full",
        summary="both sizes, full runs, three seeds: for a GPU",
        sizes=("mdrn_tiny", "mdrn"),
        strategies=("plain",),
        levels=(15.0, 25.0, 50.0),
        seeds=(0, 1, 2),
        options={"steps": 40_000},
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a plan in a results folder.

    Args:
        config: everything that decides its result.
        out: the results folder.
        validations: see `Plan`.
    """

    config: TrainConfig
    out: Path
    validations: int = 10

    @property
    def folder(self) -> Path:
        """Where its state and weights lie; the hash of the whole configuration is in the name."""
        return self.out / RUNS / f"{self.config.id}-{config_hash(self.config)}"

    @property
    def weights(self) -> Path:
        """Its weights file, there once it is finished."""
        return self.folder / f"{self.config.id}.safetensors"

    @property
    def finished(self) -> bool:
        """Whether its weights are there and whole."""
        return self.weights.is_file() and read_header(self.weights).id == self.config.id

    @property
    def state(self) -> str:
        """'done', 'started' or 'missing'."""
        if self.finished:
            return "done"
        return "started" if (self.folder / f"{self.config.id}.state.safetensors").is_file() else "missing"

    def lock(self) -> filelock.FileLock:
        """Return the lock that whoever trains this run holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / ".lock")

    def discard(self) -> None:
        """Forget the run: the next training starts afresh."""
        with self.lock():
            for path in self.folder.glob(f"{self.config.id}.*"):
                path.unlink()


def config_hash(config: TrainConfig) -> str:
    """Return 16 digits that stand for every field of the configuration and the recipe's version."""
    return short_hash({"recipe": train.RECIPE, **dataclasses.asdict(config)})


def runs_of(plan: Plan, out: Path, only: Callable[[TrainConfig], bool] = lambda config: True) -> list[Run]:
    """Return the runs of a plan that `only` keeps."""
    return [Run(config, out, plan.validations) for config in plan.configs() if only(config)]


def train_run(run: Run, root: Path | None, device: str, threads: int | None = None, quiet: bool = False) -> Path:
    """Train one run unless it is finished, waiting for another process that is at it; keep its curve.

    Returns:
        The weights file.
    """
    if threads:
        torch.set_num_threads(threads)
    with run.lock():
        if not run.finished:
            train.fit(run.config, run.folder, root=root, device=device, validations=run.validations, quiet=quiet)
        curve = run.folder / f"{run.config.id}.json"
        if curve.is_file():
            write_atomically(run.out / CURVES / curve.name, curve.read_text())
    return run.weights


def train_all(runs: list[Run], root: Path | None, device: str, jobs: int = 1, quiet: bool = False) -> None:
    """Train what is missing, `jobs` at a time; runs that another process has in hand come last.

    Raises:
        TrainingError: if a run fails; the others' results are kept.
    """
    waiting = [run for run in runs if not run.finished]
    waiting.sort(key=_in_hand)
    if jobs == 1:
        for run in waiting:
            train_run(run, root, device, quiet=quiet)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(train_run, run, root, device, threads, quiet) for run in waiting]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def _in_hand(run: Run) -> bool:
    lock = run.lock()
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def seconds_per_step(config: TrainConfig, device: str) -> float:
    """Measure how long a step of this configuration takes here, on bundled photographs and without a trace."""
    channels = config.model.channels
    target = torch.device(device)
    source = PatchSource.from_images([read_uint8(path, channels) for path in sample_files()[2:]], target)
    trainer = Trainer(config, build_criterion(config), target)
    warm = 3
    for step in range(warm + _TIMED_STEPS):
        if step == warm:
            began = time.perf_counter()
        trainer.train_step(*draw_batch(config, source, step))
        trainer.check_finite()
    return (time.perf_counter() - began) / _TIMED_STEPS


def remaining_seconds(runs: list[Run], device: str) -> dict[str, float]:
    """Return how long each unfinished run still takes on this machine, by its id: measured once for each size."""
    measured: dict[str, float] = {}
    left = {}
    for run in runs:
        if not run.finished:
            key = short_hash([dataclasses.asdict(run.config.model), run.config.batch_size, run.config.patch_size])
            if key not in measured:
                measured[key] = seconds_per_step(run.config, device)
            left[run.config.id] = measured[key] * run.config.steps
    return left


def describe(plan: Plan, runs: list[Run], left: Mapping[str, float], jobs: int) -> str:
    """Return the plan as text: every run, whether it is done, and the time that is left."""
    lines = [f"plan {plan.name}: {len(runs)} runs, {sum(run.finished for run in runs)} done"]
    for run in runs:
        time_left = f", about {duration(left[run.config.id])}" if run.config.id in left else ""
        lines.append(f"  {run.config.id}: {run.state}, {run.config.steps} steps{time_left}")
    if left:
        at_once = f" ({jobs} at a time share the machine)" if jobs > 1 else ""
        lines.append(f"  training left: about {duration(sum(left.values()))}, measured here{at_once}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Write a time: '40 s', '12 min', '3.5 h'.

    Example:
        >>> duration(40), duration(700), duration(12600)
        ('40 s', '12 min', '3.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
