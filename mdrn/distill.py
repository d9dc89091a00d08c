"""Training criteria: with or without distillation is a choice of object here, never a branch in the training loop.

A criterion is called as `criterion(model, noisy, clean, sigma)` and returns a dict of scalar terms with the total under
'loss'; `begin_step` tells it how far the training is. `train` imports this module; it imports torch alone.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

STRATEGIES = {"plain": (), "hmds_c": ("hmds_c",), "hmds_n": ("hmds_n",), "hmds": ("hmds_c", "hmds_n")}


def _l1(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (restored - target).abs().mean()


def _charbonnier(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((restored - target).square() + 1e-6).sqrt().mean()


def _mse(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (restored - target).square().mean()


def _log_mse(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((restored - target).square().mean(dim=(1, 2, 3)) + 1e-6).log().mean()


LOSSES = {"l1": _l1, "charbonnier": _charbonnier, "mse": _mse, "log_mse": _log_mse}


class Supervised(nn.Module):
    """The plain strategy: the distance to the clean image, of the restored image and of every earlier stage's.

    Args:
        loss: 'l1', 'charbonnier' (epsilon 1e-3) or 'mse', mean over pixels in [0, 1] units; or 'log_mse', the mean over
            patches of log(their MSE + 1e-6), which is PSNR: patches of all noise levels weigh alike.
        stage_weight: weight of the mean term of the earlier stages; 0 supervises the last stage alone.
        mse_share: share of the training, its end, that minimises 'mse' instead of `loss`.

    Shape:
        noisy and clean (B, C, H, W), sigma (B,) -> scalars 'loss', 'restored' and, with stages, 'stages'.
    """

    def __init__(self, loss: str = "l1", stage_weight: float = 0.1, mse_share: float = 0.0) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        self.distance = self._loss = LOSSES[loss]
        self.stage_weight, self.mse_share = stage_weight, mse_share

    def begin_step(self, generator: torch.Generator, progress: float) -> None:
        """Set how far the training is (0 to 1); nothing here is random."""
        self.distance = _mse if self.mse_share and progress >= 1.0 - self.mse_share else self._loss

    def forward(
        self, model: nn.Module, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        images = model.progressive(noisy, sigma) if hasattr(model, "progressive") else [model(noisy, sigma)]
        return self.terms(images, clean)

    def terms(self, images: list[torch.Tensor], clean: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the terms for the images after each stage, the last of which is the restored one."""
        restored = self.distance(images[-1], clean)
        if len(images) == 1 or self.stage_weight == 0:
            return {"loss": restored, "restored": restored.detach()}
        stages = torch.stack([self.distance(image, clean) for image in images[:-1]]).mean()
        loss = restored + self.stage_weight * stages
        return {"loss": loss, "restored": restored.detach(), "stages": stages.detach()}


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How a teacher guides a student.

    Args:
        output_weight: weight of the distance to the teacher's restored image, of all strategies together; the distance
            of the restored to the clean image keeps 1 minus it.
        feature_weight: weight of the distance between projected student features and the teacher's; 0 leaves it out.
        final_weight: factor on both weights at the end of training, approached linearly; 1 keeps them.
        teacher_level: 'hmds_n': the teacher's sigma as a fraction of the student's.
        nested: 'hmds_n': whether the student's noise contains the teacher's and an independent rest. False merely
            scales one realisation, which biases the target: an ablation, nothing more.
        matches: pairs (student's feature, teacher's feature) on grids of one size; those of stages that a student lacks
            are left out.

    Raises:
        ValueError: if a number is outside its limits.
    """

    output_weight: float = 0.5
    feature_weight: float = 0.0
    final_weight: float = 1.0
    teacher_level: float = 0.5
    nested: bool = True
    matches: tuple[tuple[str, str], ...] = (("stage1.scale3", "scale3"), ("stage2.scale3", "scale3"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", tuple(tuple(pair) for pair in self.matches))
        for name in ("output_weight", "final_weight", "teacher_level"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)!r}")
        if self.feature_weight < 0:
            raise ValueError(f"feature_weight: expected at least 0, got {self.feature_weight!r}")


class Guide:
    """A frozen teacher in eval mode that answers each question about a batch once, whoever asks it.

    Args:
        teacher: a denoiser with `forward_features`.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self._noisy: torch.Tensor | None = None
        self._answers: dict[tuple, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}

    def answer(
        self,
        strategy: str,
        config: DistillConfig,
        noisy: torch.Tensor,
        clean: torch.Tensor,
        sigma: torch.Tensor,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the teacher makes of a batch under a strategy: restored images and features."""
        if noisy is not self._noisy:
            self._noisy, self._answers = noisy, {}
        question = (strategy,) if strategy == "hmds_c" else (strategy, config.teacher_level, config.nested)
        if question not in self._answers:
            seen, seen_sigma = noisy, sigma
            if strategy == "hmds_n":
                fraction, seen_sigma = config.teacher_level, config.teacher_level * sigma
                seen = clean + fraction * (noisy - clean)
                if config.nested:
                    seen = less_noisy(noisy, clean, sigma, fraction, generator)
            with torch.no_grad():
                self._answers[question] = self.teacher.forward_features(seen, seen_sigma)
        return self._answers[question]


class Distilled(nn.Module):
    """Supervision and guidance by a frozen teacher: the strategies 'hmds_c', 'hmds_n', or both ('hmds').

    'hmds_c', capacity heterogeneity: a larger network of another architecture sees what the student sees. 'hmds_n',
    noise heterogeneity: it sees the same clean patch under less noise. It runs once for each. Projections belong to
    this module and never to the student; the teacher belongs to neither's state.

    Args:
        supervised: the plain part.
        strategy: 'hmds_c', 'hmds_n' or 'hmds'.
        guide: the teacher; runs side by side on the same batches share one.
        config: weights and schedule.
        widths: student's feature -> its channels and those of the teacher's that it is matched with; pairs in
            `config.matches` that are not in it are left out.

    Shape:
        noisy and clean (B, C, H, W), sigma (B,) -> scalars 'loss', 'restored', 'stages' and, for each strategy,
        '{strategy}.output' and '{strategy}.features'.

    Reference:
        Li et al., CVPRW 2022: "two novel Heterogeneous Knowledge Distillation Strategies" that improve "tiny models or
        the model under high noise levels". What the two strategies are is our reading.
    """

    def __init__(
        self,
        supervised: Supervised,
        strategy: str,
        guide: Guide,
        config: DistillConfig,
        widths: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        if not STRATEGIES.get(strategy):
            raise ValueError(f"strategy: expected hmds_c, hmds_n or hmds, got {strategy!r}")
        self.supervised, self.config, self.strategies = supervised, config, STRATEGIES[strategy]
        self.guide = guide  # no module, so the teacher is in neither state nor parameters
        self._generator: torch.Generator | None = None
        self._factor = 1.0
        self.projections = nn.ModuleDict()
        self.matches = [pair for pair in config.matches if pair[0] in (widths or {})]
        if config.feature_weight:
            if not self.matches:
                raise ValueError(f"matches: the student has none of the features in {config.matches}")
            for name in self.strategies:
                self.projections[name] = nn.ModuleList(nn.Conv2d(*widths[student], 1) for student, _ in self.matches)

    def _apply(self, function, recurse: bool = True):
        self.guide.teacher._apply(function)
        return super()._apply(function, recurse)

    def begin_step(self, generator: torch.Generator, progress: float) -> None:
        """Set the source of this step's randomness, and how far the training is (0 to 1)."""
        self.supervised.begin_step(generator, progress)
        self._generator = generator
        self._factor = 1.0 + (self.config.final_weight - 1.0) * progress

    def forward(
        self, model: nn.Module, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        config = self.config
        restored, features = model.forward_features(noisy, sigma)
        stages = [image for name, image in features.items() if name.endswith(".restored")]
        terms = self.supervised.terms(stages or [restored], clean)
        plain = self.supervised.distance(restored, clean)
        output_weight = self._factor * config.output_weight / len(self.strategies)
        feature_weight = self._factor * config.feature_weight / len(self.strategies)
        loss = terms["loss"]
        for name in self.strategies:
            target, guides = self.guide.answer(name, config, noisy, clean, sigma, self._generator)
            output = self.supervised.distance(restored, target)
            loss = loss + output_weight * (output - plain)
            terms[f"{name}.output"] = output.detach()
            if config.feature_weight:
                pairs = zip(self.matches, self.projections[name], strict=True)
                distances = [_l1(project(features[ours]), guides[theirs]) for (ours, theirs), project in pairs]
                distance = torch.stack(distances).mean()
                loss = loss + feature_weight * distance
                terms[f"{name}.features"] = distance.detach()
        return terms | {"loss": loss}


def less_noisy(
    noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor, fraction: float, generator: torch.Generator | None
) -> torch.Tensor:
    """Draw the less noisy image that `noisy` could have come from by adding independent noise.

    With n = noisy - clean of variance s^2, the result is clean + f^2 n + f sqrt(1 - f^2) s z, z fresh: its noise has
    variance (f s)^2, and what is left of n is independent of it. Then E[E[clean | less noisy] | noisy] =
    E[clean | noisy], so that a perfect teacher's target is unbiased.

    Args:
        noisy: (B, C, H, W).
        clean: same shape.
        sigma: (B,), of the noise in `noisy`.
        fraction: f, of sigma; 0 gives the clean image, 1 the noisy one.
        generator: the source of z.

    Returns:
        The shape of `noisy`.
    """
    fresh = torch.randn(noisy.shape, generator=generator, device=noisy.device, dtype=noisy.dtype)
    spread = fraction * (1.0 - fraction**2) ** 0.5 * sigma.view(-1, 1, 1, 1)
    return clean + fraction**2 * (noisy - clean) + spread * fresh
