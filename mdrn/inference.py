"""Any image in, the same kind of image out: choice of network, noise level, tiles and strength.

The command line, the demo and users come through here; it imports the library's own modules and torch.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import numbers
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mdrn import checkpoint, estimate, noise
from mdrn.denoiser import Denoiser, MdrnError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
_PILLOW_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "F")
_PILLOW_CONVERTED = {"1": "L", "P": "RGB", "PA": "RGBA"}
_DIM_WHITES = (2.0**10 - 1, 2.0**12 - 1, 2.0**14 - 1)
_UNKNOWN_WIDTH = 64  # for networks that do not say how many channels they work with
_MIN_TILE, _MAX_TILE = 128, 1024
_BLEND_VALUES = 2**20  # mixed at once, so that no float copy of a whole image is made
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_KEPT = 512 * 2**20
_LAYERS_ALIVE = 6  # a tile's working set in outputs of the head, measured on the presets
_largest_layer = 32 * 2**20  # bytes; as glibc is set by itself, it maps larger blocks anew each time


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored image and what was done to get it.

    Args:
        image: the restored image, of the input's shape and dtype.
        noise_level: the level that was removed, on the 8-bit scale; where it differs over the image, the root mean
            square.
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
    image: np.ndarray | PILImage,
    noise_level: float | np.ndarray | None = None,
    model: str | Path | Denoiser | None = None,
    strength: float = 1.0,
    *,
    white_level: float | None = None,
    tile: int | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray | PILImage:
    """Remove noise from an image.

    Colour goes through a colour network if there is one, else channel by channel through a grey one, with a warning.
    An image whose channels are all equal is taken for grey, and they stay equal.

    Args:
        image: (H, W) or (H, W, 1) grey, (H, W, 2) grey with alpha, (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16, or
            float in [0, 1] units; any size from 1x1; or an image of Pillow's. Alpha is returned as it came, and so are
            colours under alpha 0.
        noise_level: standard deviation on the 8-bit scale, 0 to 75, also for 16 bit and float; an array (H, W) of
            them where it differs from pixel to pixel; None estimates it. 0 returns the image itself.
        model: a short name such as 'mdrn', a released id, a weights file, or a network that obeys `Denoiser`; None
            takes the released network for the image's kind.
        strength: 0 returns the input, 1 the restored image, between them a mixture; above 1, to 2, it multiplies the
            noise level, for more smoothing.
        white_level: the value of white where it is not the type's highest, such as 4095 for 12 bits in uint16. None
            finds out for uint16 when the noise level is estimated.
        tile: largest side of tiles in pixels; None chooses from the memory at hand. Tiles overlap by the network's
            receptive field, so the result does not depend on it beyond rounding.
        device: 'cpu' or 'cuda'; None is the CPU, or where a given network already is.
        progress: called with (done, total) after each tile; an exception it raises stops the work.

    Returns:
        Same kind, shape and dtype as `image`; float output is clipped to [0, 1].

    Raises:
        MdrnError: if an argument does not fit; the message says what to do.

    Example:
        >>> noisy = np.random.default_rng(0).integers(0, 256, (37, 31), dtype=np.uint8)
        >>> denoise(noisy, noise_level=25).shape
        (37, 31)
    """
    restoration = restore(
        image, noise_level, model, strength, white_level=white_level, tile=tile, device=device, progress=progress
    )
    if restoration.per_channel:
        warnings.warn(f"{restoration.model} is a grey network: colour was restored channel by channel", stacklevel=2)
    return restoration.image if isinstance(image, np.ndarray) else _as_pillow(restoration.image, image)


def restore(
    image: np.ndarray | PILImage,
    noise_level: float | np.ndarray | None = None,
    model: str | Path | Denoiser | None = None,
    strength: float = 1.0,
    *,
    white_level: float | None = None,
    tile: int | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    stages: bool = False,
) -> Restoration:
    """Remove noise from an image and say what was done: `denoise`, with the same arguments, in detail.

    The result is an array also for Pillow's images; `stages` says whether to return the image after each stage too.
    """
    began = time.perf_counter()
    image = _as_array(image)
    if not isinstance(strength, numbers.Real) or not 0.0 <= strength <= 2.0:
        raise MdrnError(f"strength: expected 0 to 2, got {strength!r}")
    if tile is not None and not (isinstance(tile, numbers.Integral) and tile >= 1):
        raise MdrnError(f"tile: expected a whole number of at least 1 pixel, got {tile!r}")
    planes = image[..., None] if image.ndim == 2 else image
    network, seen, hidden, equal, white, levels, estimated = _prepare(image, noise_level, model, white_level, device)
    levels = np.minimum(levels * max(1.0, strength), _range(network)[1])

    outputs = [np.array(planes) for _ in range(len(network.config.stages) if stages else 1)]
    for window, group, results in _passes(network, seen, levels, white, tile, stages, progress) if levels.any() else ():
        for output, result in zip(outputs, results, strict=True):
            values = result.mean(axis=2, keepdims=True) if equal else result
            output[window.core][..., [0, 1, 2] if equal else group] = _to_dtype(values, image.dtype, white)
    for output in outputs if hidden is not None else ():
        output[hidden] = planes[hidden]
    mixed = [blend(image, output.reshape(image.shape), min(1.0, strength)) for output in outputs]
    return Restoration(
        image=mixed[-1],
        noise_level=_root_mean_square(levels),
        estimated=estimated,
        model=_name(network),
        per_channel=network.config.channels < seen.shape[2],
        stages=tuple(mixed) if stages else (),
        seconds=time.perf_counter() - began,
    )


def estimated_level(image: np.ndarray | PILImage) -> float:
    """Return the noise level that `denoise` takes for an image if it is told nothing, on the 8-bit scale.

    Args:
        image: as in `denoise`.

    Raises:
        MdrnError: as `denoise` does.
    """
    return _root_mean_square(_prepare(_as_array(image)).levels)


class _Prepared(NamedTuple):
    network: Denoiser
    seen: np.ndarray  # (H, W, C), what goes through it
    hidden: np.ndarray | None  # (H, W), where alpha is 0
    equal: bool  # whether red, green and blue are the same
    white: float
    levels: np.ndarray
    estimated: bool


def _prepare(
    image: np.ndarray,
    noise_level: float | np.ndarray | None = None,
    model: str | Path | Denoiser | None = None,
    white_level: float | None = None,
    device: str | None = None,
) -> _Prepared:
    """Choose the network, what of the image goes through it, and the noise levels that it is told."""
    white = _white(image, white_level, estimated=noise_level is None)
    planes = image[..., None] if image.ndim == 2 else image
    alpha = planes.shape[2] in (2, 4)
    hidden = planes[..., -1] == 0 if alpha else None
    seen = planes if hidden is None else _with_hidden_filled(planes[..., :-1], hidden)
    equal = seen.shape[2] == 3 and all(np.array_equal(seen[..., 0], seen[..., c]) for c in (1, 2))
    network = _network(model, 1 if equal else seen.shape[2], device)
    channels = network.config.channels
    if equal and channels == 1:
        seen = seen[..., :1]
    if channels == 3 and seen.shape[2] == 1:
        raise MdrnError(f"image: {_name(network)} is a colour network, got a grey image; choose a grey network")
    measured = np.dstack([seen, planes[..., -1:]]) if alpha else seen
    return _Prepared(network, seen, hidden, equal, white, *_levels(measured, noise_level, network, white))


def _root_mean_square(levels: np.ndarray) -> float:
    return float(np.sqrt(np.square(levels).mean()))


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
    """Return the id of the network that `denoise` takes by itself: `mdrn`, or for RGB `photo`.

    While that is not released, RGB goes through another colour network or, if there is none, through a grey one.

    Raises:
        MdrnError: if none is released.
    """
    names = checkpoint.short_names()
    for preset in ("photo", "mdrn_rgb", "mdrn_tiny_rgb", "mdrn") if channels == 3 else ("mdrn",):
        if preset in names:
            return names[preset]
    raise MdrnError("no range network is released with this package; name one with model=")


def reuse_freed_memory() -> bool:
    """Tell malloc to keep up to 512 MiB of freed memory, in this process and for all its threads.

    Without it, each layer's output is mapped afresh and the system clears it page by page. It also makes tiles larger,
    which costs less time. Results do not change. For programs, which own their process; a library that changes malloc
    by itself would be a surprise.

    Returns:
        Whether it was done: with glibc, on Linux; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_ARENA_MAX, 1))
    done = all([mallopt(name, value) == 1 for name, value in settings])
    if done:
        global _largest_layer
        _largest_layer = 64 * 2**20
    return done


