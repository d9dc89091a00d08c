"""Training: one linear loop over one or several runs, which can be killed anywhere and resumed to the same bytes.

It needs torch, NumPy, timm, safetensors and Pillow alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mdrn import checkpoint, metrics, noise
from mdrn.data import PatchSource, data_root, read_uint8, training_files, validation_files
from mdrn.distill import Guide
from mdrn.recipe import RECIPE, TrainConfig
from mdrn.teacher import TeacherConfig
from mdrn.trainer import Trainer, build_criterion, draw_batch

CHECK_EVERY = 50  # steps between looks at the loss: a look makes the host wait for a GPU


def validation_levels(noise_level: tuple[float, float]) -> list[float]:
    """Return the levels at which a network for one level, or a range, is validated."""
    low, high = noise_level
    return [low] if low == high else [level for level in (15.0, 25.0, 50.0) if low <= level <= high] or [low, high]


def validate(model: nn.Module, images: list[np.ndarray], levels: list[float], bf16: bool = False) -> dict[str, float]:
    """Return the mean PSNR in dB at each level over `images` (uint8), with the benchmark's noise."""
    device = next(model.parameters()).device
    scores: dict[str, float] = {}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for level in levels:
            values = []
            for image in images:
                noisy = torch.from_numpy(noise.benchmark_noisy(image, level)).to(device)
                noisy = noisy[None, None] if image.ndim == 2 else noisy.permute(2, 0, 1)[None]
                restored = model(noisy.contiguous(memory_format=torch.channels_last), noise.to_sigma(level))
                array = restored[0].float().permute(1, 2, 0).cpu().numpy().reshape(image.shape)
                values.append(metrics.psnr(metrics.to_uint8(array), image))
            scores[f"{level:g}"] = float(np.mean(values))
    return scores


def fit(config: TrainConfig, out: Path, *arguments, criterion: nn.Module | None = None, **options) -> Path:
    """Train one network, or continue where an interrupted run of the same configuration stopped.

    Args:
        config: what to train.
        out: see `fit_together`.
        *arguments: see `fit_together`.
        criterion: what to minimise; None is what the configuration says.
        **options: see `fit_together`.

    Returns:
        Path of the weights file: the running mean, `{id}.safetensors`.

    Raises:
        TrainingError: if the loss is not finite, or `out` holds another run of this id.
        DataError: if the training images are missing.
    """
    criteria = None if criterion is None else [criterion]
    return fit_together([config], out, *arguments, criteria=criteria, **options)[0]


