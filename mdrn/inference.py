"""Any image in, the same kind of image out: choice of network, noise level, tiles and strength.

The command line, the demo and users come through here; it imports the library's own modules and torch.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mdrn import checkpoint, noise
from mdrn.noise import estimate_noise_level

DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
_UNKNOWN_WIDTH = 64  # for networks that do not say how many channels they work with
_MIN_TILE, _MAX_TILE = 128, 1024
_BLEND_VALUES = 2**20  # mixed at once, so that no float copy of a whole image is made
_BYTES_PER_PIXEL = 14  # working set per tile pixel, head channel and byte of float32, measured on the presets


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored image and what was done to get it.

    Args:
        image: the restored image, of the input's shape and dtype.
        noise_level: the level that was removed, on the 8-bit scale.
        estimated: whether that level was estimated from the image.
        model: id of the network, or its class name.
        per_channel: whether a grey network restored the colours one by one.
        stages: images after each stage, of the input's shape and dtype, if asked for.
        seconds: wall time of estimate and network.
    """

    image: np.ndarray
    noise_level: float
    estimated: bool
    model: str
    per_channel: bool
    stages: tuple[np.ndarray, ...]
    seconds: float


def denoise(
    image: np.ndarray,
    noise_level: float | None = None,
    model: str | Path | nn.Module | None = None,
    **options: object,
) -> np.ndarray:
    """Remove Gaussian noise from an image: `restore(...).image`.

    Colour goes through a colour network if there is one, else channel by channel through a grey one, with a warning.

    Args:
        image: (H, W) grey, (H, W, 2) grey with alpha, (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16, or float in
            [0, 1] units; any size from 1x1. Alpha is returned as it came.
        noise_level: standard deviation on the 8-bit scale, 0 to 75, also for 16 bit and float; None estimates it.
        model: released id, weights file, or a network: a torch module or anything else that obeys the same contract,
            `network(noisy, sigma)` with `stride`, `receptive_field_radius` and `config.channels`; None takes the
            released range network.
        **options: see `restore`.

    Returns:
        Same shape and dtype as `image`; float output is clipped to [0, 1].

    Raises:
        ValueError: if image, level or network do not fit; the message says what to do.

    Example:
        >>> noisy = np.random.default_rng(0).integers(0, 256, (37, 31), dtype=np.uint8)
        >>> denoise(noisy, noise_level=25).shape
        (37, 31)
    """
    restoration = restore(image, noise_level, model, **options)
    if restoration.per_channel:
        warnings.warn(f"{restoration.model} is a grey network: colour was restored channel by channel", stacklevel=2)
    return restoration.image


