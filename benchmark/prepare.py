"""What `python -m benchmark.run` does before it evaluates: fetch missing images, show a plan, train what it is missing.

`run` imports this module when it is needed, for it loads torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
from pathlib import Path

from mdrn.recipe import TrainConfig

from benchmark import cluster, fetch, testsets
from benchmark.plan import Run, describe, runs_of
from benchmark.presets import PLANS
from benchmark.training import PlanError, check_teachers, remaining_seconds, train_all
from mdrn.checkpoint import read_header


def fetch_missing(options: argparse.Namespace, root: Path | None) -> Path:
    """Download what is missing of the images, or in a dry run say what would be; return the data root."""
    training = bool(options.preset) and any("bsds" in config.data for config in PLANS[options.preset].configs())
    root = root or fetch.cache_folder()
    folders = fetch.folders_of(options.sets, training)
    missing = {folder: len(fetch.missing_images(folder, root)) for folder in folders}
    listed = ", ".join(f"{folder} {count}" for folder, count in missing.items() if count)
    print(f"images missing in {root}: {listed or 'none'}", flush=True)
    if not options.dry_run:
        root.mkdir(parents=True, exist_ok=True)
        fetch.fetch(folders, root, fetch.HOST if options.fetch is True else options.fetch, options.quiet)
    return root


def planned_runs(options: argparse.Namespace, out: Path) -> list[Run]:
    """Print the plan of a preset and return its runs.

    Raises:
        PlanError: if the options leave none.
        CheckpointError: if there is no such teacher as was asked for.
    """
    plan = PLANS[options.preset]
    if options.teacher:
        read_header(options.teacher)
        plan = dataclasses.replace(plan, teacher=options.teacher)

    def keep(config: TrainConfig) -> bool:
        return (
            (options.levels is None or set(config.noise_level) <= set(options.levels))
            and (options.seeds is None or config.seed in options.seeds)
            and (options.only is None or any(fnmatch.fnmatch(config.id, pattern) for pattern in options.only))
        )

    runs = runs_of(plan, out, keep)
    if not runs:
        ids = ", ".join(config.id for config in plan.configs())
        raise PlanError(f"--preset {plan.name}: --only, --levels and --seeds leave no run of {ids}")
    print(describe(plan, runs, remaining_seconds(runs, options.device), options.jobs), flush=True)
    return runs


def train_missing(options: argparse.Namespace, runs: list[Run], root: Path | None) -> None:
    """Train what is not finished, or with --retrain everything, here or on a cluster.

    Raises:
        PlanError: if a teacher is missing; nothing is trained.
        DataError: if the training images are not what they should be; nothing is trained.
        TrainingError: if a run fails; the others' results are kept.
    """
    unfinished = runs if options.retrain else [run for run in runs if not run.finished]
    if not unfinished:
        return
    check_teachers(unfinished, runs)
    if any("bsds" in run.config.data for run in unfinished):
        testsets.check_training(root)
    if options.retrain:
        for run in runs:
            run.discard()
    if options.ray:
        cluster.train_all(runs, root, options.device, options.jobs, options.ray, options.quiet)
    else:
        train_all(runs, root, options.device, options.jobs, options.quiet)
