"""Training: what is trained and how, and one linear loop for one run, which can be killed anywhere and resumed.

It needs torch, NumPy, timm, safetensors and Pillow alone. Anyone may import it. It is longer than most modules because
the configuration, its documentation and the loop that obeys it are read together.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mdrn import camera, checkpoint, estimate, metrics, noise
from mdrn.data import Batch, PatchSource, data_root, fresh_batch, read_all, training_images, validation_files
from mdrn.denoiser import MdrnError, check_fields
from mdrn.distill import STRATEGIES, DistillConfig, Distilled, Guide, Supervised, View
from mdrn.files.writing import write_atomically
from mdrn.model import PRESETS, ModelConfig
from mdrn.pool import Pool
from mdrn.teacher import TEACHERS, TeacherConfig

RECIPE = "v3"  # version of the defaults below
NETWORKS = PRESETS | TEACHERS
POOL_SIZE = 128  # side of a stored draw: the largest patch of any recipe, so that all share one pool
CHECK_EVERY = 50  # steps between looks at the loss: a look makes the host wait for a GPU


class TrainingError(MdrnError):
    """Training cannot go on; the message says what to try."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result. Same configuration, machine and thread count: same bytes.

    Args:
        preset: 'mdrn', 'mdrn_tiny', 'mdrn_rgb', 'mdrn_tiny_rgb', 'photo', 'photo_tiny' or 'teacher'.
        noise_level: lowest and highest level on the 8-bit scale, drawn uniformly for every patch.
        strategy: 'plain', or distillation: 'hmds_c', 'hmds_n' or 'hmds'.
        teacher: weights file of the teacher; every strategy but 'plain' needs one.
        distill: how the teacher guides.
        seed: of initial weights, patches and noise.
        steps: length of the run, and of its learning-rate schedule.
        minutes: stop after this much training time, if not after the steps; the result is then not reproducible.
            None counts steps alone.
        batch_size: patches in a step.
        patch_size: side of a patch in pixels.
        large_patches: final share of the run that uses a quarter as many patches, twice as wide and high.
        map_share: share of the patches whose noise level differs across them.
        camera_share: share of the stored patches with the noise of photographs; colour only.
        pool: number of noisy patches that are drawn once and stored; 0 draws new patches at every step.
        data: training sets: 'bsds', 'extra', 'samples', 'drawings', or folders of images.
        loss: 'mse', 'l1' or 'log_mse'.
        stage_weight: weight of the loss of the earlier stages.
        optimizer: any name from timm; 'muon' moves weights by orthogonalised momentum, biases as AdamW does.
        learning_rate: peak learning rate.
        final_learning_rate: final learning rate, as a fraction of the peak (cosine).
        warmup: share of the run in which the rate rises to its peak.
        weight_decay: as the optimizer understands it; not applied to biases.
        clip_norm: largest gradient norm.
        ema_decay: decay of the running mean of the weights, which is what is saved.
        init_from: released id or file whose weights start the run; None draws them from the seed.
        model: the network, where it is not the preset's.

    Raises:
        MdrnError: if a field is outside what is listed, or fields do not go together.
    """

    preset: str = "mdrn"
    noise_level: tuple[float, float] = (0.0, 75.0)
    strategy: str = "plain"
    teacher: str | None = None
    distill: DistillConfig = DistillConfig()
    seed: int = 0
    steps: int = 20_000
    minutes: float | None = None
    batch_size: int = 16
    patch_size: int = 64
    large_patches: float = 0.25
    map_share: float = 0.1
    camera_share: float = 0.0
    pool: int = 0
    data: tuple[str, ...] = ("bsds",)
    loss: str = "mse"
    stage_weight: float = 0.1
    optimizer: str = "muon"
    learning_rate: float = 4e-3
    final_learning_rate: float = 0.01
    warmup: float = 0.03
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    init_from: str | None = None
    model: ModelConfig | TeacherConfig | None = None

    def __post_init__(self) -> None:
        if self.model is None:
            check_fields(self, ("preset", self.preset in NETWORKS, f"one of {', '.join(NETWORKS)}"))
            object.__setattr__(self, "model", NETWORKS[self.preset])
        object.__setattr__(self, "data", tuple(self.data))
        low, high = (noise.check_noise_level(level) for level in self.noise_level)
        object.__setattr__(self, "noise_level", (low, high))
        for name in ("steps", "batch_size", "patch_size"):
            check_fields(self, (name, getattr(self, name) >= 1, "at least 1"))
        for name in ("large_patches", "map_share", "camera_share", "warmup"):
            check_fields(self, (name, 0.0 <= getattr(self, name) <= 1.0, "a share from 0 to 1"))
        clock, features = self.minutes is not None, self.distill.feature_weight > 0
        photographs = self.pool and self.model.channels == 3
        check_fields(
            self,
            ("strategy", self.strategy in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
            ("teacher", (self.strategy == "plain") == (self.teacher is None), "one for every strategy but plain"),
            ("noise_level", low <= high, "lowest then highest"),
            ("minutes", not clock or self.minutes > 0, "more than 0"),
            ("batch_size", not self.large_patches or self.batch_size % 4 == 0, "a multiple of 4 with large_patches"),
            ("pool", not (self.pool and clock), "0 with minutes"),
            ("pool", not (self.pool and features), "0 with feature_weight, which needs a teacher at hand"),
            ("camera_share", photographs or not self.camera_share, "0 without a pool, or for grey networks"),
        )

    @property
    def id(self) -> str:
        """The run's name everywhere: '{preset}.{strategy}_n{level}_s{seed}'."""
        low, high = self.noise_level
        level = f"{low:g}" if low == high else f"{low:g}-{high:g}"
        return f"{self.preset}.{self.strategy}_n{level}_s{self.seed}"

    @property
    def small_steps(self) -> int:
        """Steps before the large patches; the whole run without them."""
        return round(self.steps * (1.0 - self.large_patches))

    @property
    def largest_cut(self) -> int:
        """Side in pixels of the largest piece that is cut from a training image."""
        if self.pool:
            return POOL_SIZE * (2 if self.camera_share else 1)
        return self.patch_size * (2 if self.large_patches else 1)

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Return how many patches a step sees after a share of the run, and their side in pixels."""
        if progress < 1.0 - self.large_patches or not self.large_patches:
            return self.batch_size, self.patch_size
        return self.batch_size // 4, 2 * self.patch_size

    def rate(self, progress: float) -> float:
        """Return the learning rate after a share of the run: a linear rise, then half a cosine."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        low = self.final_learning_rate
        return self.learning_rate * max(0.01, rise) * (low + (1 - low) * cosine)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether convolutions should run in bfloat16: on GPUs, and on CPUs with instructions for it."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def orthogonalise_in_float32() -> None:
    """Make timm's Muon work in float32 in this process; it has no option for that.

    In bfloat16 a CPU without instructions for it takes twenty times as long, more than the rest of a step.
    """
    from timm.optim import muon

    if not isinstance(muon.zeropower_via_newtonschulz, functools.partial):
        muon.zeropower_via_newtonschulz = functools.partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)


