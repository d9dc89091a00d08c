"""The plans that `python -m benchmark.run --preset NAME` offers: a new one is an entry here, and its name in `run`.

`prepare` and `run` import this module.
"""

from __future__ import annotations

from mdrn.recipe import TrainConfig

from benchmark.plan import Plan
from mdrn.teacher import TeacherConfig

_SMOKE = {"batch_size": 8, "patch_size": 48, "data": ("samples",), "warmup_steps": 10, "ema_decay": 0.98}
_TEACHER = "teacher.plain_n0-75_s0"
_LONG = {"steps": 80_000, "large_patches": 0.4, "mse_share": 0.2}  # in one run what releases took several for
_RANGE = "{size}.plain_n0-75_s0"
_CONTINUED = {"batch_size": 4, "patch_size": 128, "learning_rate": 5e-4, "loss": "mse"}  # as at releases' end
_CONTINUED_STEPS = 1_000


def _hmds(percent: int) -> Plan:
    """Return the plan that says what HMDS is worth after a share of the steps of the networks released for a level."""
    return Plan(
        name=f"hmds_{percent}",
        summary=f"HMDS from the 0-75 networks on, three seeds, {percent} % of the steps: an hour or more on two cores",
        sizes=("mdrn_tiny", "mdrn"),
        strategies=("plain", "hmds"),
        levels=(50.0, 25.0, 15.0) if percent == 100 else (50.0,),
        seeds=(0, 1, 2),
        options=_CONTINUED | {"steps": _CONTINUED_STEPS * percent // 100},
        sets=("BSD68", "Urban100"),
        validations=4,
        teacher=_TEACHER,
        start=_RANGE,
    )


PLANS: dict[str, Plan] = {
    "smoke": Plan(
        name="smoke",
        summary="tiny networks, seconds of training on bundled photographs, tested on two others: shows that all works",
        sizes=("mdrn_tiny",),
        strategies=("plain", "hmds"),
        levels=(25.0, 50.0),
        seeds=(0,),
        options=_SMOKE | {"steps": 100},
        sets=("samples_held_out",),
        validations=4,
        teacher=TrainConfig(
            preset="teacher",
            model=TeacherConfig(widths=(16, 24, 32), blocks=1),
            noise_level=(0.0, 75.0),
            **_SMOKE | {"steps": 100},
        ),
    ),
    "quick": Plan(
        name="quick",
        summary="both sizes with and without HMDS, short runs, one seed: hours on two cores, minutes on a GPU",
        sizes=("mdrn_tiny", "mdrn"),
        strategies=("plain", "hmds"),
        levels=(15.0, 25.0, 50.0),
        seeds=(0,),
        options={"steps": 6_000},
        teacher=_TEACHER,
    ),
    "full": Plan(
        name="full",
        summary="both sizes, every strategy, full runs, three seeds: for a GPU",
        sizes=("mdrn_tiny", "mdrn"),
        strategies=("plain", "hmds_c", "hmds_n", "hmds"),
        levels=(15.0, 25.0, 50.0),
        seeds=(0, 1, 2),
        options={"steps": 80_000},
        teacher=_TEACHER,
    ),
    "release": Plan(
        name="release",
        summary="a teacher, then grey networks of both sizes for 0-75, 15, 25 and 50, plain and HMDS: for a GPU",
        sizes=("mdrn_tiny", "mdrn"),
        strategies=("plain", "hmds"),
        levels=((0.0, 75.0), 15.0, 25.0, 50.0),
        seeds=(0,),
        options=_LONG,
        teacher=TrainConfig(preset="teacher", noise_level=(0.0, 75.0), learning_rate=2e-3, **_LONG),
    ),
    "release_rgb": Plan(
        name="release_rgb",
        summary="colour networks of both sizes for 0-75, plain: for a GPU",
        sizes=("mdrn_tiny_rgb", "mdrn_rgb"),
        strategies=("plain",),
        levels=((0.0, 75.0),),
        seeds=(0,),
        options=_LONG,
        sets=("CBSD68", "Urban100_rgb"),
    ),
    "hmds_10": _hmds(10),
    "hmds_30": _hmds(30),
    "hmds_100": _hmds(100),
}
