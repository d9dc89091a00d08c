"""Plans: which networks to train, told apart by a hash of everything that decides a run.

`presets` names some, `training` trains them and `run` shows them; all import this module.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock
from mdrn.recipe import TrainConfig
from safetensors import SafetensorError, safe_open

from benchmark.rows import short_hash
from mdrn import train
from mdrn.checkpoint import SUFFIX, CheckpointError, find_weights, read_header
from mdrn.distill import DistillConfig

RUNS = "runs"  # folder under --out with weights and training states; not for git
PLAIN = "plain"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes x levels x seeds x strategies, all else equal.

    Args:
        name: of the preset; rows carry it.
        summary: one line for --help.
        sizes: presets of `mdrn.model.PRESETS`.
        strategies: as in `TrainConfig.strategy`.
        levels: one network is trained for each noise level, or for each range (lowest, highest) of levels.
        seeds: of training.
        options: other fields of `TrainConfig`.
        sets: test sets; None takes what is found.
        validations: how often a run is validated, for its curve.
        teacher: of every strategy but 'plain': a released id, a weights file, or a run that the plan trains first.
        start: released id whose weights students start from, '{size}' stands for theirs; None starts from nothing.
    """

    name: str
    summary: str
    sizes: tuple[str, ...]
    strategies: tuple[str, ...]
    levels: tuple[float | tuple[float, float], ...]
    seeds: tuple[int, ...]
    options: Mapping[str, object]
    sets: tuple[str, ...] | None = None
    validations: int = 10
    teacher: str | TrainConfig | None = None
    start: str | None = None

    def configs(self) -> list[TrainConfig]:
        """Return the students' configurations, those that are trained side by side next to each other."""
        grid = itertools.product(self.sizes, self.levels, self.seeds, self.strategies)
        return [
            TrainConfig(
                preset=size,
                strategy=strategy,
                teacher=None if strategy == PLAIN else self.teacher_name,
                noise_level=level if isinstance(level, tuple) else (level, level),
                seed=seed,
                init_from=pinned(self.start.format(size=size)) if self.start else None,
                **self.options,
            )
            for size, level, seed, strategy in grid
        ]

    @property
    def teacher_name(self) -> str | None:
        """What the students' configurations say of their teacher: '{id}@{hash}', so that another one is another run.

        The hash is of its weights, or of the configuration of a teacher that the plan trains. A teacher that is not
        there has none.
        """
        if isinstance(self.teacher, TrainConfig):
            return f"{self.teacher.id}@{config_hash(self.teacher)}"
        return self.teacher and pinned(self.teacher)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a plan in a results folder.

    Args:
        config: everything that decides its result.
        out: the results folder.
        group: name of the folder in which it and the runs that share its batches are trained.
        teacher: released id or file of its teacher, which may not be there yet; None for a plain run.
        validations: see `Plan`.
        plan: name of its plan.
    """

    config: TrainConfig
    out: Path
    group: str
    teacher: str | None = None
    validations: int = 10
    plan: str = ""

    @property
    def folder(self) -> Path:
        """Where its weights and curve are kept; the hash of the whole configuration is in the name."""
        return self.out / RUNS / f"{self.config.id}-{config_hash(self.config)}"

    @property
    def workplace(self) -> Path:
        """Where it is trained."""
        return self.out / RUNS / self.group

    @property
    def weights(self) -> Path:
        """Its weights file, there once it is finished."""
        return self.folder / f"{self.config.id}{SUFFIX}"

    @property
    def curve(self) -> Path:
        """Its record of training, there once it is finished."""
        return self.folder / f"{self.config.id}.json"

    @property
    def finished(self) -> bool:
        """Whether its weights are there and whole."""
        return self.weights.is_file() and read_header(self.weights).id == self.config.id

    @property
    def steps_done(self) -> int:
        """How far it is, as of its last checkpoint."""
        if self.finished:
            return self.config.steps
        try:
            with safe_open(self.workplace / f"{self.config.id}.state{SUFFIX}", framework="pt") as file:
                return json.loads(file.metadata()["state"])["step"]
        except (OSError, SafetensorError, TypeError, KeyError, ValueError):
            return 0  # not there; if it is damaged, training it says so

    def lock(self) -> filelock.FileLock:
        """Return the lock that whoever trains this run, or one beside it, holds."""
        self.workplace.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.workplace / ".lock")

    def keep(self) -> None:
        """Move what training left behind to its own folder, the weights last: with them the run is finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.curve, self.weights):
            os.replace(self.workplace / path.name, path)
        for path in self.workplace.glob(f"{self.config.id}.*"):
            path.unlink()

    def discard(self) -> None:
        """Forget the run: the next training starts afresh."""
        with self.lock():
            for folder in (self.folder, self.workplace):
                for path in folder.glob(f"{self.config.id}.*"):
                    path.unlink()


