"""Everything about Gaussian noise: its units and its draws. Any module may import it.

Only this module converts between `noise_level` (standard deviation on the 8-bit scale, what people say: 15, 25, 50)
and `sigma` (the same in [0, 1] units, what tensors hold).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from mdrn.denoiser import MdrnError, sigma_map

MAX_NOISE_LEVEL = 75.0
PROTOCOLS = ("awgn", "clip8")


def to_sigma(noise_level: float) -> float:
    """Convert a noise level on the 8-bit scale (25) to a standard deviation in [0, 1] units (0.098)."""
    return noise_level / 255.0


def check_noise_level(noise_level: object) -> float:
    """Return `noise_level` as a float; raise MdrnError unless it is a number from 0 to 75."""
    try:
        level = float(noise_level)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        level = float("nan")
    if not 0.0 <= level <= MAX_NOISE_LEVEL:
        raise MdrnError(
            f"noise_level: expected a number from 0 to {MAX_NOISE_LEVEL:g} (standard deviation on the 8-bit scale), "
            f"got {noise_level!r}; use 'auto' in the command line or None in Python to estimate it"
        )
    return level


def draw_corners(noise_level: tuple[float, float], count: int, map_share: float, generator: Generator) -> Tensor:
    """Draw the noise levels of training patches.

    Args:
        noise_level: lowest and highest level on the 8-bit scale, drawn uniformly.
        count: number of patches, B.
        map_share: share of the patches whose level differs across them; the others have one level.
        generator: the source of randomness.

    Returns:
        (B, 1, 2, 2) sigma at the corners of each patch, on the generator's device.
    """
    low, high = (to_sigma(level) for level in noise_level)
    corners = low + (high - low) * torch.rand(count, 1, 2, 2, generator=generator, device=generator.device)
    varies = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device) < map_share
    return torch.where(varies, corners, corners[..., :1, :1])


def spread(corners: Tensor, size: int) -> Tensor:
    """Return sigma (B,) where every patch has one level, else maps (B, 1, size, size), bilinear between the corners."""
    if torch.equal(corners, corners[..., :1, :1].expand_as(corners)):
        return corners[:, 0, 0, 0]
    return torch.nn.functional.interpolate(corners, size=(size, size), mode="bilinear", align_corners=True)


def add_training_noise(clean: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Add fresh Gaussian noise, unclipped.

    Args:
        clean: (B, C, H, W) in [0, 1].
        sigma: (B,) or (B, 1, H, W) standard deviations in [0, 1] units.
        generator: the source of randomness, on the device of `clean`.

    Returns:
        (B, C, H, W), not clipped.
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    return torch.addcmul(clean, noise, sigma_map(sigma, clean))


def benchmark_noisy(image: np.ndarray, noise_level: float, protocol: str = "awgn", seed: int = 0) -> np.ndarray:
    """Make the noisy input of the benchmark: the literature's noise, restarted from `seed` for every image.

    `awgn` is what published tables use: unclipped and unquantised. `clip8` also clips and rounds the noisy input to
    8 bits, as the authors' earlier work does. RGB noise is drawn height x width x channel.

    Args:
        image: (H, W) or (H, W, 3) clean image, uint8.
        noise_level: standard deviation on the 8-bit scale.
        protocol: 'awgn' or 'clip8'.
        seed: seed of the legacy NumPy generator.

    Returns:
        Same shape as `image`, float32, in [0, 1] units; with `awgn` values may lie outside.

    Raises:
        MdrnError: if the protocol is unknown or the image is not uint8.

    Example:
        >>> noisy = benchmark_noisy(np.full((4, 4), 128, np.uint8), noise_level=25)
        >>> round(float(noisy[0, 0] - 128 / 255) * 255, 2)  # 25 * RandomState(0).normal()
        44.1
    """
    if protocol not in PROTOCOLS:
        raise MdrnError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if image.dtype != np.uint8:
        raise MdrnError(f"image: expected uint8, got {image.dtype}; the benchmark is defined on 8-bit images")
    noise = np.random.RandomState(seed).normal(0.0, to_sigma(noise_level), image.shape)
    noisy = image.astype(np.float64) / 255.0 + noise
    if protocol == "clip8":
        noisy = np.round(np.clip(noisy, 0.0, 1.0) * 255.0) / 255.0
    return noisy.astype(np.float32)
