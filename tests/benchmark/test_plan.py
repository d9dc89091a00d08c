"""Plans: a run is its whole configuration, its teacher included, and a plan is groups of runs."""

import dataclasses
import json
import re
import types
from pathlib import Path

import pytest
import torch

import mdrn
from benchmark import plan
from benchmark.plan import PLANS, Group, Plan, config_hash, runs_of, teacher_missing
from mdrn import checkpoint, train
from mdrn.distill import DistillConfig
from mdrn.model import PRESETS
from mdrn.pool import Pool
from mdrn.teacher import TeacherConfig
from mdrn.train import TrainConfig
from tests.conftest import header_for

OPTIONS = {"steps": 4, "batch_size": 4, "patch_size": 16, "large_patches": 0.0, "data": ("samples",)}
TINY = Plan("for tests", (Group(("mdrn_tiny",), levels=(25.0, 50.0), seeds=(0, 1), options=OPTIONS),), validations=1)
SMALL_TEACHER = TeacherConfig(widths=(8, 8, 8), down=(1, 1, 1), up=(1, 1))
TEACHER = TrainConfig(preset="teacher", model=SMALL_TEACHER, noise_level=(0, 75), **OPTIONS)
STRATEGIES = ("plain", "hmds_c", "hmds")
_TAUGHT = Group(("mdrn_tiny",), STRATEGIES, (25.0,), options=OPTIONS)
TAUGHT = dataclasses.replace(TINY, groups=(_TAUGHT,), teacher=TEACHER)


def changed(known: Plan, **group) -> Plan:
    return dataclasses.replace(known, groups=(dataclasses.replace(known.groups[0], **group),))


def ids(runs) -> list[str]:
    return [run.config.id for run in runs]


def test_a_group_is_sizes_by_levels_by_seeds_by_strategies(tmp_path):
    assert ids(runs_of("test", TINY, tmp_path)) == [
        f"mdrn_tiny.plain_n{n}_s{seed}" for n in (25, 50) for seed in (0, 1)
    ]
    students = [f"mdrn_tiny.{strategy}_n25_s0" for strategy in STRATEGIES]
    runs = runs_of("test", TAUGHT, tmp_path)
    assert ids(runs) == ["teacher.plain_n0-75_s0", *students]
    assert [run.teacher for run in runs] == [None, None, *[str(runs[0].weights)] * 2]


@pytest.mark.parametrize("name", PLANS)
def test_no_run_of_a_plan_shares_its_place_with_another(name, tmp_path):
    runs = runs_of(name, PLANS[name], tmp_path)
    assert len({config_hash(run.config) for run in runs}) == len(runs) == len({run.label for run in runs})
    assert {run.config.strategy for run in runs} >= ({"plain"} if name == "stages" else {"plain", "hmds"})


@pytest.mark.parametrize("name", PLANS)
def test_pools_are_large_enough_for_the_longest_run(name, tmp_path, monkeypatch):
    pool = types.SimpleNamespace(pixels=torch.zeros(1, 1), digest="")
    monkeypatch.setattr(train, "Pool", lambda folder, source, *options: Pool(folder, pool, *options))
    monkeypatch.setattr(Pool, "fill", lambda *_: None)
    checked, check = [], Pool.check
    monkeypatch.setattr(Pool, "check", lambda self, *where: checked.append(where) or check(self, *where))
    pooled = [run.config for run in runs_of(name, PLANS[name], tmp_path) if run.config.pool]
    for config in pooled:
        plain = dataclasses.replace(config, strategy="plain", teacher=None)
        train.draws(plain, pool, None, tmp_path)
    assert len(checked) == len(pooled) > 0


@pytest.mark.parametrize("name", mdrn.list_models())
def test_released_networks_are_what_the_plan_makes_from_nothing(name, tmp_path):
    header = checkpoint.read_header(name)
    config = next(run.config for run in runs_of("release", PLANS["release"], tmp_path) if run.config.id == name)
    asked, said = json.loads(json.dumps(dataclasses.asdict(config))), dict(header.recipe)
    assert said.pop("version") == train.RECIPE and header.plan == "release" and said["init_from"] is None
    assert {field: asked[field] for field in said} == said
    assert header.model == config.model == PRESETS[config.preset]
    assert header.steps == config.steps and header.device and header.data["sets"] and len(header.validation) == 3


def test_the_release_is_one_teacher_and_one_network_of_each_kind(tmp_path):
    grey = [f"{size}.{kind}_n0-75_s0" for size in ("mdrn", "mdrn_tiny") for kind in ("plain", "hmds")]
    colour = [f"{size}.plain_n0-75_s0" for size in ("mdrn_rgb", "mdrn_tiny_rgb", "photo", "photo_tiny")]
    runs = runs_of("release", PLANS["release"], tmp_path)
    assert ids(runs) == ["teacher.plain_n0-75_s0", *grey, *colour]
    assert all(run.config.init_from is None for run in runs)
    assert all(run.config.data == ("bsds", "extra") for run in runs[-4:])