def validation_levels(noise_level: tuple[float, float]) -> list[float]:
    """Return the levels at which a network for one level, or a range, is validated."""
    low, high = noise_level
    return [low] if low == high else [level for level in (15.0, 25.0, 50.0) if low <= level <= high] or [low, high]


def validate(model: nn.Module, images: list[np.ndarray], levels: list[float]) -> dict[str, float]:
    """Return the mean PSNR in dB at each level over `images` (uint8), with the benchmark's noise."""
    device = next(model.parameters()).device
    scores: dict[str, float] = {}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
        for level in levels:
            values = []
            for image in images:
                noisy = torch.from_numpy(np.atleast_3d(noise.benchmark_noisy(image, level)))
                noisy = noisy.to(device).permute(2, 0, 1)[None]
                restored = model(noisy.contiguous(memory_format=torch.channels_last), noise.to_sigma(level))
                array = restored[0].float().permute(1, 2, 0).cpu().numpy().reshape(image.shape)
                values.append(metrics.psnr(metrics.to_uint8(array), image))
            scores[f"{level:g}"] = float(np.mean(values))
    return scores


def fit(
    config: TrainConfig,
    out: Path,
    root: Path | None = None,
    device: str = "cpu",
    teacher: str | Path | None = None,
    pools: Path | None = None,
    plan: str = "",
    validations: int = 10,
    save_seconds: float = 300.0,
    quiet: bool = False,
) -> Path:
    """Train one network, or continue where an interrupted run of the same configuration stopped.

    Args:
        config: what to train.
        out: folder for the run's `{id}.state.safetensors` (to resume), `{id}.json` (curve and time) and weights.
        root: folder of image sets; None uses MDRN_DATA.
        device: 'cpu' or 'cuda'.
        teacher: file of the teacher, where the configuration's name is no released id or file.
        pools: folder for stored draws and answers, shared by many runs; None is `pools` in `out`.
        plan: name of the plan that the run belongs to, for the header.
        validations: how often to validate, evenly spaced, the last at the end.
        save_seconds: time between checkpoints.
        quiet: whether to hide the progress bar.

    Returns:
        Path of the weights file: the running mean, `{id}.safetensors`.

    Raises:
        TrainingError: if the loss is not finite, or `out` holds another run of this id.
        DataError: if the training images are missing, or the pool is too small.
        MdrnError: if the teacher does not fit.
    """
    root, target, git = data_root(root), torch.device(device), git_revision()
    channels = config.model.channels
    source = PatchSource.from_images(training_images(config.data, root, channels, config.largest_cut), target)
    bundled = set(config.data) <= {"samples", "drawings"}  # then nothing else is needed
    held_out = read_all(validation_files(None if bundled else root), channels)
    guide = load_guide(config, teacher)
    draw = draws(config, source, guide, pools or out / "pools", quiet)
    run = Run(config, build_criterion(config, guide), target, source.digest)
    state = out / f"{config.id}.state.safetensors"
    if state.exists():
        run.resume(state)
    levels, first = validation_levels(config.noise_level), run.step
    began = saved = time.monotonic()
    earlier = run.seconds
    with tqdm(total=config.steps, initial=first, desc=config.id, unit="step", disable=quiet, mininterval=1) as bar:
        while (progress := run.progress) < 1.0:
            busy = time.process_time()
            run.train_step(draw(run.step, progress), progress)
            if run.cpu_seconds is not None:
                run.cpu_seconds += time.process_time() - busy
            bar.update()
            now = time.monotonic()
            run.seconds = earlier + now - began
            validated = len(run.history)
            due = validated < validations and run.progress >= (validated + 1) / validations
            save_now = due or run.progress >= 1.0 or now - saved > save_seconds
            if save_now or run.step % CHECK_EVERY == 0:
                run.check_finite()
                bar.set_postfix(steps_s=f"{(run.step - first) / (now - began):.1f}", **run.summary())
            if due:
                psnr = validate(run.ema.module, held_out, levels)
                run.history.append({"step": run.step, "loss": float(run.loss), "psnr": psnr})
                began += time.monotonic() - now  # validation is not training time
            if save_now:
                run.save(state)
                saved = time.monotonic()
    return _release(run, out, git, plan)


