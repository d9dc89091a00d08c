"""Training criteria: with or without distillation is a choice of object here, never a branch in the training loop.

A criterion is called as `criterion(model, noisy, clean, sigma)` and returns a dict of scalar terms with the total under
'loss'; `begin_step` tells it how far the training is. `train` imports this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import nn

from mdrn.denoiser import MdrnError, check_fields, sigma_map

_LEVELS = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 75.0)
_PSNR = (48.30, 43.39, 40.54, 37.14, 35.05, 32.99, 30.85, 29.45, 28.44, 27.66, 26.50, 25.67, 25.02, 24.27)
EXPECTED_PSNR = dict(zip(_LEVELS, _PSNR, strict=True))
"""Noise level on the 8-bit scale -> PSNR in dB of a reference network (MDRN 0.1's `mdrn.plain_n0-75_s0`) on the
validation images, unrounded. It says how large an error to expect at a level, so that all levels weigh alike."""


def expected_error(sigma: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error to expect at `sigma`, interpolated in `EXPECTED_PSNR`; below level 1 as at 1."""
    levels = torch.tensor(list(EXPECTED_PSNR), device=sigma.device).div(255.0).log()
    errors = torch.tensor(list(EXPECTED_PSNR.values()), device=sigma.device).mul(-0.1 * torch.tensor(10.0).log().item())
    x = sigma.clamp(min=1e-6).log().clamp(levels[0], levels[-1]).contiguous()
    right = torch.searchsorted(levels, x).clamp(1, len(levels) - 1)
    share = (x - levels[right - 1]) / (levels[right] - levels[right - 1])
    return torch.lerp(errors[right - 1], errors[right], share).exp()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": lambda error, sigma: (error.square() / expected_error(sigma)).mean(),
    "l1": lambda error, sigma: (error.abs() / expected_error(sigma).sqrt()).mean(),
    "log_mse": lambda error, sigma: (error.square().mean(dim=(1, 2, 3)) + 1e-6).log().mean(),
}


