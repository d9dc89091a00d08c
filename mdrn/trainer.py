"""One run's state: built from its configuration, stepped, saved and resumed to the byte. `train` drives it.

All randomness of step k comes from generators seeded by (seed, k, cycle), so a checkpoint holds no generator state and
two runs of one seed and cycle see the same patches and noise.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mdrn import checkpoint, noise
from mdrn.data import PatchSource
from mdrn.distill import Distilled, Guide, Supervised
from mdrn.model import ModelConfig
from mdrn.recipe import TrainConfig
from mdrn.teacher import TeacherConfig


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to try."""


def build_model(config: TrainConfig) -> tuple[nn.Module, int]:
    """Return the network with its first weights, and the patches it has already been trained on."""
    if config.init_from:
        model = checkpoint.load(config.init_from)
        if model.config != config.model:
            raise ValueError(f"init_from: expected a network like {config.model}, got {model.config}")
        return model.train(), model.header.patches
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.model.build(), 0


def build_criterion(config: TrainConfig, guides: dict[str, Guide] | None = None) -> nn.Module:
    """Return what the configuration minimises.

    Args:
        config: of the run.
        guides: teachers by name, so that runs side by side share them; a new one is added.
    """
    supervised = Supervised(config.loss, config.stage_weight, config.mse_share)
    if config.strategy == "plain":
        return supervised
    guides = {} if guides is None else guides
    guide = guides.setdefault(config.teacher, None) or Guide(checkpoint.load(config.teacher))
    guides[config.teacher], teacher = guide, guide.teacher
    low, high = teacher.header.noise_level
    if not low <= config.noise_level[0] <= config.noise_level[1] <= high:
        raise ValueError(f"teacher: {config.teacher} knows levels {low:g} to {high:g}, got {config.noise_level}")
    if teacher.config.channels != config.model.channels:
        raise ValueError(f"teacher: {config.teacher} has {teacher.config.channels} channels, not the student's")
    widths = {
        ours: (_width(config.model, ours), _width(teacher.config, theirs))
        for ours, theirs in config.distill.matches
        if _parsed(ours)[0] <= config.model.stages
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Distilled(supervised, config.strategy, guide, config.distill, widths)


def _width(config: ModelConfig | TeacherConfig, feature: str) -> int:
    """Return the channels of a feature named 'stage{s}.scale{i}' or 'scale{i}'."""
    scale = _parsed(feature)[1]
    if not 1 <= scale <= len(config.widths):
        raise ValueError(f"matches: expected scales 1 to {len(config.widths)}, got {feature!r}")
    return config.widths[scale - 1]


def _parsed(feature: str) -> tuple[int, int]:
    """Return the stage (0 for a feature that names none) and the scale in a feature's name."""
    found = re.fullmatch(r"(?:stage(\d+)\.)?scale(\d+)", feature)
    if not found:
        raise ValueError(f"matches: expected names such as 'stage1.scale3' and 'scale3', got {feature!r}")
    return int(found[1] or 0), int(found[2])


def step_generator(config: TrainConfig, step: int, device: torch.device, stream: int = 0) -> torch.Generator:
    """Return the generator of one step: stream 0 for patches, levels and noise in this order, 1 for the criterion."""
    entropy = [config.seed, step, stream, config.cycle]
    while len(entropy) > 2 and not entropy[-1]:
        entropy.pop()
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))


