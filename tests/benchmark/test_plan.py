"""Plans: a run is its whole configuration, its teacher included, and strategies of one seed go side by side."""

import dataclasses

import pytest
from mdrn.recipe import TrainConfig

from benchmark.plan import Plan, config_hash, describe, groups_of, runs_of, teacher_missing
from benchmark.presets import PLANS
from mdrn import checkpoint, train
from mdrn.teacher import TeacherConfig
from tests.conftest import header_for

OPTIONS = {"steps": 3, "batch_size": 1, "patch_size": 16, "data": ("samples",)}
TINY = Plan("test", "for tests", ("mdrn_tiny",), ("plain",), (25.0, 50.0), (0, 1), OPTIONS, validations=0)
SMALL_TEACHER = TeacherConfig(widths=(8, 8, 8), blocks=1)
TEACHER = TrainConfig(preset="teacher", model=SMALL_TEACHER, noise_level=(0, 75), **OPTIONS)
TAUGHT = dataclasses.replace(TINY, strategies=("plain", "hmds_c", "hmds"), levels=(25.0,), teacher=TEACHER)


def test_a_plan_is_sizes_by_levels_by_seeds_by_strategies():
    ids = [config.id for config in TINY.configs()]
    assert ids == [f"mdrn_tiny.plain_n{level}_s{seed}" for level in (25, 50) for seed in (0, 1)]
    taught = [config.id for config in TAUGHT.configs()]
    assert taught[:3] == [f"mdrn_tiny.{strategy}_n25_s0" for strategy in ("plain", "hmds_c", "hmds")]
    for known in PLANS.values():
        assert len({config_hash(config) for config in known.configs()}) == len(known.configs())
        assert {config.strategy for config in known.configs()} >= ({"plain", "hmds"} if known.teacher else {"plain"})
    ranges = [config.id for config in PLANS["release"].configs() if "-" in config.id]
    assert ranges == [f"{size}.{kind}_n0-75_s0" for size in ("mdrn_tiny", "mdrn") for kind in ("plain", "hmds")]


def test_every_field_of_the_configuration_is_in_the_hash(monkeypatch):
    config = TrainConfig(**OPTIONS)
    changes = {
        "steps": 4,
        "seed": 1,
        "learning_rate": 1e-3,
        "noise_level": (25.0, 26.0),
        "data": ("bsds",),
        "bf16": False,
    }
    hashes = {config_hash(dataclasses.replace(config, **{name: value})) for name, value in changes.items()}
    assert len(hashes | {config_hash(config)}) == len(changes) + 1
    wider = dataclasses.replace(config.model, widths=(8, 8, 16))
    assert config_hash(dataclasses.replace(config, model=wider)) not in hashes
    assert config_hash(TrainConfig(**OPTIONS)) == config_hash(config)
    before = config_hash(config)
    monkeypatch.setattr(train, "RECIPE", "another")
    assert config_hash(config) != before


def test_another_configuration_of_the_same_id_is_another_run(tmp_path):
    longer = dataclasses.replace(TINY, options=OPTIONS | {"steps": 4})
    first, second = runs_of(TINY, tmp_path)[0], runs_of(longer, tmp_path)[0]
    assert first.config.id == second.config.id
    assert first.folder != second.folder
    assert first.workplace != second.workplace


def test_strategies_of_one_seed_are_a_group_and_the_teacher_comes_first(tmp_path):
    groups = groups_of(runs_of(TAUGHT, tmp_path))
    assert [[run.config.id for run in group] for group in groups] == [
        ["teacher.plain_n0-75_s0"],
        *([f"mdrn_tiny.{strategy}_n25_s{seed}" for strategy in ("plain", "hmds_c", "hmds")] for seed in (0, 1)),
    ]
    (teacher,) = groups[0]
    assert [run.teacher for run in groups[1]] == [None, str(teacher.weights), str(teacher.weights)]


def test_no_teacher_is_trained_for_plain_runs_alone(tmp_path):
    runs = runs_of(TAUGHT, tmp_path, lambda config: config.strategy == "plain")
    assert {run.config.preset for run in runs} == {"mdrn_tiny"}


def test_the_teacher_decides_which_run_it_is(tmp_path, network):
    def hashes(teacher) -> dict[str, str]:
        configs = dataclasses.replace(TAUGHT, seeds=(0,), teacher=teacher).configs()
        return {config.strategy: config_hash(config) for config in configs}

    longer = dataclasses.replace(TEACHER, steps=4)
    assert hashes(TEACHER)["hmds"] != hashes(longer)["hmds"]
    assert hashes(TEACHER)["plain"] == hashes(longer)["plain"]  # a plain run is the same beside any teacher
    path = tmp_path / "teacher.safetensors"
    checkpoint.write_weights(path, network, header_for(network))
    first = hashes(str(path))
    moved = path.rename(tmp_path / "elsewhere.safetensors")
    assert hashes(str(moved)) == first
    next(network.parameters()).data.add_(1)
    checkpoint.write_weights(moved, network, header_for(network))
    assert hashes(str(moved))["hmds"] != first["hmds"]


def test_a_plan_may_start_from_released_weights_named_exactly():
    continued = dataclasses.replace(TINY, sizes=("mdrn_tiny", "mdrn"), start="{size}.plain_n0-75_s0")
    for config in continued.configs():
        start = checkpoint.read_header(config.init_from)
        assert start.id == f"{config.preset}.plain_n0-75_s0" and config.init_from == f"{start.id}@{start.sha256[:16]}"


def test_a_plan_says_what_is_done_missing_and_waiting(tmp_path):
    plan_without = dataclasses.replace(TAUGHT, seeds=(0,), teacher="teacher.plain_n0-75_s9")
    runs = runs_of(plan_without, tmp_path)
    assert [teacher_missing(run, runs) for run in runs] == [False, True, True]
    text = describe(plan_without, runs, {"mdrn_tiny.plain_n25_s0": 18.0}, jobs=1)
    assert text.splitlines() == [
        "plan test: 3 runs, 0 done",
        "  mdrn_tiny.plain_n25_s0: missing, 3 steps, about 18 s",
        "  mdrn_tiny.hmds_c_n25_s0: waits for its teacher",
        "  mdrn_tiny.hmds_n25_s0: waits for its teacher",
        "  missing: the teacher teacher.plain_n0-75_s9, which is neither released nor a file; 2 runs need it",
        "  training left: about 18 s, measured here",
    ]
    assert not any(teacher_missing(run, taught) for taught in [runs_of(TAUGHT, tmp_path)] for run in taught)


@pytest.mark.parametrize("name", PLANS)
def test_presets_are_what_the_command_line_offers(name):
    from benchmark import run

    assert name in run._PRESETS
    assert PLANS[name].name == name
