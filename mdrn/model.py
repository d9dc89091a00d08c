"""The MDRN network: a chain of degrade-and-reconstruct stages that removes noise progressively.

It obeys the contract of `mdrn.denoiser`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from mdrn.denoiser import check_fields, check_noisy, corrected, enter, reach, sigma_map


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """How many residual blocks a stage has at each scale, finest first; 0 means none.

    Args:
        down: on the way down, one number for each scale.
        up: on the way back up, one number for each scale but the coarsest.
    """

    down: tuple[int, ...] = (0, 1, 1, 1)
    up: tuple[int, ...] = (1, 1, 1)

    def __post_init__(self) -> None:
        for name in ("down", "up"):
            blocks = tuple(getattr(self, name))
            object.__setattr__(self, name, blocks)
            right = all(type(n) is int and 0 <= n <= 16 for n in blocks)
            check_fields(self, (name, right, "whole numbers from 0 to 16"))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What rebuilds an MDRN; stored in every weights file.

    Args:
        channels: 1 for grey, 3 for RGB.
        widths: feature channels at each scale of a stage, finest first; each further scale halves the resolution.
        stages: the degrade-and-reconstruct stages; one makes a plain single U.
        entry: pixel-unshuffle factor of the head; 1 works at full resolution, 2 at half.

    Raises:
        MdrnError: if a field is outside what is listed.
    """

    channels: int = 1
    widths: tuple[int, ...] = (16, 32, 48, 64)
    stages: tuple[StageConfig, ...] = (StageConfig(), StageConfig())
    entry: int = 1

    def __post_init__(self) -> None:
        stages = tuple(StageConfig(**stage) if isinstance(stage, dict) else stage for stage in self.stages)
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "stages", stages)
        scales = len(self.widths)
        widths = 2 <= scales <= 5 and all(type(w) is int and 1 <= w <= 512 for w in self.widths)
        fit = all((len(stage.down), len(stage.up)) == (scales, scales - 1) for stage in stages)
        check_fields(
            self,
            ("channels", self.channels in (1, 3), "1 or 3"),
            ("widths", widths, "2 to 5 whole numbers from 1 to 512"),
            ("stages", fit and 1 <= len(stages) <= 16, "1 to 16 stages with a number for each scale"),
            ("entry", self.entry in (1, 2, 4), "1, 2 or 4"),
        )

    @property
    def blocks(self) -> int:
        """Residual blocks in all."""
        return sum(sum(stage.down) + sum(stage.up) for stage in self.stages)

    def build(self) -> MDRN:
        """Return the network with fresh weights."""
        return MDRN(self)


_TINY = ModelConfig(
    widths=(16, 24, 32), stages=(StageConfig((0, 1, 1), (1, 1)), StageConfig((0, 0, 1), (1, 1))), entry=2
)
PRESETS: dict[str, ModelConfig] = {"mdrn_tiny": _TINY, "mdrn": ModelConfig()}
PRESETS |= {f"{name}_rgb": dataclasses.replace(config, channels=3) for name, config in PRESETS.items()}
PRESETS |= {"photo": PRESETS["mdrn_rgb"], "photo_tiny": PRESETS["mdrn_tiny_rgb"]}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to their input. Shape: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        correction: torch.Tensor = self.conv2(self.activation(self.conv1(x)))
        return correction.add_(x)


def _blocks(widths: tuple[int, ...], counts: tuple[int, ...]) -> nn.ModuleList:
    pairs = zip(widths, counts, strict=False)  # the coarsest scale has none on the way up
    return nn.ModuleList(nn.Sequential(*(ResidualBlock(width) for _ in range(count))) for width, count in pairs)


