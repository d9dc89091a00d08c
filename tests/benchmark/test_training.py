"""Training of a plan: each run once, side by side where it can be, and on from where it was killed."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mdrn.trainer import TrainingError

from benchmark import plan, rows, training
from benchmark.plan import Run, describe, runs_of
from benchmark.training import PlanError, remaining_seconds, train_all, train_group
from mdrn import checkpoint, train
from tests.test_benchmark_plan import TAUGHT, TINY


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.delenv("MDRN_DATA", raising=False)


@pytest.fixture
def fitted(monkeypatch):
    """Replace training by something that keeps count and leaves behind what training leaves."""
    calls = []

    def fit_together(configs, out, **options):
        calls.append([config.id for config in configs])
        time.sleep(0.05)
        for config in configs:
            (out / f"{config.id}.safetensors").write_bytes(b"weights")
            (out / f"{config.id}.json").write_text(json.dumps({"id": config.id}))

    monkeypatch.setattr(train, "fit_together", fit_together)
    monkeypatch.setattr(training, "build_criterion", lambda config, guides: None)
    monkeypatch.setattr(Run, "finished", property(lambda run: run.weights.is_file()))
    return calls


def flat(calls: list[list[str]]) -> list[str]:
    return [run for call in calls for run in call]


def test_finished_runs_are_not_done_again(tmp_path, fitted):
    runs = runs_of(TINY, tmp_path)
    assert not any(run.finished for run in runs)
    train_all(runs[:3], None, "cpu", quiet=True)
    train_all(runs, None, "cpu", quiet=True)
    assert flat(fitted) == [run.config.id for run in runs]
    assert all(run.finished for run in runs)
    assert len(list((tmp_path / "curves" / "test").iterdir())) == 4
    runs[0].discard()
    assert [run.finished for run in runs] == [False, True, True, True]


def test_a_group_trains_at_once_and_what_is_done_of_it_stays_out(tmp_path, fitted):
    runs = runs_of(TAUGHT, tmp_path, lambda config: config.seed == 0)
    train_all(runs[:2], None, "cpu", quiet=True)
    train_all(runs, None, "cpu", quiet=True)
    assert fitted == [
        ["teacher.plain_n0-75_s0"],
        ["mdrn_tiny.plain_n25_s0"],
        ["mdrn_tiny.hmds_c_n25_s0", "mdrn_tiny.hmds_n25_s0"],
    ]


def test_two_at_once_do_a_run_once(tmp_path, fitted):
    runs = runs_of(TINY, tmp_path)
    threads = [threading.Thread(target=train_all, args=(runs, None, "cpu"), kwargs={"quiet": True}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(flat(fitted)) == sorted(run.config.id for run in runs)


def test_what_another_process_has_in_hand_comes_last(tmp_path, fitted):
    runs = runs_of(TINY, tmp_path)
    runs[0].lock()  # makes the folder
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(runs[0].workplace / ".lock")], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    worker = threading.Thread(target=train_all, args=(runs, None, "cpu"), kwargs={"quiet": True})
    worker.start()
    deadline = time.monotonic() + 30
    while len(fitted) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert flat(fitted) == [run.config.id for run in runs[1:]]
    holder.communicate(b"\n")
    worker.join()
    assert flat(fitted)[-1] == runs[0].config.id


_HOLD = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.readline()"


def test_a_failed_run_says_so(tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(train, "fit_together", diverge)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train_all(runs_of(TINY, tmp_path), None, "cpu", quiet=True)


def test_without_its_teacher_nothing_is_trained(tmp_path, fitted):
    lacking = dataclasses.replace(TAUGHT, teacher="teacher.plain_n0-75_s9")
    with pytest.raises(PlanError, match="its teacher teacher.plain_n0-75_s9 is neither released nor a file; train it"):
        train_all(runs_of(lacking, tmp_path), None, "cpu", quiet=True)
    assert fitted == []


def test_time_left_is_measured_once_for_each_kind_of_group(tmp_path, monkeypatch, fitted):
    measured = []
    monkeypatch.setattr(training, "seconds_per_step", lambda runs, device: measured.append(len(runs)) or 2.0)
    runs = runs_of(TINY, tmp_path)
    train_all(runs[:1], None, "cpu", quiet=True)
    left = remaining_seconds(runs, "cpu")
    assert left == {run.config.id: 6.0 for run in runs[1:]}
    assert measured == [1]
    text = describe(TINY, runs, left, jobs=1)
    assert "plan test: 4 runs, 1 done" in text
    assert "mdrn_tiny.plain_n25_s0: done" in text
    assert "training left: about 18 s, measured here" in text
    taught = remaining_seconds(runs_of(TAUGHT, tmp_path / "taught"), "cpu")
    assert set(taught.values()) == {6.0, 2.0}  # three share theirs
    assert measured == [1, 1, 3]


def test_a_step_is_timed_for_real_with_a_stand_in_for_the_teacher(tmp_path):
    group = runs_of(TAUGHT, tmp_path)[1:3]
    assert [run.config.strategy for run in group] == ["plain", "hmds_c"]
    assert 0 < training.seconds_per_step(group, "cpu") < 60
    assert not any(tmp_path.iterdir())


def test_a_real_plan_with_its_teacher_leaves_weights_that_load(tmp_path):
    runs = runs_of(TAUGHT, tmp_path, lambda config: config.seed == 0)
    train_all(runs, None, "cpu", quiet=True)
    for run in runs:
        assert run.finished
        assert checkpoint.load(run.weights).header.patches == 3
        assert not list(run.workplace.glob("*.safetensors"))
    header = checkpoint.read_header(runs[-1].weights)
    assert header.recipe["teacher"].startswith("teacher.plain_n0-75_s0@")
    apart = dataclasses.replace(TAUGHT, strategies=("hmds",))
    (_, alone) = runs_of(apart, tmp_path / "apart", lambda config: config.seed == 0)
    train_all(runs_of(apart, tmp_path / "apart", lambda config: config.seed == 0), None, "cpu", quiet=True)
    assert checkpoint.read_header(alone.weights).sha256 == header.sha256  # side by side changes nothing


def test_a_kill_between_two_results_of_a_group_loses_neither(tmp_path, monkeypatch):
    runs = runs_of(TAUGHT, tmp_path, lambda config: config.seed == 0)
    train_group(runs[:1], None, "cpu", quiet=True)
    keep = Run.keep

    def killed(run):
        if run.config.strategy == "hmds_c":
            raise KeyboardInterrupt
        keep(run)

    monkeypatch.setattr(Run, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        train_all(runs, None, "cpu", quiet=True)
    monkeypatch.setattr(Run, "keep", keep)
    assert [run.finished for run in runs] == [True, True, False, False]
    assert [run.steps_done for run in runs] == [3, 3, 3, 3]
    train_all(runs, None, "cpu", quiet=True)
    assert all(run.finished for run in runs)


_SCRIPT = """
import dataclasses, sys
from benchmark import methods, presets, run
methods.cost = lambda *_: {}
smoke = presets.PLANS["smoke"]
short = {"steps": 60, "batch_size": 2, "patch_size": 16}
teacher = dataclasses.replace(smoke.teacher, **short)
presets.PLANS["smoke"] = dataclasses.replace(smoke, options=smoke.options | short, validations=6, teacher=teacher)
options = ["--preset", "smoke", "--quiet", "--lpips", "none", "--methods", "noisy", "mdrn*", "teacher*"]
sys.exit(run.main([*options, "--out", *sys.argv[1:]]))
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
def test_killed_at_ten_random_moments_gives_the_same_rows(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    began = time.monotonic()
    assert _start(undisturbed).wait(600) == 0
    whole = time.monotonic() - began
    moments = random.Random()
    seed = moments.randrange(10**6)
    moments.seed(seed)
    for _ in range(10):
        process = _start(killed)
        try:
            process.wait(whole * moments.uniform(0.1, 0.9))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert _start(killed).wait(600) == 0
    assert sorted(_numbers(killed)) == sorted(_numbers(undisturbed)), f"seed of the moments: {seed}"


@pytest.mark.slow
def test_two_invocations_and_several_jobs_do_each_run_once(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert _start(alone).wait(600) == 0
    processes = [_start(shared, "--jobs", "2"), _start(shared)]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert sorted(_numbers(shared)) == sorted(_numbers(alone))