def config_hash(config: TrainConfig) -> str:
    """Return 16 digits that stand for every field of the configuration and the recipe's version."""
    return short_hash({"recipe": train.RECIPE, **dataclasses.asdict(config)})


def pinned(id_or_path: str) -> str:
    """Return '{id}@{hash}' of weights that are there, so that other ones of this id make another run; else the name."""
    if not weights_exist(id_or_path):
        return id_or_path
    header = read_header(id_or_path)
    return f"{header.id}@{header.sha256[:16]}"


def weights_exist(id_or_path: str) -> bool:
    """Whether there is such a released id or file."""
    try:
        return bool(find_weights(id_or_path))
    except CheckpointError:
        return False


def runs_of(plan: Plan, out: Path, only: Callable[[TrainConfig], bool] = lambda config: True) -> list[Run]:
    """Return the runs of a plan that `only` keeps, and first the plan's own teacher if any of them needs it."""
    kept = [config for config in plan.configs() if only(config)]
    teacher, first = plan.teacher, []
    if isinstance(teacher, TrainConfig):
        run = Run(teacher, out, _group_of(teacher, None), None, plan.validations, plan.name)
        teacher = str(run.weights)
        first = [run] if any(config.teacher for config in kept) else []
    return first + [
        Run(
            config=config,
            out=out,
            group=_group_of(config, plan.teacher_name),
            teacher=teacher if config.teacher else None,
            validations=plan.validations,
            plan=plan.name,
        )
        for config in kept
    ]


def _group_of(config: TrainConfig, teacher_name: str | None) -> str:
    """Name what the strategies of one size, level and seed share."""
    shared = dataclasses.replace(config, strategy=PLAIN, teacher=None, distill=DistillConfig())
    return f"{shared.id.replace(f'.{PLAIN}', '')}-{short_hash([config_hash(shared), teacher_name])}"


def groups_of(runs: list[Run]) -> list[list[Run]]:
    """Return the runs by what is trained side by side, in their order."""
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.workplace, []).append(run)
    return list(groups.values())


def teacher_missing(run: Run, runs: list[Run]) -> bool:
    """Whether a run needs a teacher that is neither there nor one of `runs`."""
    return bool(run.teacher) and run.teacher not in {str(r.weights) for r in runs} and not weights_exist(run.teacher)


def describe(plan: Plan, runs: list[Run], left: Mapping[str, float], jobs: int) -> str:
    """Return the plan as text: every run, whether it is done, the time that is left, and what is missing for it."""
    lines = [f"plan {plan.name}: {len(runs)} runs, {sum(run.finished for run in runs)} done"]
    for run in runs:
        done, steps = run.steps_done, run.config.steps
        if run.finished:
            state = "done"
        elif teacher_missing(run, runs):
            state = "waits for its teacher"
        else:
            state = f"at step {done} of {steps}" if done else f"missing, {steps} steps"
        share = f", about {duration(left[run.config.id])}" if run.config.id in left else ""
        lines.append(f"  {run.config.id}: {state}{share}")
    waiting = sum(teacher_missing(run, runs) and not run.finished for run in runs)
    if waiting:
        lines.append(
            f"  missing: the teacher {plan.teacher}, which is neither released nor a file; {waiting} runs need it"
        )
    if left:
        at_once = f" ({jobs} groups at a time share the machine)" if jobs > 1 else ""
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