def fit_together(
    configs: Sequence[TrainConfig],
    out: Path,
    root: Path | None = None,
    device: str = "cpu",
    criteria: Sequence[nn.Module] | None = None,
    validations: int = 10,
    save_seconds: float = 60.0,
    quiet: bool = False,
) -> list[Path]:
    """Train networks side by side on the same batches, their teacher's passes shared.

    Each one's weights are, to the byte, those of a run of its own. What they share must be equal: seed, cycle, steps,
    batch and patch size, noise level, training sets and channels.

    Args:
        configs: what to train.
        out: folder for each run's `{id}.state.safetensors` (to resume), `{id}.json` (curve and time) and weights.
        root: folder of image sets; None uses MDRN_DATA.
        device: 'cpu' or 'cuda'.
        criteria: what to minimise, one for each run; None is what the configurations say.
        validations: how often to validate, evenly spaced, the last at the end.
        save_seconds: time between checkpoints.
        quiet: whether to hide the progress bar.

    Returns:
        Paths of the weights files, in the order of `configs`.

    Raises:
        TrainingError: if a loss is not finite, or `out` holds another run of an id.
        DataError: if the training images are missing.
        ValueError: if the configurations cannot share their batches.
    """
    shared = _check_shared(configs)
    root, target, git = data_root(root), torch.device(device), git_revision()
    files = [path for name in shared.data for path in training_files(name, root)]
    channels = shared.model.channels
    source = PatchSource.from_files(files, channels, target)
    bundled = set(shared.data) == {"samples"}  # then nothing else is needed
    held_out = [read_uint8(path, channels) for path in validation_files(None if bundled else root)]
    guides: dict[str, Guide] = {}
    criteria = criteria or [build_criterion(config, guides) for config in configs]
    trainers = [Trainer(config, criterion, target) for config, criterion in zip(configs, criteria, strict=True)]
    for trainer in trainers:
        if (out / trainer.state_name).exists():
            trainer.resume(out / trainer.state_name)
    levels = validation_levels(shared.noise_level)
    marks = {math.ceil(shared.steps * k / validations) for k in range(1, validations + 1)} if validations else set()

    first = min(trainer.step for trainer in trainers)  # a kill between two saves leaves some runs behind the others
    began = saved = time.monotonic()
    earlier = [trainer.seconds for trainer in trainers]
    name = configs[0].id + (f" and {len(configs) - 1} more" if len(configs) > 1 else "")
    with tqdm(total=shared.steps, initial=first, desc=name, unit="step", disable=quiet, mininterval=1) as bar:
        for step in range(first, shared.steps):
            batch = draw_batch(shared, source, step)
            behind = [trainer for trainer in trainers if trainer.step == step]
            for trainer in behind:
                trainer.train_step(*batch)
            bar.update()
            now = time.monotonic()
            due = step + 1 in marks
            save_now = due or step + 1 == shared.steps or now - saved > save_seconds
            if save_now or (step + 1) % CHECK_EVERY == 0:
                for trainer in behind:
                    trainer.check_finite()
                rate = (step + 1 - first) * shared.batch_size * len(configs) / (now - began)
                bar.set_postfix(patches_s=f"{rate:.0f}", **trainers[-1].summary())
            if due:
                for trainer in behind:
                    psnr = validate(trainer.ema.module, held_out, levels, shared.bf16)
                    trainer.history.append({"step": step + 1, "loss": float(trainer.loss), "psnr": psnr})
            if save_now:
                saved = time.monotonic()
                for trainer, seconds in zip(trainers, earlier, strict=True):
                    if trainer in behind:
                        trainer.seconds = seconds + (saved - began) / len(trainers)
                        trainer.save(out / trainer.state_name)
    return [_release(trainer, out, source.digest, git) for trainer in trainers]


def _check_shared(configs: Sequence[TrainConfig]) -> TrainConfig:
    names = ("seed", "cycle", "steps", "batch_size", "patch_size", "large_patches", "noise_level", "data", "bf16")
    for config in configs[1:]:
        for name in names:
            if getattr(config, name) != getattr(configs[0], name):
                raise ValueError(f"{name}: runs side by side share it, got {config.id} with {getattr(config, name)}")
        if config.model.channels != configs[0].model.channels:
            raise ValueError("channels: runs side by side share their batches, got grey and RGB networks")
    if len({config.id for config in configs}) != len(configs):
        raise ValueError("configs: two runs side by side have one id; give each a preset or strategy of its own")
    return configs[0]


def _release(trainer: Trainer, out: Path, data_digest: str, git: str) -> Path:
    """Write a finished run's weights and record; return the path of the weights."""
    config = trainer.config
    header = checkpoint.Header(
        id=config.id,
        model=config.model,
        noise_level=config.noise_level,
        strategy=config.strategy,
        seed=config.seed,
        patches=trainer.earlier_patches + config.steps * config.batch_size,
        recipe={"version": RECIPE, **{k: v for k, v in dataclasses.asdict(config).items() if k != "model"}},
        data={"sets": "+".join(config.data), "sha256": data_digest},
        git=git,
        torch=torch.__version__,
        architecture="teacher" if isinstance(config.model, TeacherConfig) else "mdrn",
    )
    weights = out / f"{config.id}.safetensors"
    checkpoint.write_weights(weights, trainer.ema.module, header)
    curve = {"id": config.id, "seconds": trainer.seconds, "device": trainer.device.type}
    curve |= {"threads": torch.get_num_threads(), "patches": header.patches}
    curve |= {"earlier_patches": trainer.earlier_patches, "history": trainer.history}
    checkpoint.write_atomically(out / f"{config.id}.json", json.dumps(curve, indent=1).encode())
    return weights


def git_revision() -> str:
    """Return the commit of this source tree, with '+dirty' if it has uncommitted changes; 'unknown' outside git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
