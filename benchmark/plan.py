"""Plans: sets of runs as data. A study is a plan like any other; a new one is an entry in `PLANS`.

A run is told apart by a hash of everything that decides its result, so that plans share what they have in common, and a
changed plan trains what is new in it. `training` trains runs and `run` shows them; both import this module.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import filelock

from benchmark.rows import short_hash
from mdrn import train
from mdrn.checkpoint import SUFFIX, CheckpointError, find_weights, read_facts, read_header
from mdrn.distill import STRATEGIES, DistillConfig
from mdrn.model import PRESETS, StageConfig
from mdrn.teacher import TeacherConfig
from mdrn.train import TrainConfig

RUNS, POOLS = "runs", "runs/pools"  # folders under --out with weights and states, and with stored draws; not for git
PLAIN = "plain"


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in size, strategy, level and seed alone."""

    sizes: tuple[str, ...]  # presets of `mdrn.model.PRESETS`
    strategies: tuple[str, ...] = (PLAIN,)  # as in `TrainConfig.strategy`
    # one network is trained for each noise level, or for each range (lowest, highest) of levels
    levels: tuple[float | tuple[float, float], ...] = ((0.0, 75.0),)
    seeds: tuple[int, ...] = (0,)  # of training
    # other fields of `TrainConfig`; 'distill' counts for strategies that have a teacher
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    arm: str = ""  # what tells these runs from the plan's others of the same name, such as 'features'; rows carry it
    teacher: str | TrainConfig | None = None  # of every strategy but 'plain', if not the plan's
    sets: tuple[str, ...] | None = None  # test sets, if not the plan's

    def configs(self, teacher: str | None) -> list[TrainConfig]:
        """Return the configurations of its runs; `teacher` is what they say of theirs."""
        plain = {name: value for name, value in self.options.items() if name != "distill"}
        return [
            TrainConfig(
                preset=size,
                strategy=strategy,
                noise_level=level if isinstance(level, tuple) else (level, level),
                seed=seed,
                **(plain if strategy == PLAIN else self.options | {"teacher": teacher}),
            )
            for size, level, seed, strategy in itertools.product(self.sizes, self.levels, self.seeds, self.strategies)
        ]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Groups of runs that belong together."""

    summary: str  # one line for --help
    groups: tuple[Group, ...]  # of runs
    # of every strategy but 'plain': a released id, a weights file, or a run that is trained first
    teacher: str | TrainConfig | None = None
    sets: tuple[str, ...] | None = None  # test sets; None takes what is found
    validations: int = 10  # how often a run is validated, for its curve


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a plan in a results folder."""

    config: TrainConfig  # everything that decides its result
    out: Path  # the results folder
    plan: str  # name of its plan
    arm: str = ""  # see `Group`
    teacher: str | None = None  # released id or file of its teacher, which may not be there yet; None for a plain run
    sets: tuple[str, ...] | None = None  # see `Plan`
    validations: int = 10  # see `Plan`

    @property
    def label(self) -> str:
        """What tells it from the plan's other runs: 'mdrn_tiny.hmds_n50_s0@5000', ':arm' before '@' if it has one."""
        return f"{self.config.id}{f':{self.arm}' if self.arm else ''}@{self.config.steps}"

    @property
    def folder(self) -> Path:
        """Where it is trained and kept; the hash of the whole configuration is in the name."""
        return self.out / RUNS / f"{self.config.id}-{config_hash(self.config)}"

    @property
    def weights(self) -> Path:
        """Its weights file, there once it is finished."""
        return self.folder / f"{self.config.id}{SUFFIX}"

    @property
    def record(self) -> Path:
        """What training it cost and its curve, there once it is finished."""
        return self.folder / f"{self.config.id}.json"

    @property
    def finished(self) -> bool:
        """Whether its weights are there and whole."""
        return self.weights.is_file() and self.record.is_file() and read_header(self.weights).id == self.config.id

    @property
    def steps_done(self) -> int:
        """How far it is, as of its last checkpoint."""
        if self.finished:
            return self.config.steps
        try:
            return read_facts(self.folder / f"{self.config.id}.state{SUFFIX}")["step"]
        except (CheckpointError, OSError, KeyError):
            return 0  # not there; if it is damaged, training it says so

    def lock(self) -> filelock.FileLock:
        """Return the lock that whoever trains this run holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / ".lock")


def config_hash(config: TrainConfig) -> str:
    """Return 16 digits that stand for every field of the configuration and the recipe's version."""
    return short_hash({"recipe": train.RECIPE, **dataclasses.asdict(config)})