def load_guide(config: TrainConfig, teacher: str | Path | None = None) -> Guide | None:
    """Return the teacher of a configuration, None for a plain one.

    Raises:
        MdrnError: if it does not know the student's levels, or has other channels.
        CheckpointError: if there is no such teacher.
    """
    if config.teacher is None:
        return None
    network = checkpoint.load(teacher or config.teacher)
    low, high = network.header.noise_level
    if not low <= config.noise_level[0] <= config.noise_level[1] <= high:
        raise MdrnError(f"teacher: {config.teacher} knows levels {low:g} to {high:g}, got {config.noise_level}")
    if network.config.channels != config.model.channels:
        raise MdrnError(f"teacher: {config.teacher} has {network.config.channels} channels, not the student's")
    return Guide(network)


def build_criterion(config: TrainConfig, guide: Guide | None) -> nn.Module:
    """Return what the configuration minimises; `guide` is its teacher, if it has one."""
    supervised = Supervised(config.loss, config.stage_weight)
    if guide is None:
        return supervised
    widths = {}
    for ours, theirs in config.distill.matches:
        stage, width = _stage_and_width(config.model, ours)
        if stage <= len(config.model.stages):
            widths[ours] = width, _stage_and_width(guide.teacher.config, theirs)[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Distilled(supervised, config.distill.views(config.strategy), config.distill, guide, widths)


def _stage_and_width(config: ModelConfig | TeacherConfig, feature: str) -> tuple[int, int]:
    """Return the stage (0 if it names none) and the channels of a feature, 'stage{s}.scale{i}' or 'scale{i}'."""
    found = re.fullmatch(r"(?:stage(\d+)\.)?scale(\d+)", feature)
    if not found or not 1 <= int(found[2]) <= len(config.widths):
        known = f"'stage1.scale3' and 'scale3', scales 1 to {len(config.widths)}"
        raise MdrnError(f"matches: expected names such as {known}, got {feature!r}")
    return int(found[1] or 0), config.widths[int(found[2]) - 1]


def draws(
    config: TrainConfig, source: PatchSource, guide: Guide | None, pools: Path, quiet: bool = True
) -> Callable[[int, float], Batch]:
    """Return what gives the batch of a step, and of a share of the run: fresh draws, or those of the stored pool.

    What is missing of the pool, and of the teacher's answers to it, is made first.

    Raises:
        DataError: if the pool is too small for the run.
    """
    if not config.pool:
        return lambda step, progress: fresh_batch(
            source,
            *config.batch_shape(progress),
            config.noise_level,
            config.map_share,
            step_generator(config.seed, step, source.pixels.device),
        )
    pool = Pool(pools, source, config.pool, POOL_SIZE, config.noise_level, config.map_share, config.camera_share)
    views = {f"{guide.teacher.header.sha256[:16]}.{view.key}": view for view in config.distill.views(config.strategy)}
    answers = {key: functools.partial(_answer, guide, view) for key, view in views.items()}
    used = pool.symmetries(config.small_steps * config.batch_size, config.patch_size)

    def place(step: int, progress: float) -> tuple[int, int, int, int]:
        """Return a step's first patch, how many it sees, their side, and the symmetries used up by another size."""
        count, size = config.batch_shape(progress)
        if size != config.patch_size:
            return (step - config.small_steps) * count, count, size, used
        return step * count, count, size, 0

    first, count, *rest = place(config.steps - 1, 1.0)
    pool.check(first + count - 1, *rest)  # before the draws are made, which takes long
    if missing := pool.bytes_missing(list(answers)):
        print(f"{pool.folder}: {missing / 1e9:.2f} GB of stored draws and answers are made first", flush=True)
    with tqdm(total=pool.draws, desc="pool", unit="draw", disable=quiet or not missing, mininterval=1) as bar:
        pool.fill(answers, lambda done, total: bar.update(done - bar.n))

    def batch(step: int, progress: float) -> Batch:
        first, count, size, used = place(step, progress)
        stored = pool.batch(config.seed, first, count, size, list(answers), used)
        return dataclasses.replace(stored, answers={view.key: stored.answers[key] for key, view in views.items()})

    return batch


def _answer(guide: Guide, view: View, batch: Batch, generator: torch.Generator) -> torch.Tensor:
    """Return what a teacher makes of a batch, as precisely as it would in the middle of a training step."""
    device = batch.noisy.device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
        return guide.answer(view, batch.noisy, batch.clean, batch.sigma, generator)[0]


def step_generator(seed: int, step: int, device: torch.device, stream: int = 0) -> torch.Generator:
    """Return the generator of one step: stream 0 for patches, levels and noise in this order, 1 for the criterion."""
    state = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))


