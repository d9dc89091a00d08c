"""How noisy an image is: white noise, and also noise that is correlated, depends on brightness or went through JPEG.

`inference`, the demo and the benchmark import this module. Statistics of many small windows go through a small network
of 5,512 parameters for grey images and the mean of three of 14,162 for colour.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources

import numpy as np

from mdrn.noise import MAX_NOISE_LEVEL

_WINDOW, _STEP, _MAX_WINDOWS = 16, 11, 8000  # an odd step, so that windows meet a JPEG's grid in every phase
_BLOCK = 8
_ORDERS = ((1, 2), (3, 4), (5, 6), (7, 9), (10, 14))  # bands of DCT coefficients (i, j) by i + j, at full size
_HALF_ORDERS = ((1, 2), (3, 5), (6, 14))  # and at half size
_COARSE_BANDS = 4
_QUANTILES = (0.03, 0.1, 0.3, 0.6)
_SMOOTH = 0.1
_FLOOR = 0.1  # keeps logarithms finite; the variance of rounding to 8 bits
_CLIPPED = 0.1
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.sqrt([[3], [2], [6]]).astype(np.float32)
_CELL_STEPS = 10  # parts of an image have about this many windows a side
_LEAST = _CELL_STEPS**2 // 3  # windows that tell the noise of a part
_WORTH_A_MAP = 1.8
# Noise that rises with brightness: parts of an image by brightness; the least rise from the darkest to the brightest, a
# logarithm; from one to the next, the share of it by which noise may fall, and by how much it may rise faster than
# brightness; and how much of the noise of places brightness may leave unexplained. Texture seldom fits all that.
_TONES, _RISE, _FALL, _STEEP, _UNEXPLAINED = 6, 0.28, 0.1, 0.1, 0.2
_TONE_BLOCK = 4
_SMOOTH_NOISE = 1.5  # coarse noise for fine; smoother noise is measured well in the whole image alone
_CLEAN = 2.0  # an image that is cleaner as a whole has texture, not noise, in some of its parts
COARSENESS = 1.0  # of networks trained on white noise
# The grey network measures too little of two kinds of noise: of faint smooth noise, which looks like faint texture
# (what is measured, and what it takes to be removed; noise as fine as white noise stays), and of white noise above the
# first level, by the second number as a share of the logarithms' difference.
_FAINT, _LOW = ([1.2, 3.0, 14.0], [1.2, 6.3, 14.0]), (20.0, 0.038)


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise in an image, or in each of its parts, on the 8-bit scale.

    Args:
        fine: its standard deviation, the root mean square over channels.
        coarse: that of white noise which takes as much to remove, as learned from what networks lose at every level.
            For white noise the two are equal; the smoother noise is, the higher is `coarse`.
    """

    fine: float | np.ndarray
    coarse: float | np.ndarray

    def level(self, coarseness: float) -> float | np.ndarray:
        """Return the noise level at which a network does best with this noise, 0 to 75.

        Args:
            coarseness: how far the network is disturbed by coarse noise rather than by fine noise; 0 is `fine`, 1 is
                `coarse`, and between and beyond them the logarithms are mixed. A property of each network.

        Example:
            >>> round(float(Noise(fine=5, coarse=20).level(0.5)), 1)
            10.2
        """
        logs = (1.0 - coarseness) * np.log1p(self.fine) + coarseness * np.log1p(self.coarse)
        return np.clip(np.expm1(logs), 0.0, MAX_NOISE_LEVEL)