def draw_batch(config: TrainConfig, source: PatchSource, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw a step's clean patches (B, C, P, P), their noisy versions (channels last) and their sigma (B,)."""
    generator = step_generator(config, step, source.pixels.device)
    clean = source.draw(*config.batch_shape(step), generator)
    low, high = (noise.to_sigma(level) for level in config.noise_level)
    uniform = torch.rand(len(clean), generator=generator, device=clean.device)
    sigma = low + (high - low) * uniform
    noisy = noise.add_training_noise(clean, sigma, generator)
    return clean, noisy.contiguous(memory_format=torch.channels_last), sigma


class Trainer:
    """A run's whole state: network, its running mean, optimizer, schedule, criterion, step and validation history."""

    def __init__(self, config: TrainConfig, criterion: nn.Module, device: torch.device) -> None:
        from timm.optim import create_optimizer_v2
        from timm.scheduler import CosineLRScheduler
        from timm.utils import ModelEmaV3

        self.config, self.device = config, device
        model, self.earlier_patches = build_model(config)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.criterion = criterion.to(device)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True)
        modules = nn.ModuleList([self.model, self.criterion])
        options = {"fused": True} if config.optimizer == "adamw" else {}  # one pass over each tensor, not ten
        self.optimizer = create_optimizer_v2(
            modules, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay, **options
        )
        warmup = min(config.warmup_steps, config.steps // 10)
        self.scheduler = CosineLRScheduler(
            self.optimizer,
            t_initial=config.steps,
            lr_min=config.learning_rate * config.final_learning_rate,
            warmup_t=warmup,
            warmup_lr_init=config.learning_rate * 0.01,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self.trained = [p for p in modules.parameters() if p.requires_grad]
        self.step = 0
        self.loss = torch.zeros(())
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        if device.type == "cuda":
            name = "_run" if hasattr(self.model, "_run") else "forward_features"
            setattr(self.model, name, torch.compile(getattr(self.model, name)))

    @property
    def state_name(self) -> str:
        """Name of the file that `save` writes and `resume` reads."""
        return f"{self.config.id}.state.safetensors"

    def train_step(self, clean: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor) -> None:
        """Take one step on what `draw_batch` returned for it; `loss` stays on the device."""
        self.scheduler.step_update(self.step)
        generator = step_generator(self.config, self.step, self.device, stream=1)
        self.criterion.begin_step(generator, self.step / self.config.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            terms = self.criterion(self.model, noisy, clean, sigma)
        self.optimizer.zero_grad()
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.model, step=self.step)
        self.step += 1
        self.loss = terms["loss"].detach()

    def check_finite(self) -> None:
        """Stop a run that has gone astray.

        Raises:
            TrainingError: if the loss is not finite.
        """
        if not torch.isfinite(self.loss):
            raise TrainingError(
                f"{self.config.id}: the loss is {float(self.loss)} at step {self.step}; the last checkpoint is kept. "
                f"Try half the learning rate (now {self.config.learning_rate:g}), a longer warm-up, or bf16 off"
            )

    def summary(self) -> dict[str, str]:
        """Return loss and last validation, for a progress bar."""
        psnr = self.history[-1]["psnr"] if self.history else {}
        return {"loss": f"{self.loss:.5f}"} | {f"dB@{level}": f"{value:.2f}" for level, value in psnr.items()}

    def save(self, path: Path) -> None:
        """Write everything that resuming needs into one file, atomically."""
        tensors, numbers = {}, {}
        modules = {"model": self.model, "ema": self.ema.module, "criterion": self.criterion}
        for prefix, module in modules.items():
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        state = self.optimizer.state_dict()
        for index, values in state["state"].items():
            for name, value in values.items():
                kind = tensors if isinstance(value, torch.Tensor) else numbers
                kind[f"optimizer.{index}.{name}"] = value
        header = {
            "config": dataclasses.asdict(self.config),
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in state["param_groups"]],
            "numbers": numbers,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        checkpoint.write_atomically(path, save(tensors, metadata={"state": json.dumps(header)}))

    def resume(self, path: Path) -> None:
        """Continue from a file that `save` wrote for the same configuration.

        Raises:
            TrainingError: if the file is damaged or belongs to another configuration.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise TrainingError(f"{path}: not a readable checkpoint ({error}); delete it to start again") from error
        if header["config"] != json.loads(json.dumps(dataclasses.asdict(self.config))):
            raise TrainingError(f"{path}: belongs to another configuration; give another --out, or delete that file")
        for prefix, module in (("model", self.model), ("ema", self.ema.module), ("criterion", self.criterion)):
            start = len(prefix) + 1
            module.load_state_dict({n[start:]: t for n, t in tensors.items() if n.startswith(f"{prefix}.")})
        state = self.optimizer.state_dict()
        for name, value in (tensors | header["numbers"]).items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, field = rest.partition(".")
                state["state"].setdefault(int(index), {})[field] = value
        for group, saved in zip(state["param_groups"], header["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
        self.optimizer.load_state_dict(state)
        for parameter, values in self.optimizer.state.items():  # fused steps take memory as it lies
            for field, value in values.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    values[field] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.step, self.seconds, self.history = header["step"], header["seconds"], header["history"]