def restore(
    image: np.ndarray,
    noise_level: float | None = None,
    model: str | Path | nn.Module | None = None,
    *,
    strength: float = 1.0,
    tile: int | None = None,
    device: str | None = None,
    stages: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Restoration:
    """Remove Gaussian noise from an image and say what was done.

    Args:
        image: as in `denoise`.
        noise_level: as in `denoise`.
        model: as in `denoise`.
        strength: 0 returns the input, 1 the restored image, between them a mixture.
        tile: side of square tiles in pixels; None chooses from the memory at hand. Tiles overlap by the network's
            receptive field, so the result does not depend on it beyond rounding.
        device: 'cpu' or 'cuda'; None is the CPU, or where a given network already is.
        stages: whether to return the image after each stage too.
        progress: called with (done, total) after each tile; an exception it raises stops the work.

    Raises:
        ValueError: if image, level, strength, tile or network do not fit.
    """
    began = time.perf_counter()
    _check_image(image)
    if not isinstance(strength, numbers.Real) or not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength: expected 0 to 1, got {strength!r}")
    if tile is not None and not (isinstance(tile, numbers.Integral) and tile >= 1):
        raise ValueError(f"tile: expected a whole number of at least 1 pixel, got {tile!r}")
    planes = image[..., None] if image.ndim == 2 else image
    colours = planes.shape[2] - (planes.shape[2] in (2, 4))
    network = _network(model, colours, noise_level, device)
    noise_level, estimated = _level(image, noise_level, network)
    per_channel = colours == 3 and _channels(network) == 1
    if _channels(network) == 3 and colours == 1:
        raise ValueError(f"image: {_name(network)} is a colour network, got a grey image; choose a grey network")

    groups = [[c] for c in range(colours)] if per_channel else [list(range(colours))]
    outputs = [np.array(planes) for _ in range(len(network.config.stages) if stages else 1)]
    windows = list(_windows(planes.shape[:2], network, tile))
    total, done = len(windows) * len(groups), 0
    for group in groups:
        for window in windows:
            results = _run_window(network, planes, group, window, noise.to_sigma(noise_level), stages)
            for output, result in zip(outputs, results, strict=True):
                output[window.core][..., group] = _to_dtype(result, image.dtype)
            done += 1
            if progress:
                progress(done, total)
    mixed = [blend(image, output.reshape(image.shape), strength) for output in outputs]
    return Restoration(
        image=mixed[-1],
        noise_level=noise_level,
        estimated=estimated,
        model=_name(network),
        per_channel=per_channel,
        stages=tuple(mixed) if stages else (),
        seconds=time.perf_counter() - began,
    )


def blend(image: np.ndarray, restored: np.ndarray, strength: float) -> np.ndarray:
    """Mix an image with its restored version: 0 is the image, 1 the restored; same shape and dtype.

    Example:
        >>> blend(np.array([[100]], np.uint8), np.array([[50]], np.uint8), 0.5)
        array([[75]], dtype=uint8)
    """
    if strength == 1.0:
        return restored
    if strength == 0.0:
        return image.copy()
    mixed = np.empty_like(image)
    rows = max(1, _BLEND_VALUES // (image.size // len(image)))
    kind = np.promote_types(image.dtype, np.float32)
    for top in range(0, len(image), rows):
        band = slice(top, top + rows)
        part = image[band] + kind.type(strength) * (restored[band].astype(kind) - image[band])
        mixed[band] = np.round(part) if image.dtype.kind == "u" else part
    return mixed


def default_model(channels: int) -> str:
    """Return the id of the network that `denoise` takes by itself: the released `mdrn` for a range of levels.

    For RGB it is a colour network, the small one if there is no other, and a grey one while none is released.

    Raises:
        ValueError: if none is released.
    """
    names = checkpoint.short_names()
    for preset in ("mdrn_rgb", "mdrn_tiny_rgb", "mdrn") if channels == 3 else ("mdrn",):
        if preset in names:
            return names[preset]
    raise ValueError("no range network is released with this package; name one with model=")


@functools.lru_cache(maxsize=64)
def _load(id_or_path: str, device: str) -> nn.Module:
    return checkpoint.load(id_or_path, device)


def _network(
    model: str | Path | nn.Module | None, channels: int, noise_level: float | None, device: str | None
) -> nn.Module:
    if isinstance(model, nn.Module):
        return model.to(device) if device else model
    if model is not None and not isinstance(model, str | Path):
        return model
    if noise_level is not None:
        noise.check_noise_level(noise_level)
    return _load(str(model) if model is not None else default_model(channels), device or "cpu")


def _level(image: np.ndarray, noise_level: float | None, network: nn.Module) -> tuple[float, bool]:
    header = getattr(network, "header", None)
    low, high = header.noise_level if header else (0.0, noise.MAX_NOISE_LEVEL)
    if noise_level is None:
        if low == high:
            return low, False
        return min(max(estimate_noise_level(image), low), high), True
    level = noise.check_noise_level(noise_level)
    if not low <= level <= high:
        trained = f"{low:g} alone" if low == high else f"{low:g} to {high:g}"
        raise ValueError(
            f"noise_level: {_name(network)} was trained for {trained}, got {level:g}; name another network"
        )
    return level, False


def _name(network: nn.Module) -> str:
    header = getattr(network, "header", None)
    return header.id if header else type(network).__name__


def _channels(network: nn.Module) -> int:
    return network.config.channels


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: expected a NumPy array, got {type(image).__name__}; np.asarray converts most images")
    shape_ok = image.ndim in (2, 3) and (image.ndim == 2 or 2 <= image.shape[2] <= 4) and image.size > 0
    if not shape_ok:
        raise ValueError(f"image: expected (H, W), (H, W, 2), (H, W, 3) or (H, W, 4), got {image.shape}")
    if image.dtype.name not in DTYPES:
        raise ValueError(f"image: expected {', '.join(DTYPES)}, got {image.dtype}; convert it first")
    if image.dtype.kind == "f":
        lowest, highest = float(image.min()), float(image.max())
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ValueError("image: expected finite values, got NaN or infinity; replace them first")
        if lowest < -1.0 or highest > 2.0:
            raise ValueError(
                f"image: expected floats in [0, 1] units, got {lowest:g} to {highest:g}; divide by the white"
            )


@dataclasses.dataclass(frozen=True)
class _Window:
    core: tuple[slice, slice]  # what it writes, in the image
    crop: tuple[slice, slice]  # what it reads, in the image
    inner: tuple[slice, slice]  # the core, in the crop


def _windows(shape: tuple[int, int], network: nn.Module, tile: int | None) -> Iterator[_Window]:
    stride = network.stride
    halo = -(-network.receptive_field_radius // stride) * stride
    side = tile or _tile_from_memory(network, halo)
    side = max(stride, side // stride * stride)
    if tile is None and max(shape) <= side + 2 * halo:
        side = -(-max(shape) // stride) * stride
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            core, crop, inner = [], [], []
            for start, size in ((top, shape[0]), (left, shape[1])):
                end, first = min(start + side, size), max(0, start - halo)
                core.append(slice(start, end))
                crop.append(slice(first, min(end + halo, size)))
                inner.append(slice(start - first, end - first))
            yield _Window(tuple(core), tuple(crop), tuple(inner))


def _tile_from_memory(network: nn.Module, halo: int) -> int:
    import psutil

    budget = min(psutil.virtual_memory().available // 4, 400 * 2**20)
    width, entry = getattr(network.config, "widths", (_UNKNOWN_WIDTH,))[0], getattr(network.config, "entry", 1)
    pixels = budget / (_BYTES_PER_PIXEL * 4 * width / entry**2)
    return int(min(_MAX_TILE, max(_MIN_TILE, pixels**0.5 - 2 * halo)))


def _run_window(
    network: nn.Module, planes: np.ndarray, group: list[int], window: _Window, sigma: float, stages: bool
) -> list[np.ndarray]:
    crop = planes[window.crop][..., group]
    scale = np.iinfo(crop.dtype).max if crop.dtype.kind == "u" else 1
    values = np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32) / np.float32(scale)
    device = next(network.parameters()).device if isinstance(network, nn.Module) else "cpu"
    noisy = torch.from_numpy(values)[None].to(device, memory_format=torch.channels_last)
    with torch.inference_mode():
        images = network.progressive(noisy, sigma) if stages else [network(noisy, sigma)]
        rows, columns = window.inner
        cores = [image[0, :, rows, columns].permute(1, 2, 0).float().cpu().numpy() for image in images]
    if not all(np.isfinite(core).all() for core in cores):
        raise ValueError(f"model: {_name(network)} gave NaN or infinity; its weights or its precision do not fit")
    return cores


def _to_dtype(restored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    clipped = np.clip(restored, 0.0, 1.0)
    if dtype.kind == "u":
        return np.round(clipped * np.float32(np.iinfo(dtype).max)).astype(dtype)
    return clipped.astype(dtype)