@functools.lru_cache(maxsize=64)
def _load(id_or_path: str, device: str) -> Denoiser:
    return checkpoint.load(id_or_path, device)


def _network(model: str | Path | Denoiser | None, channels: int, device: str | None) -> Denoiser:
    if isinstance(model, nn.Module):
        return model.to(device) if device else model
    if model is not None and not isinstance(model, str | Path):
        return model
    return _load(str(model) if model is not None else default_model(channels), device or "cpu")


def _range(network: Denoiser) -> tuple[float, float]:
    header = getattr(network, "header", None)
    return header.noise_level if header else (0.0, noise.MAX_NOISE_LEVEL)


def _levels(
    image: np.ndarray, noise_level: float | np.ndarray | None, network: Denoiser, white: float
) -> tuple[np.ndarray, bool]:
    """Return levels (1, 1), for equal parts of the image, or for each pixel; and whether they were estimated."""
    low, high = _range(network)
    if noise_level is None and low < high:
        header = getattr(network, "header", None)
        coarseness = header.coarseness if header else estimate.COARSENESS
        whole, parts = estimate.estimate_level(image, coarseness, white)
        return np.clip(np.array([[whole]]) if parts is None else parts, low, high), True
    if isinstance(noise_level, np.ndarray) and noise_level.ndim:
        if noise_level.shape != image.shape[:2]:
            raise MdrnError(f"noise_level: expected a map of shape {image.shape[:2]}, got {noise_level.shape}")
        levels = noise_level.astype(np.float64)
    else:
        levels = np.array([[low if noise_level is None else noise.check_noise_level(noise_level)]])
    for level in (levels.min(), levels.max()):
        noise.check_noise_level(level)
        if level and not low <= level <= high:
            trained = f"{low:g} alone" if low == high else f"{low:g} to {high:g}"
            raise MdrnError(
                f"noise_level: {_name(network)} was trained for {trained}, got {level:g}; name another network"
            )
    return levels, False


