"""The MDRN network: a chain of degrade-and-reconstruct stages that removes noise progressively.

Every denoiser here obeys one contract: `model(noisy, sigma) -> restored`, BCHW in [0, 1] units, any height and width,
`sigma` a float or a (B,) tensor in the same units, output not clipped.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from mdrn.hub import OnHub

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
_FUSIONS = ("input", "coarse", "cross")
_CORRECTED = ("restored", "noisy")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What rebuilds an MDRN; stored in every weights file.

    Args:
        channels: 1 for grey, 3 for RGB.
        widths: feature channels at each scale of a stage, finest first; each further scale halves the resolution.
        stages: number of degrade-and-reconstruct stages; 1 makes a plain single U.
        blocks: residual blocks at each scale, on the way down and on the way up; as many at the coarsest scale.
        entry: pixel-unshuffle factor of the head; 2 works at half resolution throughout, 1 at full.
        shared: whether all stages share one set of weights.
        joint_blocks: whether stages have blocks at the finest scale also where they join; without, only the first has
            them on its way down and the last on its way up.
        finest_down: whether a stage has blocks at the finest scale on its way down.
        later_down: whether stages after the first have blocks on their way down; without, they degrade and fuse alone.
        later_coarsest: whether stages without blocks on their way down have those at the coarsest scale all the same.
        fusion: how a stage sees the one before: its input is that one's result plus the head's features, 'input';
            'cross' also adds the earlier stage's reconstruction features, through 1x1 convolutions, at every scale;
            'coarse' does so at every scale but the finest, whose features are in the input already.
        corrects: what a stage's correction is added to: the image 'restored' so far, or the 'noisy' one, which spares
            the earlier stages' corrections unless their images are asked for.
        activation: 'relu', 'gelu' or 'silu'.

    Raises:
        ValueError: if a field is outside what is listed.
    """

    channels: int = 1
    widths: tuple[int, ...] = (32, 48, 64)
    stages: int = 2
    blocks: int = 1
    entry: int = 2
    shared: bool = False
    joint_blocks: bool = True
    finest_down: bool = True
    later_down: bool = True
    later_coarsest: bool = False
    fusion: str = "cross"
    corrects: str = "restored"
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        allowed = {
            "channels": self.channels in (1, 3),
            "widths": 2 <= len(self.widths) <= 5 and all(type(w) is int and 1 <= w <= 512 for w in self.widths),
            "stages": type(self.stages) is int and 1 <= self.stages <= 16,
            "blocks": type(self.blocks) is int and 1 <= self.blocks <= 16,
            "entry": self.entry in (1, 2, 4),
            "shared": type(self.shared) is bool,
            "joint_blocks": type(self.joint_blocks) is bool and (self.joint_blocks or not self.shared),
            "finest_down": type(self.finest_down) is bool,
            "later_down": type(self.later_down) is bool and (self.later_down or not self.shared),
            "later_coarsest": type(self.later_coarsest) is bool and not (self.later_coarsest and self.later_down),
            "fusion": self.fusion in _FUSIONS,
            "corrects": self.corrects in _CORRECTED,
            "activation": self.activation in _ACTIVATIONS,
        }
        for name, ok in allowed.items():
            if not ok:
                raise ValueError(f"ModelConfig.{name}: got {getattr(self, name)!r}, outside what its docstring allows")

    def build(self) -> MDRN:
        """Return the network with fresh weights."""
        return MDRN(self)


PRESETS: dict[str, ModelConfig] = {
    "mdrn_tiny": ModelConfig(
        widths=(16, 24, 32), finest_down=False, later_down=False, fusion="coarse", corrects="noisy"
    ),
    "mdrn": ModelConfig(widths=(32, 48, 80)),
    "mdrn_tiny_rgb": ModelConfig(channels=3, widths=(16, 24, 32), finest_down=False, fusion="coarse", corrects="noisy"),
    "mdrn_rgb": ModelConfig(channels=3, widths=(32, 48, 80)),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an activation, added to their input. Shape: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.activation = nn.ReLU(inplace=True) if activation == "relu" else _ACTIVATIONS[activation]()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.activation(self.conv1(x))).add_(x)