def weights_exist(id_or_path: str) -> bool:
    """Whether there is such a released id or file."""
    try:
        return bool(find_weights(id_or_path))
    except CheckpointError:
        return False


def _name_of(teacher: str | TrainConfig | None) -> str | None:
    """Return what configurations say of their teacher: '{id}@{hash}', so that another one makes another run.

    The hash is of its weights, or of the configuration of a teacher that the plan trains. One not there has none.
    """
    if isinstance(teacher, TrainConfig):
        return f"{teacher.id}@{config_hash(teacher)}"
    if teacher is None or not weights_exist(teacher):
        return teacher
    header = read_header(teacher)
    return f"{header.id}@{header.sha256[:16]}"


def runs_of(name: str, plan: Plan, out: Path, keep: Callable[[Run], bool] = lambda run: True) -> list[Run]:
    """Return the runs of a plan that `keep` keeps, each once, and before them the teachers that they need trained."""
    teachers: dict[str, Run] = {}
    runs: dict[str, Run] = {}
    for group in plan.groups:
        teacher = group.teacher or plan.teacher
        shared = {"out": out, "plan": name, "sets": group.sets or plan.sets, "validations": plan.validations}
        trained = Run(teacher, **shared) if isinstance(teacher, TrainConfig) else None
        for config in group.configs(_name_of(teacher)):
            file = None if config.teacher is None else str(trained.weights) if trained else teacher
            run = Run(config, arm=group.arm, teacher=file, **shared)
            if keep(run):
                runs.setdefault(config_hash(config), run)
                if trained and file:
                    teachers.setdefault(config_hash(teacher), trained)
    return list((teachers | {key: run for key, run in runs.items() if key not in teachers}).values())


def teacher_missing(run: Run, runs: list[Run]) -> bool:
    """Whether a run needs a teacher that is neither there nor one of `runs`."""
    return bool(run.teacher) and run.teacher not in {str(r.weights) for r in runs} and not weights_exist(run.teacher)