def _sigma(levels: np.ndarray, shape: tuple[int, int], crop: tuple[slice, slice]) -> float | np.ndarray:
    """Return sigma in a crop of an image of this shape: a number, or (h, w) between the levels of parts or pixels."""
    if levels.size == 1:
        return noise.to_sigma(float(levels.item()))
    if levels.shape == shape:
        return levels[crop] / 255.0
    weights, near = [], []  # of each part for each row and each column; the parts in or beside the crop
    for size, count, part in zip(shape, levels.shape, crop, strict=True):
        place = ((np.arange(part.start, part.stop) + 0.5) * count / size - 0.5).clip(0, count - 1)
        near.append(np.arange(int(place[0]), int(np.ceil(place[-1])) + 1))
        weights.append(np.maximum(0.0, 1.0 - np.abs(place[:, None] - near[-1])))
    return np.asarray(weights[0] @ levels[np.ix_(*near)] @ weights[1].T) / 255.0


def _name(network: Denoiser) -> str:
    header = getattr(network, "header", None)
    return header.id if header else type(network).__name__


def _as_array(image: Any) -> np.ndarray:
    """Return an image as an array of a supported shape and type; Pillow's palettes become colours."""
    if type(image).__module__.startswith("PIL."):
        if image.mode not in (*_PILLOW_MODES, *_PILLOW_CONVERTED):
            raise MdrnError(f"image: expected grey or RGB, got Pillow's mode {image.mode}; use image.convert('RGB')")
        mode = "RGBA" if "transparency" in image.info else _PILLOW_CONVERTED.get(image.mode, image.mode)
        image = np.asarray(image if mode == image.mode else image.convert(mode))
    if isinstance(image, str | Path):
        raise MdrnError(f"image: expected an array, got the path {str(image)!r}; open it with PIL.Image.open first")
    if isinstance(image, torch.Tensor):
        raise MdrnError("image: expected an array, got a tensor; call a network itself: mdrn.load(...)(noisy, sigma)")
    if not isinstance(image, np.ndarray):
        raise MdrnError(f"image: expected a NumPy array or an image of Pillow's, got {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4) or image.size == 0:
        raise MdrnError(f"image: expected (H, W), or (H, W, C) with 1 to 4 channels, got {image.shape}")
    if image.dtype.name not in DTYPES:
        raise MdrnError(f"image: expected {', '.join(DTYPES)}, got {image.dtype}; convert it first")
    return image


def _as_pillow(restored: np.ndarray, image: PILImage) -> PILImage:
    from PIL import Image

    result = Image.fromarray(restored)
    result.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return result


def _white(image: np.ndarray, white_level: float | None, estimated: bool) -> float:
    """Return the value of white; see that the image's values fit it."""
    highest = estimate.white_of(image.dtype)
    colours = image[..., :-1] if image.ndim == 3 and image.shape[2] in (2, 4) else image
    least, most = float(colours.min()), float(colours.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise MdrnError("image: expected finite values, got NaN or infinity; replace them first")
    if white_level is not None and (not isinstance(white_level, numbers.Real) or not 0 < white_level < np.inf):
        raise MdrnError(f"white_level: expected a positive number, got {white_level!r}")
    if image.dtype.kind == "f":
        white = float(white_level or 1.0)
        if least < -white or most > 2.0 * white:
            raise MdrnError(
                f"image: expected floats from 0 to {white:g}, got {least:g} to {most:g}; "
                "divide by the maximum value, or give it as white_level="
            )
        return white
    if white_level is not None:
        if not most <= white_level <= highest:
            raise MdrnError(
                f"white_level: expected {most:g}, the image's highest value, to {highest:g}, got {white_level:g}"
            )
        return float(white_level)
    return next((w for w in _DIM_WHITES if most <= w), highest) if estimated and highest > 255 else highest


def _with_hidden_filled(colours: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return colours (H, W, C) with the mean of visible ones nearby where they are hidden (H, W)."""
    if not hidden.any():
        return colours
    filled = _filled(colours.astype(np.float32), ~hidden)
    return (np.round(filled) if colours.dtype.kind == "u" else filled).astype(colours.dtype)


def _filled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    if known.all() or max(known.shape) == 1:
        return np.where(known[..., None], values, 0.0)
    height, width = known.shape
    even = ((0, height % 2), (0, width % 2))
    weights = np.pad(known, even).astype(np.float32)[..., None]
    sums = np.pad(np.where(known[..., None], values, 0.0), (*even, (0, 0)))
    for axis in (0, 1):
        weights, sums = (
            x.take(range(0, x.shape[axis], 2), axis) + x.take(range(1, x.shape[axis], 2), axis) for x in (weights, sums)
        )
    coarse = _filled(sums / np.maximum(weights, 1.0), weights[..., 0] > 0)
    return np.where(known[..., None], values, coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width])


@dataclasses.dataclass(frozen=True)
class _Window:
    core: tuple[slice, slice]  # what it writes, in the image
    crop: tuple[slice, slice]  # what it reads, in the image
    inner: tuple[slice, slice]  # the core, in the crop

    def pixels(self) -> int:
        """How many it reads."""
        rows, columns = self.crop
        count: int = (rows.stop - rows.start) * (columns.stop - columns.start)
        return count


def _windows(shape: tuple[int, int], network: Denoiser, tile: int | None) -> Iterator[_Window]:
    stride = network.stride
    halo = -(-network.receptive_field_radius // stride) * stride
    side = tile or _tile_from_memory(network, halo)
    side = max(stride, side // stride * stride)
    if tile is None and max(shape) <= side + 2 * halo:
        side = -(-max(shape) // stride) * stride
    axes = []
    for size in shape:  # parts of equal size, for what is read twice is least then
        even = -(-size // -(-size // side))
        even = -(-even // stride) * stride
        axes.append([_spans(start, even, halo, size) for start in range(0, size, even)])
    for rows, columns in itertools.product(*axes):
        yield _Window(*zip(rows, columns, strict=True))


def _spans(start: int, side: int, halo: int, size: int) -> tuple[slice, slice, slice]:
    """Return what a tile writes and reads along one axis, and the former within the latter."""
    end, first = min(start + side, size), max(0, start - halo)
    return slice(start, end), slice(first, min(end + halo, size)), slice(start - first, end - first)


def _tile_from_memory(network: Denoiser, halo: int) -> int:
    import psutil

    largest = min(psutil.virtual_memory().available // (4 * _LAYERS_ALIVE), _largest_layer)
    width, entry = getattr(network.config, "widths", (_UNKNOWN_WIDTH,))[0], getattr(network.config, "entry", 1)
    pixels = largest / (4 * width / entry**2)
    return int(min(_MAX_TILE, max(_MIN_TILE, pixels**0.5 - 2 * halo)))


def _passes(
    network: Denoiser,
    planes: np.ndarray,
    levels: np.ndarray,
    white: float,
    tile: int | None,
    stages: bool,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[_Window, list[int], list[np.ndarray]]]:
    """Yield windows, the channels restored in them, and what came out, one image or one for each stage."""
    colours, shape = planes.shape[2], planes.shape[:2]
    groups = [list(range(colours))] if network.config.channels == colours else [[c] for c in range(colours)]
    # the largest first: the others then fit into the memory that it leaves
    windows = sorted(_windows(shape, network, tile), key=_Window.pixels, reverse=True)
    for done, (group, window) in enumerate(itertools.product(groups, windows), 1):
        crop = planes[window.crop][..., group]
        yield window, group, _run_window(network, crop, window, _sigma(levels, shape, window.crop), white, stages)
        if progress:
            progress(done, len(windows) * len(groups))


def _run_window(
    network: Denoiser, crop: np.ndarray, window: _Window, sigma: float | np.ndarray, white: float, stages: bool
) -> list[np.ndarray]:
    values = np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32) / np.float32(white)
    device = next(network.parameters()).device if isinstance(network, nn.Module) else "cpu"
    noisy = torch.from_numpy(values)[None].to(device, memory_format=torch.channels_last)
    told = torch.from_numpy(sigma.astype(np.float32))[None, None].to(device) if isinstance(sigma, np.ndarray) else sigma
    with torch.inference_mode():
        progressive = getattr(network, "progressive") if stages else None  # noqa: B009
        images = progressive(noisy, told) if progressive else [network(noisy, told)]
        rows, columns = window.inner
        cores = [image[0, :, rows, columns].permute(1, 2, 0).float().cpu().numpy() for image in images]
    if not all(np.isfinite(core).all() for core in cores):
        raise MdrnError(f"model: {_name(network)} gave NaN or infinity; its weights or its precision do not fit")
    return cores


def _to_dtype(restored: np.ndarray, dtype: np.dtype, white: float) -> np.ndarray:
    values: np.ndarray = np.clip(restored, 0.0, 1.0) * np.float32(white)
    return np.round(values).astype(dtype) if dtype.kind == "u" else values.astype(dtype)
