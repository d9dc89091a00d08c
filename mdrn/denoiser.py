"""The contract that every denoiser here obeys, and what all networks need to obey it at any image size.

`model(noisy, sigma) -> restored`: BCHW in [0, 1] units, any height and width, `sigma` a float, a (B,) tensor or a
(B, 1, H, W) map in the same units, output not clipped. Any module may import this one; it imports torch alone.
`MdrnError` is here because everything else builds on this module.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

GATE_SIGMA = 10.0 / 255.0  # below it the correction fades, in proportion to sigma


class MdrnError(ValueError):
    """The base of every error that a user of this library can mend; the message says expected, got and what to do."""


class DenoiserConfig(Protocol):
    """What rebuilds a network."""

    @property
    def channels(self) -> int: ...


class Denoiser(Protocol):
    """What `mdrn.denoise`, the benchmark and the demo expect of a network.

    Attributes:
        stride: inputs are padded to a multiple of it in pixels, and tiles align to it.
        receptive_field_radius: pixels of context beyond an aligned tile's edge that can change the tile's result.
        config: what rebuilds the network; it has `channels`, 1 or 3.
    """

    @property
    def stride(self) -> int: ...

    @property
    def receptive_field_radius(self) -> int: ...

    @property
    def config(self) -> DenoiserConfig: ...

    def __call__(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor: ...


def check_fields(config: object, *checks: tuple[str, object, str]) -> None:
    """Raise MdrnError for the first field that is wrong; a check is its name, whether it is right, what to expect."""
    for name, right, expected in checks:
        if not right:
            raise MdrnError(f"{name}: expected {expected}, got {getattr(config, name)!r}")


def check_device(name: str) -> str:
    """Return the name of a device, 'cpu', 'cuda' or 'cuda:1'; raise MdrnError unless PyTorch finds it here."""
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or number and not number.isdigit():
        raise MdrnError(f"--device: expected cpu, cuda or cuda:1, got {name}")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= there:
        raise MdrnError(f"--device: expected a device that is there, got {name}, and PyTorch finds {there}; use cpu")
    return name


def check_noisy(noisy: torch.Tensor, channels: int) -> None:
    """Raise MdrnError unless `noisy` is (B, channels, H, W)."""
    if noisy.ndim != 4 or noisy.shape[1] != channels:
        raise MdrnError(f"noisy: expected (B, {channels}, H, W), got {tuple(noisy.shape)}")


def sigma_map(sigma: float | torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Return `sigma` as a tensor that broadcasts over `noisy` (B, C, H, W): (B, 1, 1, 1), or a map (B, 1, H, W).

    Args:
        sigma: standard deviation in [0, 1] units: a number, one an image (B,), or one a pixel (B, 1, H, W).
        noisy: the images.

    Raises:
        MdrnError: if sigma is a tensor of another shape, or a number outside [0, 1].
    """
    batch, _, height, width = noisy.shape
    if not isinstance(sigma, torch.Tensor):
        if not 0.0 <= sigma <= 1.0:
            raise MdrnError(f"sigma: expected 0 to 1 (8-bit level / 255), got {sigma:g}; divide a level by 255")
        return noisy.new_full((batch, 1, 1, 1), float(sigma))
    if sigma.ndim == 4 and tuple(sigma.shape[1:]) == (1, height, width) and sigma.shape[0] in (1, batch):
        return sigma.to(noisy).expand(batch, 1, height, width)
    if sigma.ndim <= 1 and sigma.numel() in (1, batch):
        return sigma.to(noisy).reshape(-1, 1, 1, 1).expand(batch, 1, 1, 1)
    expected = f"a float, a ({batch},) tensor or a map ({batch}, 1, {height}, {width})"
    raise MdrnError(f"sigma: expected {expected}, got shape {tuple(sigma.shape)}")


def enter(noisy: torch.Tensor, sigma: torch.Tensor, stride: int, factor: int) -> torch.Tensor:
    """Return what a network's head sees: the padded image, pixel-unshuffled, and the noise level of each cell.

    Args:
        noisy: (B, C, H, W).
        sigma: as `sigma_map` returns it.
        stride: what height and width are padded to a multiple of.
        factor: of the pixel-unshuffle.

    Returns:
        (B, C * factor ** 2 + 1, H', W'), H' and W' the padded size / factor.
    """
    entered = pixel_unshuffle(pad_to_multiple(noisy, stride), factor)
    if sigma.shape[-2:] == (1, 1):
        levels = sigma.expand(-1, -1, *entered.shape[-2:])
    else:
        levels = pixel_unshuffle(pad_to_multiple(sigma, stride), factor).mean(dim=1, keepdim=True)
    return torch.cat([entered, levels], dim=1)


def corrected(noisy: torch.Tensor, correction: torch.Tensor, sigma: torch.Tensor, factor: int) -> torch.Tensor:
    """Add a network's correction to the noisy image, faded out towards sigma 0, where the image stays as it is.

    Args:
        noisy: (B, C, H, W).
        correction: (B, C * factor ** 2, H', W'), on the padded grid.
        sigma: as `sigma_map` returns it.
        factor: of the pixel-unshuffle.
    """
    height, width = noisy.shape[-2:]
    shuffled = pixel_shuffle(correction, factor)[..., :height, :width]
    return torch.addcmul(noisy, shuffled, (sigma / GATE_SIGMA).clamp(max=1.0))


def pixel_unshuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return (B, C, H * factor, W * factor) as (B, C * factor ** 2, H, W), contiguous.

    Equal to PyTorch's function of the name, whose CPU kernel takes three to four times as long.
    """
    if factor == 1:
        return x
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // factor, factor, width // factor, factor)
    return cells.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * factor**2, height // factor, width // factor)


def pixel_shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Undo `pixel_unshuffle`: (B, C * factor ** 2, H, W) -> (B, C, H * factor, W * factor), contiguous."""
    if factor == 1:
        return x
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels // factor**2, factor, factor, height, width)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // factor**2, height * factor, width * factor)


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


def reach(entry: int, stages: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], block: int) -> int:
    """Return the pixels of context beyond an aligned tile's edge that can change a network's result in the tile.

    Args:
        entry: pixel-unshuffle factor of the head; head and tail are 3x3 convolutions.
        stages: first to last, the blocks at each scale on the way down and on the way up, finest first.
        block: a block's own reach, in cells of its scale.
    """
    radius = entry  # of the tail; walked backwards from the output
    for down, up in reversed(stages):
        scales = [entry << index for index in range(len(down))]
        for scale, blocks in [*zip(scales, up, strict=False), *zip(reversed(scales), reversed(down), strict=True)]:
            radius = -(-radius // scale) * scale + blocks * block * scale
    return radius + entry  # and the head


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())