class Stage(nn.Module):
    """One multiple degradation and reconstruction: down by several factors of two, work there, and back up.

    A later stage's input is the earlier one's result plus the head's features; at every coarser scale it also adds the
    earlier stage's features, through a 1x1 convolution.

    Shape:
        a list of features (B, widths[0], H, W), H and W divisible by 2 ** (len(widths) - 1), and for a later stage the
        earlier one's reconstruction features at each coarser scale -> this stage's reconstruction features, one per
        scale, finest first. The list is emptied, so that nothing is kept in memory longer than it is needed.

    Reference:
        Li et al., CVPRW 2022: "multiple degradation and reconstruction". That degradation is a strided convolution and
        reconstruction a transposed one is our reading, and so is what a stage takes from the one before.
    """

    def __init__(self, config: ModelConfig, stage: StageConfig, fused: bool) -> None:
        super().__init__()
        widths = config.widths
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.fuse = None
        if fused:  # the finest scale sees the earlier stage in the stage's input
            self.fuse = nn.ModuleList([nn.Identity(), *(nn.Conv2d(w, w, 1) for w in widths[1:])])
        self.encode = _blocks(widths, stage.down)
        self.degrade = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.reconstruct = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.decode = _blocks(widths, stage.up)

    def forward(self, given: list[torch.Tensor]) -> list[torch.Tensor]:
        encoded = [self.encode[0](given.pop(0))]
        for scale in range(1, len(self.encode)):
            x = self.degrade[scale - 1](encoded[-1])
            if self.fuse is not None:
                x = self.fuse[scale](given.pop(0)).add_(x)
            encoded.append(self.encode[scale](x))
        del x  # the coarsest; every other is popped as it is used
        features = [encoded.pop()]
        for scale in reversed(range(len(self.decode))):
            features.insert(0, self.decode[scale](self.reconstruct[scale](features[0]).add_(encoded.pop())))
        return features


class MDRN(nn.Module):
    """Multiple Degradation and Reconstruction Network.

    A head lifts the noisy image and its sigma map to features; a chain of stages refines them; after each stage a tail
    adds a correction to the noisy image (or to the one restored so far), so that noise is removed progressively. At
    sigma 0 the correction is 0: the image stays as it is.

    Shape:
        noisy (B, channels, H, W), any H, W >= 1, in [0, 1] units; sigma a float, (B,) or (B, 1, H, W) in the same
        units -> restored, the shape of noisy, not clipped.

    Reference:
        Li et al., CVPRW 2022 (arXiv:2204.13873), implemented from its abstract. The sigma map, the fusion and the
        additive corrections are our reading.
    """

    header: Any  # of the file that it comes from, if any: `mdrn.checkpoint.Header`

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, factor = config.widths[0], config.entry
        self.head = nn.Conv2d(config.channels * factor**2 + 1, width, 3, padding=1)
        self.stages = nn.ModuleList(Stage(config, stage, fused=index > 0) for index, stage in enumerate(config.stages))
        self.tails = nn.ModuleList(nn.Conv2d(width, config.channels * factor**2, 3, padding=1) for _ in config.stages)

    @property
    def stride(self) -> int:
        """The coarsest cell in pixels: inputs are padded to a multiple of it, and tiles align to it."""
        return self.config.entry << (len(self.config.widths) - 1)

    @property
    def receptive_field_radius(self) -> int:
        """Pixels of context beyond an aligned tile's edge that can change the tile's result."""
        return reach(self.config.entry, [(stage.down, stage.up) for stage in self.config.stages], block=2)

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return self._run(noisy, sigma, every_stage=False)[0][-1]

    def progressive(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> list[torch.Tensor]:
        """Return the image restored after each stage, first to last; the last is what `forward` returns."""
        return self._run(noisy, sigma)[0]

    def forward_features(
        self, noisy: torch.Tensor, sigma: float | torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the restored image and each stage's reconstruction features.

        Features are named 'stage1.scale1' (finest) and so on, (B, widths[i], H', W') on the padded grid: H' is H
        rounded up to a multiple of `stride`, divided by entry * 2 ** i. 'stage1.restored' is the image after a stage.
        """
        images, features = self._run(noisy, sigma)
        named = {f"stage{s}.scale{i}": x for s, scales in enumerate(features, 1) for i, x in enumerate(scales, 1)}
        named |= {f"stage{s}.restored": image for s, image in enumerate(images, 1)}
        return images[-1], named

    def _run(
        self, noisy: torch.Tensor, sigma: float | torch.Tensor, every_stage: bool = True
    ) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Return the images after every stage (or the last alone) and the features of every stage (or of none)."""
        config = self.config
        check_noisy(noisy, config.channels)
        sigma = sigma_map(sigma, noisy)
        head = self.head(enter(noisy, sigma, self.stride, config.entry))
        scales = [head]
        images, features = [], []
        for left, stage, tail in zip(reversed(range(len(self.stages))), self.stages, self.tails, strict=True):
            if not left:
                del head
            scales = stage(scales)
            if every_stage:
                features.append(list(scales))
            if every_stage or not left:
                images.append(corrected(noisy, tail(scales[0]), sigma, config.entry))
            if left:
                in_place = left == 1 and not torch.is_grad_enabled()  # nobody else needs the head
                scales[0] = head.add_(scales[0]) if in_place else head + scales[0]
        return images, features
