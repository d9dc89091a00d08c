"""Training: one linear loop that can be killed anywhere and resumed to the same bytes.

It needs torch, NumPy, timm, safetensors and Pillow alone. All randomness of step k comes from generators seeded by
(seed, k), so a checkpoint holds no generator state and two runs of one seed see the same patches and noise.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from tqdm import tqdm

from mdrn import checkpoint, metrics, noise
from mdrn.data import PatchSource, data_root, read_uint8, training_files, validation_files
from mdrn.distill import STRATEGIES, DistillConfig, Distilled, Supervised
from mdrn.model import PRESETS, ModelConfig
from mdrn.teacher import TEACHERS, TeacherConfig

RECIPE = "v0"
NETWORKS = PRESETS | TEACHERS
CHECK_EVERY = 50  # steps between looks at the loss: a look makes the host wait for a GPU


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to try."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result. Same configuration, machine and thread count: same bytes.

    Args:
        preset: name of the network's size, as in `NETWORKS`; `model` overrides what it stands for.
        noise_level: lowest and highest level on the 8-bit scale, drawn uniformly for every patch.
        strategy: 'plain', 'hmds_c', 'hmds_n' or 'hmds', see `mdrn.distill.Distilled`.
        teacher: released id or file of the teacher; every strategy but 'plain' needs one.
        distill: how the teacher guides.
        seed: of initial weights, patches and noise.
        steps: length of the run, and of its learning-rate schedule.
        batch_size: patches in a step.
        patch_size: side of a patch in pixels.
        data: training sets, see `mdrn.data.training_files`.
        loss: see `mdrn.distill.Supervised`.
        stage_weight: see `mdrn.distill.Supervised`.
        optimizer: a name timm knows.
        learning_rate: its peak.
        final_learning_rate: its end, as a fraction of the peak (cosine).
        warmup_steps: linear warm-up from 1 % of the peak; at most a tenth of the steps.
        weight_decay: as the optimizer understands it; not applied to biases.
        clip_norm: largest gradient norm.
        ema_decay: of the weights' running mean, which is what is released.
        bf16: whether convolutions run in bfloat16 (autocast).
        init_from: released id or file whose weights start the run; None draws them from the seed.
        model: the network; None takes the preset's.

    Raises:
        ValueError: if a field is outside what is listed, or fields do not go together.
    """

    preset: str = "mdrn"
    noise_level: tuple[float, float] = (25.0, 25.0)
    strategy: str = "plain"
    teacher: str | None = None
    distill: DistillConfig = DistillConfig()
    seed: int = 0
    steps: int = 20_000
    batch_size: int = 16
    patch_size: int = 64
    data: tuple[str, ...] = ("bsds",)
    loss: str = "l1"
    stage_weight: float = 0.1
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.01
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    bf16: bool = True
    init_from: str | None = None
    model: ModelConfig | TeacherConfig | None = None

    def __post_init__(self) -> None:
        if self.model is None:
            if self.preset not in NETWORKS:
                raise ValueError(f"preset: expected one of {', '.join(NETWORKS)}, got {self.preset!r}")
            object.__setattr__(self, "model", NETWORKS[self.preset])
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if (self.strategy == "plain") != (self.teacher is None):
            raise ValueError(f"teacher: every strategy but plain needs one, got {self.teacher!r} for {self.strategy}")
        low, high = (noise.check_noise_level(level) for level in self.noise_level)
        if low > high:
            raise ValueError(f"noise_level: expected lowest then highest, got {low:g} then {high:g}")
        object.__setattr__(self, "noise_level", (low, high))
        for name in ("steps", "batch_size", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def id(self) -> str:
        """The run's name everywhere: '{preset}.{strategy}_n{level}_s{seed}'."""
        low, high = self.noise_level
        level = f"{low:g}" if low == high else f"{low:g}-{high:g}"
        return f"{self.preset}.{self.strategy}_n{level}_s{self.seed}"


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


def build_criterion(config: TrainConfig) -> nn.Module:
    """Return what the configuration minimises, with its teacher if the strategy has one."""
    supervised = Supervised(config.loss, config.stage_weight)
    if config.strategy == "plain":
        return supervised
    teacher = checkpoint.load(config.teacher)
    low, high = teacher.header.noise_level
    if not low <= config.noise_level[0] <= config.noise_level[1] <= high:
        raise ValueError(f"teacher: {config.teacher} knows levels {low:g} to {high:g}, got {config.noise_level}")
    if teacher.config.channels != config.model.channels:
        raise ValueError(f"teacher: {config.teacher} has {teacher.config.channels} channels, not the student's")
    widths = {
        ours: (_width(config.model, ours), _width(teacher.config, theirs)) for ours, theirs in config.distill.matches
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Distilled(supervised, config.strategy, teacher, config.distill, widths)


def _width(config: ModelConfig | TeacherConfig, feature: str) -> int:
    """Return the channels of a feature named '...scale{i}'."""
    return config.widths[int(feature.rpartition("scale")[2]) - 1]


def step_generator(seed: int, step: int, device: torch.device, stream: int = 0) -> torch.Generator:
    """Return the generator of one step: stream 0 for patches, levels and noise in this order, 1 for the criterion."""
    state = np.random.SeedSequence([seed, step, stream] if stream else [seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))


def draw_batch(config: TrainConfig, source: PatchSource, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw step `step`'s clean patches (B, C, P, P), their noisy versions and their sigma (B,)."""
    generator = step_generator(config.seed, step, source.pixels.device)
    clean = source.draw(config.batch_size, config.patch_size, generator)
    low, high = (noise.to_sigma(level) for level in config.noise_level)
    uniform = torch.rand(config.batch_size, generator=generator, device=clean.device)
    sigma = low + (high - low) * uniform
    return clean, noise.add_training_noise(clean, sigma, generator), sigma


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
        self.optimizer = create_optimizer_v2(
            modules, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay
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
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        if device.type == "cuda":
            name = "_run" if hasattr(self.model, "_run") else "forward_features"
            setattr(self.model, name, torch.compile(getattr(self.model, name)))

    def train_step(self, source: PatchSource) -> torch.Tensor:
        """Take one step and return its loss, still on the device."""
        self.scheduler.step_update(self.step)
        clean, noisy, sigma = draw_batch(self.config, source, self.step)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        generator = step_generator(self.config.seed, self.step, self.device, stream=1)
        self.criterion.begin_step(generator, self.step / self.config.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            terms = self.criterion(self.model, noisy, clean, sigma)
        self.optimizer.zero_grad()
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.model, step=self.step)
        self.step += 1
        return terms["loss"].detach()

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
        self.step, self.seconds, self.history = header["step"], header["seconds"], header["history"]


def fit(
    config: TrainConfig,
    out: Path,
    root: Path | None = None,
    device: str = "cpu",
    criterion: nn.Module | None = None,
    validations: int = 10,
    save_seconds: float = 60.0,
    quiet: bool = False,
) -> Path:
    """Train one network, or continue where an interrupted run of the same configuration stopped.

    Args:
        config: what to train.
        out: folder for `{id}.state.safetensors` (to resume), `{id}.json` (curve and time) and the weights.
        root: folder of image sets; None uses MDRN_DATA.
        device: 'cpu' or 'cuda'.
        criterion: what to minimise; None is what the configuration says.
        validations: how often to validate, evenly spaced, the last at the end.
        save_seconds: time between checkpoints.
        quiet: whether to hide the progress bar.

    Returns:
        Path of the weights file: the running mean, `{id}.safetensors`.

    Raises:
        TrainingError: if the loss is not finite, or `out` holds another run of this id.
        DataError: if the training images are missing.
    """
    weights, state, record = (out / f"{config.id}{end}" for end in (".safetensors", ".state.safetensors", ".json"))
    root = data_root(root)
    target = torch.device(device)
    criterion = criterion or build_criterion(config)
    files = [path for name in config.data for path in training_files(name, root)]
    channels = config.model.channels
    source = PatchSource.from_files(files, channels, target)
    held_out = [read_uint8(path, channels) for path in validation_files(root)]
    trainer = Trainer(config, criterion, target)
    if state.exists():
        trainer.resume(state)
    low, high = config.noise_level
    levels = [low] if low == high else [level for level in (15.0, 25.0, 50.0) if low <= level <= high] or [low, high]
    marks = {math.ceil(config.steps * k / validations) for k in range(1, validations + 1)} if validations else set()

    began = saved = time.monotonic()
    earlier, first = trainer.seconds, trainer.step
    with tqdm(total=config.steps, initial=first, desc=config.id, unit="step", disable=quiet, mininterval=1) as bar:
        while trainer.step < config.steps:
            loss = trainer.train_step(source)
            bar.update()
            due = trainer.step in marks
            last = trainer.step == config.steps
            now = time.monotonic()
            if due or last or trainer.step % CHECK_EVERY == 0 or now - saved > save_seconds:
                _check_finite(loss, trainer)
                patches = (trainer.step - first) * config.batch_size
                psnr = trainer.history[-1]["psnr"] if trainer.history else {}
                shown = {f"dB@{level}": f"{value:.2f}" for level, value in psnr.items()}
                bar.set_postfix(loss=f"{loss:.5f}", patches_s=f"{patches / (now - began):.0f}", **shown)
            if due:
                psnr = validate(trainer.ema.module, held_out, levels, config.bf16)
                trainer.history.append({"step": trainer.step, "loss": float(loss), "psnr": psnr})
            if due or last or now - saved > save_seconds:
                saved = time.monotonic()
                trainer.seconds = earlier + saved - began
                trainer.save(state)

    header = checkpoint.Header(
        id=config.id,
        model=config.model,
        noise_level=config.noise_level,
        strategy=config.strategy,
        seed=config.seed,
        patches=trainer.earlier_patches + config.steps * config.batch_size,
        recipe={"version": RECIPE, **{k: v for k, v in dataclasses.asdict(config).items() if k != "model"}},
        data={"sets": "+".join(config.data), "sha256": source.digest},
        git=git_revision(),
        torch=torch.__version__,
        architecture="teacher" if isinstance(config.model, TeacherConfig) else "mdrn",
    )
    checkpoint.write_weights(weights, trainer.ema.module, header)
    curve = {"id": config.id, "seconds": trainer.seconds, "device": device, "threads": torch.get_num_threads()}
    text = json.dumps(curve | {"patches": header.patches, "history": trainer.history}, indent=1)
    checkpoint.write_atomically(record, text.encode())
    return weights


def _check_finite(loss: torch.Tensor, trainer: Trainer) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {float(loss)} at step {trainer.step}; the last checkpoint is kept. Try half the "
            f"learning rate (now {trainer.config.learning_rate:g}), a longer warm-up, or bf16 off"
        )


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