def build_model(config: TrainConfig) -> nn.Module:
    """Return the network with its first weights."""
    if config.init_from:
        model = checkpoint.load(config.init_from)
        if model.config != config.model:
            raise MdrnError(f"init_from: expected a network like {config.model}, got {model.config}")
        return model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.model.build()


class Run:
    """A run's whole state: network, its running mean, optimizer, criterion, step, time and validation history.

    Randomness of step k comes from generators seeded by (seed, k), so a checkpoint holds no generator state and two
    runs of one seed see the same patches and noise.
    """

    def __init__(self, config: TrainConfig, criterion: nn.Module, device: torch.device, data_digest: str) -> None:
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        self.config, self.device, self.data_digest = config, device, data_digest
        self.model = build_model(config).to(device, memory_format=torch.channels_last)
        self.criterion = criterion.to(device)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True)
        modules = nn.ModuleList([self.model, self.criterion])
        self.optimizer = create_optimizer_v2(
            modules, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.trained = [p for p in modules.parameters() if p.requires_grad]
        self.bf16 = bf16_is_fast(device)
        if not self.bf16:
            orthogonalise_in_float32()
        self.step = 0
        self.loss = torch.zeros(())
        self.seconds = 0.0
        self.cpu_seconds: float | None = 0.0  # of all threads; what else the machine does is not in it
        self.history: list[dict[str, object]] = []
        if device.type == "cuda":
            name = "_run" if hasattr(self.model, "_run") else "forward_features"
            setattr(self.model, name, torch.compile(getattr(self.model, name)))

    @property
    def progress(self) -> float:
        """How far the run is, 0 to 1: by its steps, or by the clock if that is ahead."""
        by_clock = self.seconds / (60.0 * self.config.minutes) if self.config.minutes else 0.0
        return max(self.step / self.config.steps, by_clock)

    def train_step(self, batch: Batch, progress: float) -> None:
        """Take one step; `loss` stays on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(progress)
        generator = step_generator(self.config.seed, self.step, self.device, stream=1)
        self.criterion.begin_step(generator, progress, batch.answers)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            terms = self.criterion(self.model, batch.noisy, batch.clean, batch.sigma)
        self.optimizer.zero_grad()
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.model, step=self.step)
        self.step += 1
        self.loss = terms["loss"].detach()

    def check_finite(self) -> None:
        """Raise TrainingError, with what to try, unless the loss is finite."""
        if not torch.isfinite(self.loss):
            raise TrainingError(
                f"{self.config.id}: the loss is {float(self.loss)} at step {self.step}; the last checkpoint is kept. "
                f"Try --learning-rate {self.config.learning_rate / 2:g}, which is half of this run's"
            )

    def summary(self) -> dict[str, str]:
        """Return loss and last validation, for a progress bar."""
        psnr = self.history[-1]["psnr"] if self.history else {}
        return {"loss": f"{self.loss:.5f}"} | {f"dB@{level}": f"{value:.2f}" for level, value in psnr.items()}

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "ema": self.ema.module, "criterion": self.criterion}

    def _facts(self) -> dict[str, object]:
        """What a checkpoint must agree with, as JSON gives it back."""
        return json.loads(json.dumps({"config": dataclasses.asdict(self.config), "data": self.data_digest}))

    def save(self, path: Path) -> None:
        """Write everything that resuming needs into one file, atomically."""
        counts = {"step": self.step, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "history": self.history}
        checkpoint.write_state(path, self._modules, self.optimizer, self._facts() | counts)

    def resume(self, path: Path) -> None:
        """Continue from a file that `save` wrote for the same configuration and the same images.

        Raises:
            TrainingError: if the file is damaged or belongs to another configuration or other images.
        """
        try:
            said = checkpoint.read_state(path, self._modules, self.optimizer, self._facts())
        except checkpoint.CheckpointError as error:
            raise TrainingError(f"{error}; give another --out, or delete that file to start again") from error
        self.step, self.seconds, self.history = said["step"], said["seconds"], said["history"]
        self.cpu_seconds = said.get("cpu_seconds")  # earlier versions did not note it


def _release(run: Run, out: Path, git: str, plan: str) -> Path:
    """Write a finished run's weights and record; return the path of the weights."""
    config = run.config
    where = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU"
    header = checkpoint.Header(
        id=config.id,
        model=config.model,
        noise_level=config.noise_level,
        strategy=config.strategy,
        seed=config.seed,
        patches=run.step * config.batch_size,
        recipe={"version": RECIPE, **{k: v for k, v in dataclasses.asdict(config).items() if k != "model"}},
        data={"sets": "+".join(config.data), "sha256": run.data_digest},
        git=git,
        torch=torch.__version__,
        architecture=next(name for name, kind in checkpoint.ARCHITECTURES.items() if kind is type(config.model)),
        plan=plan,
        device=f"{where}, {'bfloat16' if run.bf16 else 'float32'}",
        steps=run.step,
        validation=run.history[-1]["psnr"] if run.history else {},
        coarseness=camera.COARSENESS if config.camera_share else estimate.COARSENESS,
    )
    weights = out / f"{config.id}.safetensors"
    checkpoint.write_weights(weights, run.ema.module, header)
    record = {"id": config.id, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "device": header.device}
    record |= {"threads": torch.get_num_threads(), "patches": header.patches, "steps": run.step, "history": run.history}
    write_atomically(out / f"{config.id}.json", json.dumps(record, indent=1).encode())
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