class Stage(nn.Module):
    """One multiple degradation and reconstruction: down by several factors of two, work there, and back up.

    Shape:
        features (B, widths[0], H, W), H and W divisible by 2 ** (len(widths) - 1); the earlier stage's reconstruction
        features, one per scale -> this stage's reconstruction features, one per scale, finest first. `encodes` and
        `decodes` say at which scales, finest first, there are blocks on the way down and up.

    Reference:
        Li et al., CVPRW 2022: "multiple degradation and reconstruction". That degradation is a strided convolution and
        reconstruction a transposed one is our reading.
    """

    def __init__(self, config: ModelConfig, fused: bool, encodes: list[bool], decodes: list[bool]) -> None:
        super().__init__()
        widths = config.widths
        pairs = list(zip(widths[:-1], widths[1:], strict=True))

        def blocks(width: int, present: bool) -> nn.Module:
            if not present:
                return nn.Identity()
            return nn.Sequential(*(ResidualBlock(width, config.activation) for _ in range(config.blocks)))

        self.fuse = nn.ModuleList(nn.Conv2d(w, w, 1) for w in widths) if fused else None
        if fused and config.fusion == "coarse":
            self.fuse[0] = nn.Identity()
        self.encode = nn.ModuleList(map(blocks, widths, encodes))
        self.degrade = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.reconstruct = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.decode = nn.ModuleList(map(blocks, widths[:-1], decodes))

    def forward(self, x: torch.Tensor, earlier: list[torch.Tensor] | None) -> list[torch.Tensor]:
        encoded = []
        for scale, block in enumerate(self.encode):
            if scale:
                x = self.degrade[scale - 1](x)
            if self.fuse is not None and earlier is not None and not isinstance(self.fuse[scale], nn.Identity):
                x = self.fuse[scale](earlier[scale]).add_(x)
            x = block(x)
            encoded.append(x)
        features = [x]
        for scale in reversed(range(len(self.decode))):
            x = self.decode[scale](self.reconstruct[scale](x).add_(encoded[scale]))
            features.insert(0, x)
        return features


