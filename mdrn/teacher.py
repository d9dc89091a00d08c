"""The heterogeneous teacher: a larger denoiser of another architecture than MDRN, for distillation alone.

`checkpoint` rebuilds it from its file and `train` trains it. It obeys the contract of `mdrn.denoiser`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from mdrn.denoiser import check_fields, check_noisy, corrected, enter, reach, sigma_map
from mdrn.model import ModelConfig, StageConfig


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """What rebuilds a teacher; stored in its weights file.

    Args:
        channels: 1 for grey, 3 for RGB.
        widths: feature channels at each scale, finest first; each further scale halves the resolution.
        down: blocks at each scale on the way down.
        up: blocks at each scale but the coarsest on the way back up.
        expansion: width of a block's inside, relative to its outside.
        entry: pixel-unshuffle factor of the head.

    Raises:
        MdrnError: if a field is outside its limits.
    """

    channels: int = 1
    widths: tuple[int, ...] = (24, 48, 96, 160)
    down: tuple[int, ...] = (1, 1, 2, 3)
    up: tuple[int, ...] = (1, 2, 2)
    expansion: int = 2
    entry: int = 1

    def __post_init__(self) -> None:
        for name in ("widths", "down", "up"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        ModelConfig(self.channels, self.widths, (StageConfig(self.down, self.up),), self.entry)  # has the same limits
        check_fields(self, ("expansion", type(self.expansion) is int and 1 <= self.expansion <= 8, "1 to 8"))

    @property
    def blocks(self) -> int:
        """Blocks in all."""
        return sum(self.down) + sum(self.up)

    def build(self) -> Teacher:
        """Return the network with fresh weights."""
        return Teacher(self)


TEACHERS: dict[str, TeacherConfig] = {"teacher": TeacherConfig()}


class FusedBottleneck(nn.Module):
    """A dense 3x3 expansion and a 1x1 projection, added to the input. Shape: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, width * expansion, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(width * expansion, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        correction: torch.Tensor = self.project(self.activation(self.expand(x)))
        return correction + x


class Teacher(nn.Module):
    """One deep U of fused inverted bottlenecks.

    Shape:
        noisy (B, channels, H, W), any H, W >= 1, in [0, 1] units; sigma a float, (B,) or (B, 1, H, W) in the same
        units -> restored, the shape of noisy, not clipped.

    Reference:
        The block: Gupta and Tan, "EfficientNet-EdgeTPU", 2019, here without normalisation. That the teacher is of
        another architecture than the student is the abstract's "heterogeneous models"; this one is our choice: dense
        convolutions train several times as many patches per second on a CPU as attention does.
    """

    header: Any  # of the file that it comes from, if any: `mdrn.checkpoint.Header`

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        widths, factor = config.widths, config.entry
        pairs = list(zip(widths[:-1], widths[1:], strict=True))

        def blocks(width: int, number: int) -> nn.Sequential:
            return nn.Sequential(*(FusedBottleneck(width, config.expansion) for _ in range(number)))

        self.head = nn.Conv2d(config.channels * factor**2 + 1, widths[0], 3, padding=1)
        self.encode = nn.ModuleList(map(blocks, widths, config.down))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.decode = nn.ModuleList(map(blocks, widths, config.up))
        self.tail = nn.Conv2d(widths[0], config.channels * factor**2, 3, padding=1)

    @property
    def stride(self) -> int:
        """The coarsest cell in pixels: inputs are padded to a multiple of it, and tiles align to it."""
        return self.config.entry << (len(self.config.widths) - 1)

    @property
    def receptive_field_radius(self) -> int:
        """Pixels of context beyond an aligned tile's edge that can change the tile's result."""
        return reach(self.config.entry, [(self.config.down, self.config.up)], block=1)

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return self.forward_features(noisy, sigma)[0]

    def forward_features(
        self, noisy: torch.Tensor, sigma: float | torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the restored image and the reconstruction features 'scale1' (finest), 'scale2' and so on.

        Feature i is (B, widths[i], H', W') on the padded grid, as MDRN's are.
        """
        check_noisy(noisy, self.config.channels)
        sigma = sigma_map(sigma, noisy)
        x = self.head(enter(noisy, sigma, self.stride, self.config.entry))
        encoded = []
        for scale, block in enumerate(self.encode):
            x = block(self.down[scale - 1](x) if scale else x)
            encoded.append(x)
        features = {f"scale{len(encoded)}": x}
        for scale in reversed(range(len(self.decode))):
            x = self.decode[scale](self.up[scale](x) + encoded[scale])
            features[f"scale{scale + 1}"] = x
        return corrected(noisy, self.tail(x), sigma, self.config.entry), features