class Supervised(nn.Module):
    """The plain strategy: the distance to the clean image, of the restored image and of every earlier stage's.

    Args:
        loss: 'mse', squared error divided by what is to be expected at the noise level; 'l1', the absolute error
            divided by the root of that; 'log_mse', the mean over patches of log(their MSE + 1e-6).
        stage_weight: weight of the mean term of the earlier stages; 0 supervises the last stage alone.

    Shape:
        noisy and clean (B, C, H, W), sigma (B,) or (B, 1, H, W) -> scalars 'loss', 'restored' and, with several
        stages, 'stages'.
    """

    def __init__(self, loss: str = "mse", stage_weight: float = 0.1) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise MdrnError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        self.loss, self.stage_weight = loss, stage_weight

    def begin_step(self, generator: torch.Generator, progress: float, answers: Mapping[str, torch.Tensor]) -> None:
        """Do nothing: nothing here is random, changes in the course of training or needs a teacher."""

    def distance(self, restored: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the loss of `restored` against `target`, a scalar."""
        return LOSSES[self.loss](restored - target, sigma_map(sigma, restored))

    def forward(
        self, model: nn.Module, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        images = model.progressive(noisy, sigma) if hasattr(model, "progressive") else [model(noisy, sigma)]
        return self.terms(images, clean, sigma)

    def terms(self, images: list[torch.Tensor], clean: torch.Tensor, sigma: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the terms for the images after each stage, the last of which is the restored one."""
        restored = self.distance(images[-1], clean, sigma)
        if len(images) == 1 or self.stage_weight == 0:
            return {"loss": restored, "restored": restored.detach()}
        stages = torch.stack([self.distance(image, clean, sigma) for image in images[:-1]]).mean()
        loss = restored + self.stage_weight * stages
        return {"loss": loss, "restored": restored.detach(), "stages": stages.detach()}


class View(Protocol):
    """What a teacher is shown of a batch: one of the two kinds of heterogeneity.

    Attributes:
        name: of the strategy, as in `STRATEGIES`.
        key: tells its stored answers from those of other settings.
    """

    name: str
    key: str

    def question(
        self, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the noisy images and sigma that the teacher sees."""


@dataclasses.dataclass(frozen=True)
class CapacityView:
    """'hmds_c', capacity heterogeneity: a larger network of another architecture sees what the student sees."""

    name = key = "hmds_c"

    def question(self, noisy, clean, sigma, generator):
        """Return what the student sees."""
        return noisy, sigma


@dataclasses.dataclass(frozen=True)
class NoiseView:
    """'hmds_n', noise heterogeneity: the teacher sees the same clean patch under less noise.

    Args:
        level: the teacher's sigma as a fraction of the student's.
        nested: whether the student's noise contains the teacher's and an independent rest. False merely scales one
            realisation, which biases the target: an ablation, nothing more.
    """

    level: float = 0.5
    nested: bool = True
    name = "hmds_n"

    @property
    def key(self) -> str:
        return f"hmds_n-{self.level:g}{'' if self.nested else '-scaled'}"

    def question(self, noisy, clean, sigma, generator):
        """Return the less noisy image and its sigma."""
        if self.nested:
            return less_noisy(noisy, clean, sigma, self.level, generator), self.level * sigma
        return clean + self.level * (noisy - clean), self.level * sigma


STRATEGIES = {"plain": (), "hmds_c": ("hmds_c",), "hmds_n": ("hmds_n",), "hmds": ("hmds_c", "hmds_n")}


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How a teacher guides a student.

    Args:
        output_weight: weight of the distance to the teacher's restored image, of all views together; the distance of
            the restored to the clean image keeps 1 minus it.
        feature_weight: weight of the distance between projected student features and the teacher's; 0 leaves it out.
        final_weight: factor on both weights at the end of training, approached linearly; 1 keeps them.
        teacher_level: see `NoiseView.level`.
        nested: see `NoiseView.nested`.
        matches: pairs (student's feature, teacher's feature) on grids of one size; those of stages that a student lacks
            are left out.

    Raises:
        MdrnError: if a number is outside its limits.
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
            check_fields(self, (name, 0.0 <= getattr(self, name) <= 1.0, "0 to 1"))
        check_fields(self, ("feature_weight", self.feature_weight >= 0, "at least 0"))

    def views(self, strategy: str) -> list[View]:
        """Return what the teacher is shown under a strategy.

        Raises:
            MdrnError: if there is no such strategy.
        """
        if strategy not in STRATEGIES:
            raise MdrnError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
        return [VIEWS[name](self) for name in STRATEGIES[strategy]]


VIEWS: dict[str, Callable[[DistillConfig], View]] = {
    "hmds_c": lambda config: CapacityView(),
    "hmds_n": lambda config: NoiseView(config.teacher_level, config.nested),
}


class Guide:
    """A frozen teacher in eval mode.

    Args:
        teacher: a denoiser with `forward_features`.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher.eval().requires_grad_(False)

    @torch.no_grad()
    def answer(
        self, view: View, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the teacher makes of a batch under a view: restored images and features."""
        return self.teacher.forward_features(*view.question(noisy, clean, sigma, generator))


class Distilled(nn.Module):
    """Supervision and guidance by a frozen teacher under one or several views of each batch.

    The teacher's answers are handed over with the batch where they are stored; otherwise the teacher gives them on the
    spot. Projections belong to this module and never to the student; the teacher belongs to neither's state.

    Args:
        supervised: the plain part.
        views: what the teacher is shown, at least one, see `DistillConfig.views`.
        config: weights and schedule.
        guide: the teacher, if it is to answer on the spot; feature terms need it.
        widths: student's feature -> its channels and those of the teacher's that it is matched with; pairs in
            `config.matches` that are not in it are left out.

    Shape:
        noisy and clean (B, C, H, W), sigma (B,) or (B, 1, H, W) -> scalars 'loss', 'restored', 'stages' and, for each
        view, '{name}.output' and '{name}.features'.

    Raises:
        MdrnError: if there is no view, or features are to be matched without a teacher at hand or without a pair.

    Reference:
        Li et al., CVPRW 2022: "two novel Heterogeneous Knowledge Distillation Strategies" that improve "tiny models or
        the model under high noise levels". What the two strategies are is our reading.
    """

    def __init__(
        self,
        supervised: Supervised,
        views: list[View],
        config: DistillConfig,
        guide: Guide | None = None,
        widths: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        if not views:
            known = ", ".join(name for name, views in STRATEGIES.items() if views)
            raise MdrnError(f"strategy: expected one with a teacher ({known}), got one without")
        self.supervised, self.views, self.config = supervised, views, config
        self.guide = guide  # no module, so the teacher is in neither state nor parameters
        self._generator: torch.Generator | None = None
        self._answers: Mapping[str, torch.Tensor] = {}
        self._factor = 1.0
        self.projections = nn.ModuleDict()
        self.matches = [pair for pair in config.matches if pair[0] in (widths or {})]
        if config.feature_weight:
            if not self.matches or guide is None:
                raise MdrnError(f"feature_weight: expected a teacher at hand and one of the features {config.matches}")
            for view in views:
                self.projections[view.name] = nn.ModuleList(
                    nn.Conv2d(*widths[student], 1) for student, _ in self.matches
                )

    def _apply(self, function, recurse: bool = True):
        if self.guide is not None:
            self.guide.teacher._apply(function)
        return super()._apply(function, recurse)

    def begin_step(self, generator: torch.Generator, progress: float, answers: Mapping[str, torch.Tensor]) -> None:
        """Set the source of this step's randomness, how far the training is (0 to 1), and stored answers by key."""
        self._generator, self._answers = generator, answers
        self._factor = 1.0 + (self.config.final_weight - 1.0) * progress

    def forward(
        self, model: nn.Module, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        config, distance = self.config, self.supervised.distance
        restored, features = model.forward_features(noisy, sigma)
        stages = [image for name, image in features.items() if name.endswith(".restored")]
        terms = self.supervised.terms(stages or [restored], clean, sigma)
        plain = distance(restored, clean, sigma)
        output_weight = self._factor * config.output_weight / len(self.views)
        feature_weight = self._factor * config.feature_weight / len(self.views)
        loss = terms["loss"]
        for view in self.views:
            target, guides = self._answers.get(view.key), {}
            if target is None:
                target, guides = self.guide.answer(view, noisy, clean, sigma, self._generator)
            output = distance(restored, target, sigma)
            loss = loss + output_weight * (output - plain)
            terms[f"{view.name}.output"] = output.detach()
            if config.feature_weight:
                pairs = zip(self.matches, self.projections[view.name], strict=True)
                apart = [(project(features[ours]) - guides[theirs]).abs().mean() for (ours, theirs), project in pairs]
                matched = torch.stack(apart).mean()
                loss = loss + feature_weight * matched
                terms[f"{view.name}.features"] = matched.detach()
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
        sigma: (B,) or (B, 1, H, W), of the noise in `noisy`.
        fraction: f, of sigma; 0 gives the clean image, 1 the noisy one.
        generator: the source of z.

    Returns:
        The shape of `noisy`.
    """
    fresh = torch.randn(noisy.shape, generator=generator, device=noisy.device, dtype=noisy.dtype)
    spread = fraction * (1.0 - fraction**2) ** 0.5 * sigma_map(sigma, noisy)
    return clean + fraction**2 * (noisy - clean) + spread * fresh
