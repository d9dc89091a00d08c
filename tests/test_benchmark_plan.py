"""Plans: a run is its whole configuration, is done once, and goes on where it was killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmark import plan, rows
from benchmark.plan import Plan, Run, config_hash, runs_of, train_all, train_run
from mdrn import train
from mdrn.recipe import TrainConfig
from mdrn.trainer import TrainingError

OPTIONS = {"steps": 3, "batch_size": 1, "patch_size": 16, "data": ("samples",)}
TINY = Plan("test", "for tests", ("mdrn_tiny",), ("plain",), (25.0, 50.0), (0, 1), OPTIONS, validations=0)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.delenv("MDRN_DATA", raising=False)


@pytest.fixture
def fitted(monkeypatch):
    """Replace training by something that counts and writes what training leaves behind."""
    calls = []

    def fit(config, out, **options):
        calls.append(config.id)
        time.sleep(0.05)
        weights = out / f"{config.id}.safetensors"
        weights.write_bytes(b"weights")
        (out / f"{config.id}.json").write_text(json.dumps({"id": config.id}))
        return weights

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(Run, "finished", property(lambda run: run.weights.is_file()))
    return calls


def test_a_plan_is_sizes_by_strategies_by_levels_by_seeds():
    ids = [config.id for config in TINY.configs()]
    assert ids == [f"mdrn_tiny.plain_n{level}_s{seed}" for level in (25, 50) for seed in (0, 1)]
    for known in plan.PLANS.values():
        assert len({config_hash(config) for config in known.configs()}) == len(known.configs())


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


def test_finished_runs_are_not_done_again(tmp_path, fitted):
    runs = runs_of(TINY, tmp_path)
    assert [run.state for run in runs] == ["missing"] * 4
    train_all(runs[:3], None, "cpu", quiet=True)
    train_all(runs, None, "cpu", quiet=True)
    assert fitted == [run.config.id for run in runs]
    assert [run.state for run in runs] == ["done"] * 4
    assert len(list((tmp_path / "curves").iterdir())) == 4
    runs[0].discard()
    assert [run.state for run in runs] == ["missing", "done", "done", "done"]


def test_two_at_once_do_a_run_once(tmp_path, fitted):
    runs = runs_of(TINY, tmp_path)
    threads = [threading.Thread(target=train_all, args=(runs, None, "cpu"), kwargs={"quiet": True}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fitted) == sorted(run.config.id for run in runs)


def test_what_another_process_has_in_hand_comes_last(tmp_path, fitted):
    runs = runs_of(TINY, tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(runs[0].folder / ".lock")], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    worker = threading.Thread(target=train_all, args=(runs, None, "cpu"), kwargs={"quiet": True})
    worker.start()
    deadline = time.monotonic() + 30
    while len(fitted) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert fitted == [run.config.id for run in runs[1:]]
    holder.communicate(b"\n")
    worker.join()
    assert fitted[-1] == runs[0].config.id


_HOLD = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.readline()"


def test_another_configuration_of_the_same_id_is_another_run(tmp_path):
    longer = dataclasses.replace(TINY, options=OPTIONS | {"steps": 4})
    first, second = runs_of(TINY, tmp_path)[0], runs_of(longer, tmp_path)[0]
    assert first.config.id == second.config.id
    assert first.folder != second.folder


def test_a_failed_run_says_so(tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(train, "fit", diverge)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train_all(runs_of(TINY, tmp_path), None, "cpu", quiet=True)


def test_time_left_is_measured_once_for_each_size(tmp_path, monkeypatch, fitted):
    measured = []
    monkeypatch.setattr(plan, "seconds_per_step", lambda config, device: measured.append(config.id) or 2.0)
    runs = runs_of(TINY, tmp_path)
    train_all(runs[:1], None, "cpu", quiet=True)
    left = plan.remaining_seconds(runs, "cpu")
    assert left == {run.config.id: 6.0 for run in runs[1:]}
    assert len(measured) == 1
    text = plan.describe(TINY, runs, left, jobs=1)
    assert "plan test: 4 runs, 1 done" in text
    assert "mdrn_tiny.plain_n25_s0: done" in text
    assert "training left: about 18 s, measured here" in text


def test_a_step_is_timed_for_real():
    assert 0 < plan.seconds_per_step(TINY.configs()[0], "cpu") < 60


def test_a_real_run_leaves_weights_that_load(tmp_path):
    run = runs_of(TINY, tmp_path)[0]
    weights = train_run(run, None, "cpu", quiet=True)
    assert run.finished
    assert plan.read_header(weights).patches == 3


_SCRIPT = """
import dataclasses, sys
from benchmark import plan, run
short = plan.PLANS["smoke"].options | {"steps": 60, "batch_size": 2, "patch_size": 16}
plan.PLANS["smoke"] = dataclasses.replace(plan.PLANS["smoke"], options=short, validations=6)
options = ["--preset", "smoke", "--quiet", "--lpips", "none", "--methods", "noisy", "mdrn*", "--out", *sys.argv[1:]]
sys.exit(run.main(options))
"""


def _numbers(out: Path) -> list[tuple]:
    changing = ("seconds", "evaluation")
    read = rows.read(out / rows.ROWS)
    return [tuple(v for k, v in dataclasses.asdict(row).items() if k not in changing) for row in read]


def _start(out: Path, *options: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SCRIPT, str(out), *options]
    root = Path(plan.__file__).parent.parent
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
def test_killed_and_restarted_gives_the_same_rows(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    began = time.monotonic()
    assert _start(undisturbed).wait(600) == 0
    whole = time.monotonic() - began
    for tenth in range(1, 11):
        process = _start(killed)
        try:
            process.wait(whole * tenth / 11)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert _start(killed).wait(600) == 0
    assert _numbers(killed) == _numbers(undisturbed)


@pytest.mark.slow
def test_two_invocations_and_several_jobs_do_each_run_once(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert _start(alone).wait(600) == 0
    processes = [_start(shared, "--jobs", "2"), _start(shared)]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert sorted(_numbers(shared)) == sorted(_numbers(alone))


def test_distilled_runs_name_the_plan_s_teacher():
    distilled = dataclasses.replace(TINY, strategies=("plain", "hmds"), teacher="teacher.plain_n0-75_s0")
    assert {(config.strategy, config.teacher) for config in distilled.configs()} == {
        ("plain", None),
        ("hmds", "teacher.plain_n0-75_s0"),
    }
