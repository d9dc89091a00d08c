"""Training what a plan lacks: each run once, one after another or several at once, here; `cluster` does so elsewhere.

A finished run is never done again, a killed one goes on where it stopped, and two processes never do the same one.
`run` and `cluster` import this module.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path

import filelock
import torch

from benchmark import rows
from benchmark.plan import POOLS, Run, duration, teacher_missing
from mdrn import train
from mdrn.data import PatchSource, fresh_batch, read_all, sample_files
from mdrn.denoiser import MdrnError
from mdrn.inference import reuse_freed_memory

_WARM_STEPS, _TIMED_STEPS = 2, 5


def train_one(run: Run, root: Path | None, device: str, threads: int | None = None, quiet: bool = False) -> Path:
    """Train a run if it is not finished, waiting for another process that is at it; return its weights file."""
    reuse_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    with run.lock():
        if not run.finished:
            options = {"teacher": run.teacher, "pools": run.out / POOLS, "plan": run.plan}
            options |= {"validations": run.validations, "root": root, "device": device, "quiet": quiet}
            train.fit(run.config, run.folder, **options)
    keep_record(run)
    return run.weights


def keep_record(run: Run) -> None:
    """Write what a finished run cost and gave to the results folder, in place of what the plan's same run gave before.

    A run that several plans share is kept with the first of them.
    """
    said, config = json.loads(run.record.read_text()), run.folder.name.rpartition("-")[2]
    history = said["history"]
    seconds = said.get("cpu_seconds") if said["device"].startswith("CPU") else said["seconds"]
    row = rows.RunRow(
        config=config,
        plan=run.plan,
        run=run.config.id,
        arm=run.arm,
        steps=said["steps"],
        minutes=None if seconds is None else seconds / 60,
        device=said["device"],
        threads=said["threads"],
        teacher=run.config.teacher or "",
        validation=" ".join(f"{level}:{psnr:.3f}" for level, psnr in (history[-1]["psnr"] if history else {}).items()),
    )
    known = rows.read(run.out / rows.RUNS, rows.RunRow)
    if any(dataclasses.replace(row, plan=k.plan, minutes=k.minutes) == k for k in known):
        return

    def place(row: rows.RunRow) -> tuple:
        return row.plan, row.run, row.arm, row.steps

    taken = {k.config for k in known if place(k) == place(row)}  # configurations that the plan had here
    points = [
        rows.CurvePoint(config, entry["step"], float(level), psnr)
        for entry in history
        for level, psnr in entry["psnr"].items()
    ]
    path = run.out / rows.CURVES / f"{run.plan}.csv"
    rows.append(path, points, rows.CurvePoint, replaces=lambda p: config if p.config in taken else p.config)
    rows.append(run.out / rows.RUNS, [row], rows.RunRow, replaces=place)


def train_all(runs: list[Run], root: Path | None, device: str, jobs: int = 1, quiet: bool = False) -> None:
    """Train what is missing: teachers first, then `jobs` runs at a time, those that others are at last.

    Raises:
        MdrnError: if a teacher is missing; nothing is trained.
        TrainingError: if a run fails; the others' results are kept.
    """
    first, rest = in_order(runs)
    for run in first + rest if jobs == 1 else first:
        train_one(run, root, device, quiet=quiet)
    if jobs == 1:
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(train_one, run, root, device, threads, quiet) for run in rest]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def in_order(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """Return what is to be trained: teachers that others wait for, and the rest, in hand elsewhere last.

    Raises:
        MdrnError: if a teacher is missing.
    """
    for run in runs:
        if run.finished:
            keep_record(run)
    waiting = sorted((run for run in runs if not run.finished), key=_in_hand)
    for run in waiting:
        if teacher_missing(run, runs):
            raise MdrnError(
                f"{run.label}: its teacher {run.teacher} is neither released nor a file; train it "
                "(`mdrn train --preset teacher`) and give --teacher FILE, or train --only '*.plain_*'"
            )
    needed = {run.teacher for run in waiting}
    first = [run for run in waiting if str(run.weights) in needed]
    return first, [run for run in waiting if run not in first]


def _in_hand(run: Run) -> bool:
    try:
        with run.lock().acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def describe(name: str, runs: list[Run], device: str, jobs: int) -> str:
    """Return a plan as text: every run, what it cost or will cost, and what is missing for it."""
    lines = [f"plan {name}: {len(runs)} runs, {sum(run.finished for run in runs)} done"]
    per_step: dict[tuple, float] = {}  # a step that reads stored answers takes about as long as a plain one
    spent = left = 0.0
    for run in runs:
        if run.finished:
            said = json.loads(run.record.read_text())
            psnr = said["history"][-1]["psnr"] if said["history"] else {}
            gave = "".join(f", {value:.2f} dB at {level}" for level, value in psnr.items())
            lines.append(f"  {run.label}: done in {duration(said['seconds'])}{gave}")
            spent += said["seconds"]
        elif teacher_missing(run, runs):
            lines.append(f"  {run.label}: waits for its teacher {run.teacher}, which is neither released nor a file")
        else:
            done, steps = run.steps_done, run.config.steps
            state = f"at step {done} of {steps}" if done else f"missing, {steps} steps"
            kind = (run.config.model, run.config.batch_size, run.config.patch_size)
            if kind not in per_step:
                per_step[kind] = seconds_per_step(run.config, device)
            seconds = per_step[kind] * (steps - done)
            lines.append(f"  {run.label}: {state}, about {duration(seconds)}")
            left += seconds
    at_once = f", {jobs} runs at a time share the machine" if jobs > 1 else ""
    rest = f"about {duration(left)} left, from one step measured now"
    lines.append(f"  training: {duration(spent)} recorded; {rest}{at_once}")
    return "\n".join(lines)


def seconds_per_step(config: train.TrainConfig, device: str) -> float:
    """Measure how long a plain step of a run takes here, on bundled photographs and without a trace."""
    config = dataclasses.replace(config, strategy="plain", teacher=None, init_from=None)
    target = torch.device(device)
    source = PatchSource.from_images(read_all(sample_files()[2:], config.model.channels), target)
    run = train.Run(config, train.build_criterion(config, None), target, source.digest)
    began = 0.0
    for step in range(_WARM_STEPS + _TIMED_STEPS):
        if step == _WARM_STEPS:
            began = time.perf_counter()
        generator = train.step_generator(config.seed, step, target)
        run.train_step(fresh_batch(source, *config.batch_shape(0.0), config.noise_level, 0.0, generator), 0.5)
        run.check_finite()
    return (time.perf_counter() - began) / _TIMED_STEPS
