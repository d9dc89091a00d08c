"""Noise as photographs have it, synthesised for training: what a sensor adds, after all that a camera does to it.

A clean picture is taken back to linear light and a sensor's colours, gets shot and read noise that has been through a
mosaic, and is developed again. The clean reference goes through the same steps as the mean of many photographs, so that
a network learns to remove noise and not to undo the camera. It imports torch and, for JPEG, Pillow.

Reference:
    The steps back to the sensor, the ranges of white balance and the distribution of shot and read noise follow Brooks
    et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019; JPEG after the noise follows Guo et al., "Toward
    Convolutional Blind Denoising of Real Photographs", CVPR 2019. The camera's own noise reduction and
    the ranges of smoothing, sharpening and resizing are ours, chosen so that deviation, autocorrelation, correlation of
    the channels and noise at edges are like those of real photographs.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

VERSION = 4  # of what `Camera.draw` and `photograph` give for a seed; pools of another version are not reused
# Networks trained on this noise take more of smooth noise away than others before texture suffers: what
# `estimate.Noise.level` is told for them. Chosen on PolyU's crops for decisions.
COARSENESS = 1.1
_LUMA = torch.tensor([0.299, 0.587, 0.114])
_BLOCK = 4
_SLOPE = 0.015  # of white for each pixel; where noise reduction does half of what it does in flat areas
_LEAST_SCALE = 0.55  # of scene and photograph together
_MARGIN = 6  # pixels on each side that know of the scene's border
_MATRICES = torch.tensor(  # from a sensor's colours to sRGB, rows sum to 1
    [
        [[1.70, -0.55, -0.15], [-0.20, 1.45, -0.25], [0.02, -0.50, 1.48]],
        [[1.45, -0.30, -0.15], [-0.15, 1.35, -0.20], [0.00, -0.35, 1.35]],
        [[1.90, -0.75, -0.15], [-0.25, 1.60, -0.35], [0.05, -0.65, 1.60]],
    ]
)
_GREEN = torch.tensor([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]]) / 4.0
_VARIANCE = (9 / 16, 5 / 8, 9 / 16)  # of red, green and blue after the mosaic has been filled in, white noise before: 1
_RED_BLUE = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 4.0


@dataclasses.dataclass(frozen=True)
class Camera:
    """What happens between a scene and its file.

    Args:
        shot: variance of the noise for each unit of linear light.
        read: variance of the noise in the dark.
        red_gain: of the white balance.
        blue_gain: of the white balance.
        matrix: (3, 3) from the sensor's colours to sRGB.
        contrast: of the tone curve after the sRGB one, 0 to 1.
        shrink: of the scene's size before all this, at most 1; takes away noise and JPEG that the picture itself has.
        optics: standard deviation in pixels of the lens's blur.
        reduction: share of the noise that the camera's own noise reduction takes away where the picture is flat.
        colour_smoothing: standard deviation in pixels of the blur that it leaves in the noise's colour; 0 is none.
        smoothing: the same of picture and noise.
        sharpening: amount of an unsharp mask.
        scale: of the photograph's size, at most 1.
        quality: of the JPEG, None for none.
        subsampling: Pillow's, 0 for 4:4:4 or 2 for 4:2:0.
    """

    shot: float
    read: float
    red_gain: float = 1.0
    blue_gain: float = 1.0
    matrix: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    contrast: float = 0.0
    shrink: float = 1.0
    optics: float = 0.0
    reduction: float = 0.0
    colour_smoothing: float = 0.0
    smoothing: float = 0.0
    sharpening: float = 0.0
    scale: float = 1.0
    quality: int | None = None
    subsampling: int = 0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Camera:
        """Draw a camera and its settings.

        Example:
            >>> 0 < Camera.draw(np.random.default_rng(0)).shot < 0.03
            True
        """
        shot = float(np.exp(rng.uniform(np.log(2.5e-4), np.log(0.015))))
        mix = rng.dirichlet(np.ones(len(_MATRICES)))
        matrix = torch.einsum("k,kij->ij", torch.tensor(mix, dtype=torch.float32), _MATRICES)
        scale = float(rng.uniform(_LEAST_SCALE, 1.0)) if rng.random() < 0.15 else 1.0
        return cls(
            shot=shot,
            read=float(np.exp(rng.normal(2.18 * np.log(shot) + 1.2, 0.26))),
            red_gain=float(rng.uniform(1.9, 2.4)),
            blue_gain=float(rng.uniform(1.5, 1.9)),
            matrix=tuple(map(tuple, matrix.tolist())),
            contrast=float(rng.uniform(0.0, 1.0)),
            shrink=float(rng.uniform(_LEAST_SCALE / scale, 1.0)),
            optics=float(rng.uniform(0.4, 0.8)),
            reduction=float(rng.uniform(0.5, 0.95)),
            colour_smoothing=float(np.exp(rng.uniform(np.log(1.9), np.log(6.0)))),
            smoothing=float(rng.uniform(0.4, 0.65)),
            sharpening=float(rng.uniform(0.0, 0.4)),
            scale=scale,
            quality=int(rng.integers(75, 100)) if rng.random() < 0.85 else None,
            subsampling=int(rng.choice([0, 2], p=[0.15, 0.85])),
        )

    def scene_side(self, side: int) -> int:
        """Return how many pixels a side of the scene make `side` pixels of the photograph, and a margin."""
        return math.ceil((side + 2 * _MARGIN) / (self.shrink * self.scale))


def photograph(clean: np.ndarray, camera: Camera, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture as the mean of many photographs of a camera would show it, and one photograph with its noise.

    Args:
        clean: (H, W, 3) sRGB, uint8, at least 8 pixels a side.
        camera: what happens to it.
        rng: the source of the noise, and of the mosaic's phase.

    Returns:
        Two images (H', W', 3), uint8: the clean reference and the noisy photograph, H' and W' those of the picture
        times `shrink` and `scale`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> reference, noisy = photograph(np.full((32, 32, 3), 90, np.uint8), Camera(shot=0.01, read=1e-4), rng)
        >>> bool(reference.std() < 1 < noisy.std())
        True
    """
    matrix = torch.tensor(camera.matrix)
    gains = torch.tensor([camera.red_gain, 1.0, camera.blue_gain])
    picture = _resized(torch.from_numpy(clean.astype(np.float32) / 255.0).permute(2, 0, 1), camera.shrink)
    picture = _blurred(picture, camera.optics) if camera.optics else picture
    linear = _to_linear(_without_contrast(picture, camera.contrast))
    sensor = torch.einsum("ij,jhw->ihw", torch.linalg.inv(matrix), linear).clamp(0.0, 1.0) / gains[:, None, None]
    deviation = (camera.shot * sensor + camera.read).sqrt()
    drawn = torch.from_numpy(rng.standard_normal(sensor.shape, dtype=np.float32))
    phase = tuple(int(p) for p in rng.integers(0, 2, 2))
    noise = _demosaiced(deviation * drawn, phase)

    def shown(raw: torch.Tensor) -> torch.Tensor:  # of the sensor's colours, as an sRGB image
        balanced = (raw * gains[:, None, None]).clamp(0.0, 1.0)
        srgb = _to_srgb(torch.einsum("ij,jhw->ihw", matrix, balanced).clamp(0.0, 1.0))
        return _with_contrast(srgb, camera.contrast)

    reference = _mean_of_many(shown, sensor, deviation)
    noise = (shown(sensor + noise) - reference) * (1.0 - camera.reduction * _flatness(reference))
    if camera.colour_smoothing:
        luma = _luma(noise)
        noise = luma + _blurred(noise - luma, camera.colour_smoothing)
    developed = [_finished(image, camera) for image in (reference, reference + noise)]
    images = [np.round(image.permute(1, 2, 0).numpy() * 255.0).astype(np.uint8) for image in developed]
    if camera.quality is None:
        return images[0], images[1]
    return jpeg(images[0], 100, camera.subsampling), jpeg(images[1], camera.quality, camera.subsampling)


