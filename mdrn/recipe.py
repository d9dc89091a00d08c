"""What is trained and how: the configuration that decides every byte of a run's result. Anyone may import it."""

from __future__ import annotations

import dataclasses

from mdrn import noise
from mdrn.distill import STRATEGIES, DistillConfig
from mdrn.model import PRESETS, ModelConfig
from mdrn.teacher import TEACHERS, TeacherConfig

RECIPE = "v2"  # version of the defaults below
NETWORKS = PRESETS | TEACHERS


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
        large_patches: share of the steps, the last ones, on a quarter as many patches of twice the side.
        data: training sets, see `mdrn.data.training_files`.
        loss: see `mdrn.distill.Supervised`.
        stage_weight: see `mdrn.distill.Supervised`.
        mse_share: share of the steps, the last ones, that minimise squared error (which PSNR measures), not `loss`.
        optimizer: a name timm knows; 'muon' moves weights by orthogonalised momentum, biases as AdamW does.
        learning_rate: its peak.
        final_learning_rate: its end, as a fraction of the peak (cosine).
        warmup_steps: linear warm-up from 1 % of the peak; at most a tenth of the steps.
        weight_decay: as the optimizer understands it; not applied to biases.
        clip_norm: largest gradient norm.
        ema_decay: of the weights' running mean, which is what is released.
        bf16: whether convolutions run in bfloat16 (autocast).
        init_from: released id or file whose weights start the run; None draws them from the seed.
        cycle: number of the run in a chain of runs that start from each other's weights; each sees other batches.
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
    steps: int = 100_000
    batch_size: int = 16
    patch_size: int = 64
    large_patches: float = 0.0
    data: tuple[str, ...] = ("bsds",)
    loss: str = "l1"
    stage_weight: float = 0.1
    mse_share: float = 0.0
    optimizer: str = "muon"
    learning_rate: float = 4e-3
    final_learning_rate: float = 0.01
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    bf16: bool = True
    init_from: str | None = None
    cycle: int = 0
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
        for name in ("large_patches", "mse_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if self.large_patches and self.batch_size % 4:
            raise ValueError(f"batch_size: expected a multiple of 4 with large_patches, got {self.batch_size}")

    def batch_shape(self, step: int) -> tuple[int, int]:
        """Return how many patches a step sees, and their side in pixels; timing goes beyond the last step."""
        if not self.large_patches or step < round(self.steps * (1.0 - self.large_patches)):
            return self.batch_size, self.patch_size
        return self.batch_size // 4, 2 * self.patch_size

    @property
    def id(self) -> str:
        """The run's name everywhere: '{preset}.{strategy}_n{level}_s{seed}'."""
        low, high = self.noise_level
        level = f"{low:g}" if low == high else f"{low:g}-{high:g}"
        return f"{self.preset}.{self.strategy}_n{level}_s{self.seed}"