def test_the_study_compares_like_with_like(tmp_path):
    runs = runs_of("hmds", PLANS["hmds"], tmp_path)
    plain = {dataclasses.replace(run.config, seed=0) for run in runs if run.config.strategy == "plain" and not run.arm}
    for run in runs:
        same = {"seed": 0, "strategy": "plain", "teacher": None, "distill": DistillConfig()}
        if run.config.strategy != "plain" and not run.arm:
            assert dataclasses.replace(run.config, **same) in plain, run.label
    ranges = [run for run in runs if run.config.noise_level == (0.0, 75.0)]  # teachers
    claims = [run for run in runs if not run.arm and run.config.seed < 100 and run not in ranges]
    middle = [run for run in claims if run.config.steps == 5000 and run.config.preset == "mdrn_tiny"]
    assert len(middle) == 3 * 3 * 4
    assert {run.config.steps for run in claims} == {1250, 5000, 20_000}
    assert all(run.sets == ("validation",) and run.config.seed >= 100 for run in runs if run.arm)
    released = {run.folder for run in runs_of("release", PLANS["release"], tmp_path)}
    assert len({run.folder for run in ranges} & released) == 2  # the teacher and one of the own family: trained once


def test_every_field_of_the_configuration_is_in_the_hash(monkeypatch):
    config = TrainConfig(**OPTIONS)
    changes = {"steps": 5, "seed": 1, "learning_rate": 1e-3, "noise_level": (25.0, 26.0), "data": ("bsds",), "pool": 9}
    hashes = {config_hash(dataclasses.replace(config, **{name: value})) for name, value in changes.items()}
    assert len(hashes | {config_hash(config)}) == len(changes) + 1
    wider = dataclasses.replace(config.model, widths=(8, 8, 16, 16))
    assert config_hash(dataclasses.replace(config, model=wider)) not in hashes
    assert config_hash(TrainConfig(**OPTIONS)) == config_hash(config)
    before = config_hash(config)
    monkeypatch.setattr(train, "RECIPE", "another")
    assert config_hash(config) != before


def test_another_configuration_of_the_same_id_is_another_run(tmp_path):
    longer = changed(TINY, options=OPTIONS | {"steps": 8})
    first, second = runs_of("test", TINY, tmp_path)[0], runs_of("test", longer, tmp_path)[0]
    assert first.config.id == second.config.id
    assert first.folder != second.folder and first.label != second.label


def test_arms_are_runs_of_the_same_name_told_apart(tmp_path):
    weighted = dataclasses.replace(TAUGHT.groups[0], arm="weight 1", options=OPTIONS | {"distill": DistillConfig(1.0)})
    both = dataclasses.replace(TAUGHT, groups=(*TAUGHT.groups, weighted))
    labels = [run.label for run in runs_of("test", both, tmp_path)]
    assert labels[-2:] == ["mdrn_tiny.hmds_c_n25_s0:weight 1@4", "mdrn_tiny.hmds_n25_s0:weight 1@4"]
    assert len(labels) == 1 + 3 + 2  # how a teacher guides is nothing to a plain run, which is there already


def test_no_teacher_is_trained_for_plain_runs_alone(tmp_path):
    runs = runs_of("test", TAUGHT, tmp_path, lambda run: run.config.strategy == "plain")
    assert ids(runs) == ["mdrn_tiny.plain_n25_s0"]


def test_the_teacher_decides_which_run_it_is(tmp_path, network):
    def hashes(teacher) -> dict[str, str]:
        runs = runs_of("test", dataclasses.replace(TAUGHT, teacher=teacher), tmp_path)
        return {run.config.strategy: config_hash(run.config) for run in runs if run.config.preset != "teacher"}

    longer = dataclasses.replace(TEACHER, steps=8)
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


def test_the_teacher_of_the_plans_is_in_the_repository():
    teacher = plan.Run(plan.TEACHER, Path("results"), "release")
    assert teacher.finished
    header = checkpoint.read_header(teacher.weights)
    assert header.model == plan.TEACHER.model and header.steps == plan.TEACHER.steps


def test_a_run_without_its_teacher_waits(tmp_path):
    lacking = dataclasses.replace(TAUGHT, teacher="teacher.plain_n0-75_s9")
    runs = runs_of("test", lacking, tmp_path)
    assert [teacher_missing(run, runs) for run in runs] == [False, True, True]
    runs = runs_of("test", TAUGHT, tmp_path)
    assert not any(teacher_missing(run, runs) for run in runs)


def test_the_command_line_says_what_each_plan_is():
    from benchmark import run

    text = re.sub(r"\s+", " ", run._parser().format_help())
    for name, known in PLANS.items():
        assert f"{name} {known.summary}" in text
    assert plan.duration(700) == "12 min"