def jpeg(image: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    """Return an image (H, W) or (H, W, 3), uint8, as a JPEG file shows it.

    Args:
        image: what is saved.
        quality: Pillow's, 1 to 100.
        subsampling: of the colours, Pillow's: 0 for 4:4:4 or 2 for 4:2:0.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "jpeg", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(stream))


def white_level(noise: np.ndarray) -> float:
    """Return the level of white noise that disturbs an image's coarse detail as much as this noise does.

    The noise's mean over blocks of 4 x 4 pixels has four times less deviation if it is white; the smoother it is, the
    less is averaged away. This is what networks for photographs are told.

    Args:
        noise: (H, W, C) noisy minus clean, on the 8-bit scale, at least 4 pixels a side.

    Returns:
        Standard deviation on the 8-bit scale, the root mean square over channels.

    Example:
        >>> noise = np.random.default_rng(0).normal(0, 25, (128, 128, 3))
        >>> 24 < white_level(noise) < 26, white_level(np.kron(noise, np.ones((4, 4, 1)))) > 80
        (True, True)
    """
    height, width = (size // _BLOCK for size in noise.shape[:2])
    blocks = noise[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK, -1).mean(axis=(1, 3))
    return float(_BLOCK * np.sqrt(np.square(blocks - blocks.mean(axis=(0, 1))).mean()))


def _to_linear(srgb: torch.Tensor) -> torch.Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: torch.Tensor) -> torch.Tensor:
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def _with_contrast(x: torch.Tensor, contrast: float) -> torch.Tensor:
    """Mix with the curve 3 x^2 - 2 x^3."""
    return torch.lerp(x, x * x * (3.0 - 2.0 * x), contrast)


def _without_contrast(y: torch.Tensor, contrast: float) -> torch.Tensor:
    """Undo `_with_contrast`, by a table: the mixture has no inverse in closed form."""
    x = torch.linspace(0.0, 1.0, 1025)
    table = _with_contrast(x, contrast).numpy()
    return torch.from_numpy(np.interp(y.numpy(), table, x.numpy()).astype(np.float32))


def _mean_of_many(shown: Callable, sensor: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Return the mean of many photographs, which real data sets have as reference: curve and clipping move it.

    By three points for each channel (the unscented transform); without noise it is what is shown without noise.
    """
    middle = shown(sensor)
    mean = middle.clone()
    for channel, variance in enumerate(_VARIANCE):
        step = torch.zeros_like(sensor)
        step[channel] = (3.0 * variance) ** 0.5 * deviation[channel]
        mean += (shown(sensor + step) + shown(sensor - step) - 2.0 * middle) / 6.0
    return mean


def _luma(image: torch.Tensor) -> torch.Tensor:
    return torch.einsum("c,chw->hw", _LUMA, image)


def _flatness(image: torch.Tensor) -> torch.Tensor:
    """Return (H, W): 1 where an image (3, H, W) is flat, near 0 at edges and in texture."""
    steps = torch.gradient(_blurred(_luma(image)[None], 1.0)[0])
    slope = _blurred(torch.hypot(*steps)[None], 2.0)[0]
    return 1.0 / (1.0 + (slope / _SLOPE) ** 2)


def _finished(image: torch.Tensor, camera: Camera) -> torch.Tensor:
    """Smooth, sharpen and resize (3, H, W) as a camera does."""
    image = _blurred(image, camera.smoothing) if camera.smoothing else image
    if camera.sharpening:
        image = image + camera.sharpening * (image - _blurred(image, 1.0))
    return _resized(image, camera.scale).clamp(0.0, 1.0)


def _resized(image: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1.0:
        return image
    return F.interpolate(image[None], scale_factor=scale, mode="bicubic", antialias=True)[0].clamp(0.0, 1.0)


def _demosaiced(sensor: torch.Tensor, phase: tuple[int, int]) -> torch.Tensor:
    """Keep one colour of each pixel, in Bayer's pattern, and fill in the others bilinearly.

    Noise alone passes through it: in pictures a camera's own method leaves fewer traces.
    """
    height, width = sensor.shape[-2:]
    row, column = torch.arange(height)[:, None] + phase[0], torch.arange(width)[None] + phase[1]
    red, blue = (row % 2 == 0) & (column % 2 == 0), (row % 2 == 1) & (column % 2 == 1)
    masks = torch.stack([red, ~(red | blue), blue])
    kernels = torch.stack([_RED_BLUE, _GREEN, _RED_BLUE])[:, None]
    padded = F.pad((sensor * masks)[None], (2, 2, 2, 2), mode="reflect")  # an even number keeps the pattern
    return F.conv2d(padded, kernels, groups=3)[0, :, 1:-1, 1:-1]


def _blurred(image: torch.Tensor, deviation: float) -> torch.Tensor:
    """Blur (C, H, W) with a Gaussian; as products of matrices, which for patches are faster than convolutions."""
    places = (torch.arange(size, dtype=torch.float32) for size in image.shape[-2:])
    down, across = (torch.exp(-0.5 * ((x[:, None] - x) / deviation) ** 2) for x in places)
    return (down / down.sum(1, keepdim=True)) @ image @ (across / across.sum(1, keepdim=True)).T