def duration(seconds: float) -> str:
    """Write a time: '40 s', '12 min', '3.5 h'.

    Example:
        >>> duration(40), duration(700), duration(12600)
        ('40 s', '12 min', '3.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# Recipe v3 is what `TrainConfig` says by itself. What releases add to it, for each network, is here and nowhere else.
RELEASE_OPTIONS = {
    "teacher": {"steps": 14_000},
    # stored draws: plain and distilled networks read the same
    "mdrn": {"steps": 20_000, "pool": 20_480, "data": ("bsds", "drawings")},
    "mdrn_tiny": {"steps": 40_000, "pool": 20_480},
    "mdrn_rgb": {"steps": 16_000, "large_patches": 0.3, "data": ("bsds", "extra")},
    "mdrn_tiny_rgb": {"steps": 40_000, "large_patches": 0.3, "data": ("bsds", "extra")},
    "photo": {"steps": 13_000, "pool": 20_480, "data": ("bsds", "extra"), "camera_share": 0.6},
    "photo_tiny": {"steps": 40_000, "pool": 20_480, "data": ("bsds", "extra"), "camera_share": 0.6},
}
# how the teacher guides, as the study's arms chose on validation images: its results take the clean image's place
_CHOSEN = DistillConfig(output_weight=1.0)
TEACHER = TrainConfig(preset="teacher", **RELEASE_OPTIONS["teacher"])

STUDY_STEPS = (1_250, 5_000, 20_000)
STUDY_POOL = 12_288
STUDY_SEEDS, CHOICE_SEEDS = (0, 1, 2), (100, 101, 102)  # for claims, run once; for choices, on validation images
_BOTH = (PLAIN, "hmds")


def _study(size: str, strategies: Iterable[str], steps: int, levels=(50.0,), seeds=STUDY_SEEDS) -> Group:
    return Group((size,), tuple(strategies), levels, seeds, {"steps": steps, "pool": STUDY_POOL, "distill": _CHOSEN})


def _arm(
    name: str,
    strategies: Iterable[str] = ("hmds",),
    seeds: tuple[int, ...] = CHOICE_SEEDS[:1],  # one screens, three choose
    teacher: TrainConfig | None = None,
    pool: int = STUDY_POOL,
    loss: str = "mse",
    **distill,
) -> Group:
    guided = dataclasses.replace(_CHOSEN, **distill)
    options = {"steps": STUDY_STEPS[1], "pool": pool, "loss": loss, "distill": guided}
    return Group(("mdrn_tiny",), tuple(strategies), (50.0,), seeds, options, name, teacher, ("validation",))


_SHORT, _MIDDLE, _LONG = STUDY_STEPS
_HMDS = (
    _study("mdrn_tiny", STRATEGIES, _MIDDLE, levels=(15.0, 25.0, 50.0)),
    _study("mdrn_tiny", _BOTH, _SHORT),
    _study("mdrn_tiny", _BOTH, _LONG),
    _study("mdrn", _BOTH, _MIDDLE),
    _study("mdrn", _BOTH, _LONG, seeds=STUDY_SEEDS[:1]),
    _arm("", STRATEGIES, CHOICE_SEEDS),
    _arm("fresh draws", (PLAIN,), CHOICE_SEEDS, pool=0),
    _arm("weight 0.5", seeds=CHOICE_SEEDS, output_weight=0.5),
    _arm("weight 0.25", output_weight=0.25),
    _arm("weight 0.75", output_weight=0.75),
    _arm("weight falls to 0", final_weight=0.0),
    _arm("features", pool=0, feature_weight=0.1),
    _arm("a quarter of the level", ("hmds_n",), teacher_level=0.25),
    _arm("three quarters of the level", ("hmds_n",), teacher_level=0.75),
    _arm("noise merely scaled", ("hmds_n",), nested=False),
    _arm("absolute error", _BOTH, loss="l1"),
    _arm("teacher of a tenth of the steps", teacher=dataclasses.replace(TEACHER, steps=TEACHER.steps // 10)),
    _arm("teacher of the own family", teacher=TrainConfig(preset="mdrn", **RELEASE_OPTIONS["mdrn"])),
)

_STAGES = {  # as many multiply-accumulates, parameters and milliseconds as `mdrn_tiny`, to a tenth
    "one stage": (StageConfig((0, 2, 2), (2, 2)),),
    "two stages": PRESETS["mdrn_tiny"].stages,
    "three stages": (StageConfig((0, 0, 1), (1, 0)),) * 3,
}


def _staged(arm: str, stages: tuple[StageConfig, ...]) -> Group:
    options = {"steps": 3_000, "pool": 20_480, "model": dataclasses.replace(PRESETS["mdrn_tiny"], stages=stages)}
    return Group(("mdrn_tiny",), seeds=STUDY_SEEDS[:2], options=options, arm=arm, sets=("validation",))


_SMOKE = {"steps": 30, "batch_size": 8, "patch_size": 48, "data": ("samples",), "warmup": 0.3, "ema_decay": 0.9}
_SMOKE_TEACHER = TeacherConfig(widths=(8, 16, 24), down=(1, 1, 1), up=(1, 1))

PLANS: dict[str, Plan] = {
    "release": Plan(
        "a teacher, grey networks of both sizes, plain and HMDS, and colour ones for white and for camera noise",
        tuple(
            Group((size,), _BOTH if PRESETS[size].channels == 1 else (PLAIN,), options=options | {"distill": _CHOSEN})
            for size, options in RELEASE_OPTIONS.items()
            if size != TEACHER.preset
        ),
        teacher=TEACHER,
    ),
    "hmds": Plan(
        "what HMDS is worth from nothing at equal steps, and its parts on validation images",
        _HMDS,
        teacher=TEACHER,
        sets=("Set12", "BSD68"),
    ),
    "stages": Plan(
        "one, two and three stages at equal cost, on validation images",
        tuple(_staged(arm, stages) for arm, stages in _STAGES.items()),
    ),
    "smoke": Plan(
        "tiny networks, seconds of training on bundled photographs, tested on two others: shows that all works",
        (Group(("mdrn_tiny",), _BOTH, (25.0, 50.0), options=_SMOKE | {"pool": 64}),),
        teacher=TrainConfig(preset="teacher", model=_SMOKE_TEACHER, noise_level=(0.0, 75.0), **_SMOKE),
        sets=("samples_held_out",),
        validations=2,
    ),
}