def _windows(image: np.ndarray, white: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return windows (N, 16, 16, C) of an image (H, W, C) on the 8-bit scale, their corners (N, 2) and distance."""
    missing = [(0, max(0, _WINDOW - size)) for size in image.shape[:2]]
    padded = np.pad(image, [*missing, (0, 0)], mode="symmetric") if np.any(missing) else image
    spans = [size - _WINDOW + 1 for size in padded.shape[:2]]
    step = max(_STEP, int(np.ceil(np.sqrt(spans[0] * spans[1] / _MAX_WINDOWS))) | 1)
    views = np.lib.stride_tricks.sliding_window_view(padded, (_WINDOW, _WINDOW), axis=(0, 1))[::step, ::step]
    corners = np.stack(np.meshgrid(*(np.arange(n) * step for n in views.shape[:2]), indexing="ij"), -1).reshape(-1, 2)
    windows = views.reshape(-1, image.shape[2], _WINDOW, _WINDOW).transpose(0, 2, 3, 1)
    return windows.astype(np.float32) * np.float32(255.0 / white), corners, step


@functools.cache
def _transform(orders: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the cosine transform of flattened blocks, (64, 64), and the coefficients of each band."""
    k = np.arange(_BLOCK)
    basis = np.cos(np.pi * np.outer(k, 2 * k + 1) / (2 * _BLOCK)) * np.sqrt(np.where(k[:, None] == 0, 1, 2) / _BLOCK)
    order = np.add.outer(k, k).ravel()
    return np.kron(basis, basis).T.astype(np.float32), [(order >= a) & (order <= b) for a, b in orders]


def _energies(blocks: np.ndarray, orders: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return (N, bands): the mean square of each band's coefficients in blocks (N, 8, 8)."""
    transform, bands = _transform(orders)
    squares = np.square(blocks.reshape(-1, _BLOCK * _BLOCK) @ transform)
    return np.stack([squares[:, band].mean(axis=1) for band in bands], axis=1)


@dataclasses.dataclass(frozen=True)
class _Described:
    """What is known of windows: energies by band of brightness and of colour, and how many neighbours are equal."""

    full: np.ndarray  # (N, 4 blocks, planes, bands)
    half: np.ndarray  # (N, planes, bands)
    equal: np.ndarray  # (N, 4)

    def __getitem__(self, chosen: np.ndarray) -> _Described:
        return _Described(self.full[chosen], self.half[chosen], self.equal[chosen])


def _describe(windows: np.ndarray) -> _Described:
    n, channels = len(windows), windows.shape[-1]
    same = (np.diff(np.round(windows), axis=2) == 0).all(axis=-1)[:, :, : _WINDOW - 1]
    same = np.pad(same, ((0, 0), (0, 0), (0, 1)))
    equal = same.reshape(n, 2, _BLOCK, 2, _BLOCK)[..., : _BLOCK - 1].mean(axis=(2, 4)).reshape(n, 4)
    planes = windows @ _OPPONENT.T if channels == 3 else windows
    planes = planes.transpose(0, 3, 1, 2)  # N, planes, 16, 16
    count = planes.shape[1]
    blocks = planes.reshape(n, count, 2, _BLOCK, 2, _BLOCK).transpose(0, 2, 4, 1, 3, 5)
    halves = planes.reshape(n, count, _BLOCK, 2, _BLOCK, 2).mean(axis=(3, 5)) * 2.0
    full = _energies(np.ascontiguousarray(blocks), _ORDERS).reshape(n, 4, count, -1)
    half = _energies(halves, _HALF_ORDERS).reshape(n, count, -1)
    if count == 3:
        full = np.stack([full[:, :, 0], full[:, :, 1:].mean(axis=2)], axis=2)
        half = np.stack([half[:, 0], half[:, 1:].mean(axis=1)], axis=1)
    return _Described(full, half, equal)


def _usable(windows: np.ndarray) -> np.ndarray:
    """Say which windows speak of noise: those that vary, and of these the unclipped ones if there are any."""
    if not len(windows):
        return np.zeros(0, bool)
    flat = windows.reshape(len(windows), -1)
    varies: np.ndarray = np.any(np.ptp(windows, axis=(1, 2)) > 0, axis=1)
    clipped = (
        ((flat <= 0) | (flat >= 255)).mean(axis=1) if flat.min() >= 0 and flat.max() <= 255 else np.zeros(len(flat))
    )
    varies &= clipped < 1.0  # black and white alone is a drawing
    clear: np.ndarray = varies & (clipped <= _CLIPPED)
    if clear.sum() >= min(30, 0.05 * varies.sum()):
        return clear
    if varies.any():
        varies &= clipped <= np.quantile(clipped[varies], 0.3)
    return varies


def _features(described: _Described) -> np.ndarray:
    """Return what the small network sees of windows: quantiles of energies, and those of the smoothest blocks."""
    full = described.full.reshape(-1, *described.full.shape[2:])
    equal = described.equal.ravel()
    varied = full[:, 0].sum(axis=1) > 1e-3
    full, equal = (full[varied], equal[varied]) if varied.any() else (full, equal)
    parts = []
    coarse = full[:, 0, :_COARSE_BANDS].sum(axis=1)
    count = min(len(full), max(16, int(_SMOOTH * len(full))))
    smooth = np.argpartition(coarse, count - 1)[:count]
    for energies, chosen in ((full, smooth), (described.half, None)):
        logs = np.log(energies + _FLOOR)
        parts.append(np.quantile(logs, _QUANTILES, axis=0).ravel())
        if chosen is not None:
            parts += [np.median(logs[chosen], axis=0).ravel(), np.log(energies[chosen].mean(axis=0) + _FLOOR).ravel()]
    half_coarse = described.half.sum(axis=(1, 2))
    count = min(len(half_coarse), max(8, int(_SMOOTH * len(half_coarse))))
    smoothest = np.argpartition(half_coarse, count - 1)[:count]
    parts.append(np.log(described.half[smoothest].mean(axis=0) + _FLOOR).ravel())
    parts.append(4.0 * np.array([equal[smooth].mean(), np.median(equal), equal.mean(), np.quantile(equal, 0.1)]))
    parts.append([np.log(len(full)) / 3.0])
    return np.concatenate(parts).astype(np.float32)


@functools.cache
def _network(kind: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    tensors = load(resources.files("mdrn").joinpath("estimate.safetensors").read_bytes())
    return {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}


def _answer(kind: str, features: np.ndarray) -> tuple[float, float]:
    """Return fine and coarse noise for the features of an image or a part of it, 'grey' or 'colour'."""
    w = _network(kind)  # each with one or more fits in its first dimension, whose logarithms are averaged
    x = np.clip((features[:, None] - w["mean"]) / w["deviation"], -6.0, 6.0)
    hidden = np.maximum(w["a.weight"] @ x + w["a.bias"], 0.0)
    hidden = np.maximum(w["b.weight"] @ hidden + w["b.bias"], 0.0)
    logs = (w["skip.weight"] @ x + w["skip.bias"] + w["c.weight"] @ hidden + w["c.bias"]).mean(axis=0)[:, 0]
    if kind == "grey":
        logs = logs + _LOW[1] * np.maximum(0.0, logs - np.log1p(_LOW[0]))
    fine, coarse = np.expm1(np.clip(logs, 0.0, 6.0))
    if kind == "grey":
        smoothness = np.clip((coarse / max(fine, _FLOOR) - 1.1) / 0.2, 0.0, 1.0)
        coarse += smoothness * max(0.0, np.interp(coarse, *_FAINT) - coarse)
    return float(fine), float(coarse)


def measure(image: np.ndarray, white: float | None = None) -> tuple[Noise, Noise | None]:
    """Measure the noise in an image as a whole, and in its parts.

    Looks at 8,000 windows of 16 x 16 pixels at most, whatever the image's size. Parts without any variation, clipped
    parts and transparent ones say nothing about noise and are left out where others remain.

    Args:
        image: (H, W) or (H, W, C), uint8, uint16, or float; with C 2 or 4 the last channel is alpha, and colours under
            alpha 0 are not looked at.
        white: the value of white; None is the highest of the integers, or 1 for floats.

    Returns:
        The noise of the whole, and where it differs much that of its parts: equal parts in rows and columns, NaN for
        those that say nothing; or blocks of 4 x 4 pixels, if it rises with brightness and that explains the rest.
    """
    planes = image[..., None] if image.ndim == 2 else image
    white = white or white_of(image.dtype)
    windows, corners, step = _windows(planes, white)
    if planes.shape[2] in (2, 4):
        visible = windows[..., -1].min(axis=(1, 2)) > 0
        windows, corners = windows[visible, ..., :-1], corners[visible]
        planes = planes[..., :-1]
    usable = _usable(windows)
    windows, corners = windows[usable], corners[usable]
    if not len(windows):
        return Noise(0.0, 0.0), None
    described = _describe(windows)
    kind = "colour" if windows.shape[-1] == 3 else "grey"
    whole = Noise(*_answer(kind, _features(described)))
    if whole.coarse < _CLEAN or whole.coarse > _SMOOTH_NOISE * whole.fine:
        return whole, None
    shape = tuple(max(1, round(size / (_CELL_STEPS * step))) for size in image.shape[:2])
    places = np.minimum((corners + _WINDOW / 2) * shape // image.shape[:2], np.array(shape) - 1).astype(int)
    parts = np.full((*shape, 2), np.nan)
    brightness = windows.mean(axis=(1, 2, 3))
    curve = _noise_over_brightness(brightness, described, kind)
    differences = []
    for place in np.ndindex(shape):
        chosen = np.flatnonzero((places == place).all(axis=1))
        if len(chosen) >= _LEAST:
            parts[place] = _answer(kind, _features(described[chosen]))
            if curve is not None:
                expected = np.quantile(np.interp(brightness[chosen], curve[0], curve[1][:, 1]), 0.3)
                differences.append(abs(np.log1p(parts[place][1]) - np.log1p(expected)))
    if curve is not None and np.mean(differences or [0.0]) < _UNEXPLAINED:
        blocks = _block_means(planes) * (255.0 / white)
        return whole, Noise(*(np.interp(blocks, curve[0], noise) for noise in curve[1].T))
    low, high = np.nanquantile(parts[..., 1], (0.1, 0.9)) if np.isfinite(parts).any() else (0.0, 0.0)
    if parts[..., 0].size < 4 or high < _WORTH_A_MAP * max(low, 1.0):
        return whole, None
    return whole, Noise(parts[..., 0], parts[..., 1])


def _noise_over_brightness(
    brightness: np.ndarray, described: _Described, kind: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return brightness (T,) and fine and coarse noise there, (T, 2), if noise rises with it; None otherwise."""
    count = min(_TONES, len(brightness) // _LEAST)
    if count < 3:
        return None
    tones = np.array_split(np.argsort(brightness, kind="stable"), count)
    noise = np.array([_answer(kind, _features(described[tone])) for tone in tones])
    means, logs = np.array([brightness[tone].mean() for tone in tones]), np.log1p(noise[:, 1])
    steps, fastest = np.diff(logs), np.diff(np.log(np.maximum(means, 1.0)))
    if steps.sum() < _RISE or steps.min() < -_FALL * steps.sum() or (steps - fastest).max() > _STEEP:
        return None
    return means, noise


def _block_means(image: np.ndarray) -> np.ndarray:
    """Return the means of an image (H, W, C) in blocks of 4 x 4 pixels, float64."""
    rows, columns = (np.arange(0, size, _TONE_BLOCK) for size in image.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(image.sum(axis=2, dtype=np.float64), rows, axis=0), columns, axis=1)
    counts = (np.diff(np.append(edges, size)) for edges, size in zip((rows, columns), image.shape[:2], strict=True))
    means: np.ndarray = sums / (np.outer(*counts) * image.shape[2])
    return means


def estimate_level(
    image: np.ndarray, coarseness: float = COARSENESS, white: float | None = None
) -> tuple[float, np.ndarray | None]:
    """Estimate the noise level at which a network does best with an image.

    Args:
        image: as in `measure`.
        coarseness: of the network, see `Noise.level`.
        white: as in `measure`.

    Returns:
        The level for the whole image, 0 to 75, and where it differs much the levels of equal parts in rows and columns.
    """
    whole, parts = measure(image, white)
    return float(whole.level(coarseness)), None if parts is None else _filled(np.asarray(parts.level(coarseness)))


def _filled(levels: np.ndarray) -> np.ndarray:
    """Return levels (R, C) with the mean of those beside them in place of NaN, from the known ones outwards."""
    while (unknown := np.isnan(levels)).any():
        around = np.pad(levels, 1, constant_values=np.nan)
        beside = np.stack([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
        count = np.isfinite(beside).sum(axis=0)
        levels = np.where(unknown & (count > 0), np.nansum(beside, axis=0) / np.maximum(count, 1), levels)
    return levels


def estimate_noise_level(image: np.ndarray) -> float:
    """Estimate the level of noise in an image: that of white noise at which a network like `mdrn` does best.

    Args:
        image: as in `measure`.

    Returns:
        Standard deviation on the 8-bit scale, 0 to 75.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> 24 < estimate_noise_level(0.5 + rng.normal(0, 25 / 255, (128, 128))) < 26
        True
    """
    return estimate_level(image)[0]


def white_of(dtype: np.dtype) -> float:
    """Return the value of white: the highest of integers, 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0