class MDRN(nn.Module, OnHub):
    """Multiple Degradation and Reconstruction Network.

    A head lifts the noisy image and its sigma map to features; a chain of stages refines them; after each stage a tail
    adds a correction to the image restored so far (or to the noisy one), so that noise is removed progressively.

    Shape:
        noisy (B, channels, H, W), any H, W >= 1, in [0, 1] units; sigma a float or (B,) in the same units ->
        restored, the shape of noisy, not clipped.

    Reference:
        Li et al., CVPRW 2022 (arXiv:2204.13873), implemented from its abstract. The sigma map, the half-resolution
        entry, the fusion and the additive corrections are our reading.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, factor = config.widths[0], config.entry
        self.head = nn.Conv2d(config.channels * factor**2 + 1, width, 3, padding=1)
        count = 1 if config.shared else config.stages
        coarser = len(config.widths) - 1
        self.stages = nn.ModuleList()
        for index in range(count):
            first, last, joint = index == 0, index == count - 1, config.joint_blocks
            fused = config.fusion != "input" and config.stages > 1 and (config.shared or not first)
            finest = config.finest_down and (joint or first)
            encodes = [finest, *[True] * coarser]
            if not (config.later_down or first):
                encodes = [*[False] * coarser, config.later_coarsest]
            decodes = [joint or last, *[True] * (coarser - 1)]
            self.stages.append(Stage(config, fused, encodes, decodes))
        self.tails = nn.ModuleList(nn.Conv2d(width, config.channels * factor**2, 3, padding=1) for _ in range(count))

    @property
    def stride(self) -> int:
        """The coarsest cell in pixels: inputs are padded to a multiple of it, and tiles align to it."""
        return self.config.entry * 2 ** (len(self.config.widths) - 1)

    @property
    def receptive_field_radius(self) -> int:
        """Pixels of context beyond an aligned tile's edge that can change the tile's result."""
        config = self.config
        scales = [config.entry * 2**i for i in range(len(config.widths))]
        reach = 0

        def convolutions(count: int, scale: int) -> None:
            nonlocal reach
            reach = math.ceil(reach / scale) * scale + count * scale

        convolutions(1, scales[0])  # tail; walked backwards from the output
        for index in reversed(range(config.stages)):
            stage = self.stages[0 if config.shared else index]
            up, down = zip(scales[:-1], stage.decode, strict=True), [*zip(scales, stage.encode, strict=True)]
            for scale, block in [*up, *reversed(down)]:
                convolutions(0 if isinstance(block, nn.Identity) else 2 * config.blocks, scale)
        convolutions(1, scales[0])  # head
        return reach

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
        if noisy.ndim != 4 or noisy.shape[1] != config.channels:
            raise ValueError(f"noisy: expected (B, {config.channels}, H, W), got {tuple(noisy.shape)}")
        height, width = noisy.shape[-2:]
        padded = pad_to_multiple(noisy, self.stride)
        entered = pixel_unshuffle(padded, config.entry)
        head = self.head(torch.cat([entered, sigma_map(sigma, entered)], dim=1))
        restored, x, scales = entered, head, None  # images stay pixel-unshuffled until they are asked for
        images, features = [], []
        for index in range(config.stages):
            module = 0 if config.shared else index
            scales = self.stages[module](x, scales)
            last = index + 1 == config.stages
            if config.corrects == "restored":
                restored = self.tails[module](scales[0]).contiguous() + restored
            elif every_stage or last:
                restored = self.tails[module](scales[0]).contiguous() + entered
            if every_stage:
                features.append(scales)
            if every_stage or last:
                images.append(pixel_shuffle(restored, config.entry)[..., :height, :width])
            if not last:
                in_place = not torch.is_grad_enabled() and index + 2 == config.stages  # then nobody else needs the head
                x = head.add_(scales[0]) if in_place else scales[0] + head
        return images, features


def pixel_unshuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return (B, C, H * factor, W * factor) as (B, C * factor ** 2, H, W), contiguous.

    Equal to PyTorch's function of the name, whose CPU kernel takes three to four times as long.
    """
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // factor, factor, width // factor, factor)
    return cells.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * factor**2, height // factor, width // factor)


def pixel_shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Undo `pixel_unshuffle`: (B, C * factor ** 2, H, W) -> (B, C, H * factor, W * factor), contiguous."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels // factor**2, factor, factor, height, width)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // factor**2, height * factor, width * factor)


def sigma_map(sigma: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return `sigma`, a float or (B,), as a constant (B, 1, H, W) map on the grid of `like` (B, C, H, W).

    Raises:
        ValueError: if sigma is a tensor of another shape.
    """
    batch, _, height, width = like.shape
    if not isinstance(sigma, torch.Tensor):
        return like.new_full((batch, 1, height, width), float(sigma))
    if sigma.ndim > 1 or sigma.numel() not in (1, batch):
        raise ValueError(f"sigma: expected a float or a ({batch},) tensor, got shape {tuple(sigma.shape)}")
    return sigma.to(like).reshape(-1, 1, 1, 1).expand(batch, 1, height, width)


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Mirror the bottom and right edges until height and width are multiples of `multiple`; any size from 1x1.

    Example:
        >>> pad_to_multiple(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 4)[0, 0, 0].tolist()
        [1.0, 2.0, 3.0, 2.0]
    """
    for dim in (-2, -1):
        size = x.shape[dim]
        target = (size + multiple - 1) // multiple * multiple  # of positive numbers: ONNX rounds towards 0
        if target != size:
            period = torch.full((1,), max(1, 2 * (size - 1)), device=x.device)  # a tensor: ONNX cannot take a scalar
            index = torch.arange(target, device=x.device) % period
            x = x.index_select(dim, torch.where(index < size, index, period - index))
    return x


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())
