"""Training of a plan: each run once, from stored draws where it reads such, and on from where it was killed."""

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
from test_plan import OPTIONS, TAUGHT, TINY, changed

from benchmark import plan, rows, training
from benchmark.plan import Run, runs_of
from benchmark.training import describe, train_all
from mdrn import checkpoint, train
from mdrn.denoiser import MdrnError
from mdrn.train import TrainingError


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.delenv("MDRN_DATA", raising=False)


@pytest.fixture
def fitted(monkeypatch):
    """Replace training by something that keeps count and leaves behind what training leaves."""
    calls = []

    def fit(config, out, **options):
        calls.append(config.id)
        time.sleep(0.05)
        history = [{"step": 2, "loss": 0.1, "psnr": {"25": 20.0}}, {"step": 4, "loss": 0.1, "psnr": {"25": 21.5}}]
        record = {"id": config.id, "seconds": 90.0, "cpu_seconds": 120.0, "device": "CPU"}
        record |= {"threads": 1, "steps": 4, "history": history}
        (out / f"{config.id}.json").write_text(json.dumps(record))
        (out / f"{config.id}.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(Run, "finished", property(lambda run: run.weights.is_file()))
    return calls


def runs_in(out: Path, known=TINY) -> list[Run]:
    return runs_of("test", known, out)


def test_finished_runs_are_not_done_again_and_what_they_cost_is_kept(tmp_path, fitted):
    runs = runs_in(tmp_path)
    assert not any(run.finished for run in runs)
    train_all(runs[:3], None, "cpu", quiet=True)
    train_all(runs, None, "cpu", quiet=True)
    assert fitted == [run.config.id for run in runs]
    assert all(run.finished for run in runs)
    known = rows.read(tmp_path / rows.RUNS, rows.RunRow)
    assert [(row.run, row.minutes, row.validation) for row in known] == [(name, 2.0, "25:21.500") for name in fitted]
    points = rows.read(tmp_path / rows.CURVES / "test.csv", rows.CurvePoint)
    assert [(p.step, p.psnr) for p in points if p.config == known[0].config] == [(2, 20.0), (4, 21.5)]
    runs[0].weights.unlink()
    assert [run.finished for run in runs] == [False, True, True, True]


def test_runs_that_were_trained_elsewhere_are_kept_too(tmp_path, fitted):
    runs = runs_in(tmp_path)
    train_all(runs, None, "cpu", quiet=True)
    (tmp_path / rows.RUNS).unlink()
    train_all(runs, None, "cpu", quiet=True)
    assert len(rows.read(tmp_path / rows.RUNS, rows.RunRow)) == 4


def test_a_changed_configuration_takes_the_record_and_the_curve_of_the_one_before(tmp_path, fitted):
    train_all(runs_in(tmp_path), None, "cpu", quiet=True)
    before = rows.read(tmp_path / rows.RUNS, rows.RunRow)
    faster = changed(TINY, options=OPTIONS | {"learning_rate": 1e-3})
    train_all(runs_in(tmp_path, faster), None, "cpu", quiet=True)
    after = rows.read(tmp_path / rows.RUNS, rows.RunRow)
    assert sorted(row.run for row in after) == sorted(row.run for row in before)
    assert {row.config for row in after} != {row.config for row in before}
    points = rows.read(tmp_path / rows.CURVES / "test.csv", rows.CurvePoint)
    assert {p.config for p in points} == {row.config for row in after}
    train_all(runs_of("another", faster, tmp_path), None, "cpu", quiet=True)
    assert rows.read(tmp_path / rows.RUNS, rows.RunRow) == after


def test_the_teacher_comes_first(tmp_path, fitted):
    train_all(runs_in(tmp_path, TAUGHT)[::-1], None, "cpu", quiet=True)
    assert fitted[0] == "teacher.plain_n0-75_s0" and len(fitted) == 4


def test_two_at_once_do_a_run_once(tmp_path, fitted):
    runs = runs_in(tmp_path)
    threads = [threading.Thread(target=train_all, args=(runs, None, "cpu"), kwargs={"quiet": True}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fitted) == sorted(run.config.id for run in runs)


def test_what_another_process_has_in_hand_comes_last(tmp_path, fitted):
    runs = runs_in(tmp_path)
    runs[0].lock()  # makes the folder
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


def test_a_failed_run_says_so(tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(train, "fit", diverge)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train_all(runs_in(tmp_path), None, "cpu", quiet=True)


def test_without_its_teacher_nothing_is_trained(tmp_path, fitted):
    lacking = dataclasses.replace(TAUGHT, teacher="teacher.plain_n0-75_s9")
    with pytest.raises(MdrnError, match="its teacher teacher.plain_n0-75_s9 is neither released nor a file; train it"):
        train_all(runs_in(tmp_path, lacking), None, "cpu", quiet=True)
    assert fitted == []


def test_a_plan_says_what_it_cost_what_it_gave_and_what_is_left(tmp_path, monkeypatch, fitted):
    timed = []
    monkeypatch.setattr(training, "seconds_per_step", lambda config, device: timed.append(config.id) or 2.0)
    runs = runs_in(tmp_path)
    train_all(runs[:1], None, "cpu", quiet=True)
    assert describe("test", runs, "cpu", jobs=1).splitlines() == [
        "plan test: 4 runs, 1 done",
        "  mdrn_tiny.plain_n25_s0@4: done in 90 s, 21.50 dB at 25",
        *(f"  {run.label}: missing, 4 steps, about 8 s" for run in runs[1:]),
        "  training: 90 s recorded; about 24 s left, from one step measured now",
    ]
    assert len(timed) == 1  # once for each kind of network and batch
    lacking = dataclasses.replace(TAUGHT, teacher="teacher.plain_n0-75_s9")
    assert "waits for its teacher teacher.plain_n0-75_s9, which" in describe("x", runs_in(tmp_path, lacking), "cpu", 1)


def test_a_step_is_timed_for_real(tmp_path):
    config = runs_in(tmp_path)[0].config
    assert 0 < training.seconds_per_step(config, "cpu") < 60
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_plan_with_its_teacher_and_stored_answers_leaves_weights_that_load(tmp_path):
    pooled = changed(TAUGHT, strategies=("plain", "hmds"), options=OPTIONS | {"pool": 16})
    runs = runs_in(tmp_path, pooled)
    train_all(runs, None, "cpu", quiet=True)
    for run in runs:
        assert run.finished and run.steps_done == 4
        header = checkpoint.load(run.weights).header
        assert (header.plan, header.steps) == ("test", 4)
    assert header.recipe["teacher"].startswith("teacher.plain_n0-75_s0@")
    (pool,) = (tmp_path / plan.POOLS).glob("pool-*")  # one for all students
    assert len(list(pool.glob("*hmds*.npy"))) == 2  # the answers to both views
    known = rows.read(tmp_path / rows.RUNS, rows.RunRow)
    assert [row.run for row in known] == [run.config.id for run in runs]
    assert known[-1].teacher == header.recipe["teacher"]


_SCRIPT = """
import sys
from benchmark import run
from mdrn.denoiser import MdrnError
options = ["--preset", "smoke", "--quiet", "--lpips", "none", "--methods", "noisy", "mdrn_*", "teacher*"]
sys.exit(run.main([*options, "--out", *sys.argv[1:]]))
"""


def _numbers(out: Path) -> list[tuple]:
    evaluations = {e.id: (*e.identity, e.pixels) for e in rows.read_evaluations(out)}
    found = [row for name in ("smoke", "baselines") for row in rows.read(rows.rows_path(out, name), rows.Row)]
    return sorted((str(evaluations[row.evaluation]), row.image, row.psnr, row.ssim) for row in found)


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
    assert _numbers(killed) == _numbers(undisturbed), f"seed of the moments: {seed}"


@pytest.mark.slow
def test_two_invocations_and_several_jobs_do_each_run_once(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert _start(alone).wait(600) == 0
    processes = [_start(shared, "--jobs", "2"), _start(shared)]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert _numbers(shared) == _numbers(alone)
