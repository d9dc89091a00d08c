"""Training images in memory, and seeded patches drawn from them on the device.

`train` and `pool` import this module, and so may anything that needs the validation images. Pillow is imported when
files are read.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import os
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from mdrn import noise
from mdrn.denoiser import MdrnError

DATA_ROOT_VARIABLE = "MDRN_DATA"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TRAINING_SETS = ("bsds", "extra", "samples", "drawings")
_DRAWINGS, _DRAWING_SIDE = 32, 288  # pages, and their side in pixels: 4.5 % of what 'bsds' has


class DataError(MdrnError):
    """Training or test images are missing or not what they should be."""


def data_root(path: str | Path | None = None) -> Path | None:
    """Return the folder of image sets: `path` if given, else the one named by MDRN_DATA, else None."""
    chosen = path or os.environ.get(DATA_ROOT_VARIABLE)
    return Path(chosen) if chosen else None


@functools.cache
def bsds500_excluded() -> frozenset[str]:
    """Names ('val/101085.jpg') of the 69 BSDS500 images that a test set contains; never trained or validated on."""
    text = resources.files("mdrn").joinpath("bsds500_excluded.csv").read_text()
    return frozenset(row["file"] for row in csv.DictReader(text.splitlines()))


def training_files(name: str, root: Path | None) -> list[Path]:
    """List the files of a training set, sorted.

    Args:
        name: 'bsds' (BSDS500 train and test folders), 'extra' (extra_train), 'samples' (photographs that scikit-image
            ships; for smoke tests), or the path of a folder of images.
        root: the folder that holds BSDS500/ and extra_train/.

    Raises:
        DataError: if the set is unknown or its folder is missing or empty.
    """
    if name == "samples":
        return sample_files()[2:]
    if name not in TRAINING_SETS:
        if not Path(name).is_dir():
            raise DataError(f"training data: expected a folder or one of {', '.join(TRAINING_SETS)}, got {name!r}")
        return _list_images(Path(name), ["."])
    return _list_images(root, ["BSDS500/train", "BSDS500/test"] if name == "bsds" else ["extra_train"])


def validation_files(root: Path | None) -> list[Path]:
    """List the validation images: BSDS500 val without the 68 of BSD68 (32 files); two samples when root is None."""
    return _list_images(root, ["BSDS500/val"]) if root is not None else sample_files()[:2]


def sample_files() -> list[Path]:
    """List the photographs bundled with scikit-image, fixed order; the first two are for testing, the rest to train."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in ("camera.png", "astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")]


def _list_images(root: Path | None, folders: list[str]) -> list[Path]:
    if root is None:
        raise DataError(f"expected a folder with {folders[0]}; give --data-root or set {DATA_ROOT_VARIABLE}")
    files = []
    for folder in folders:
        found = sorted(p for p in (root / folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(
                f"expected images in {root / folder}, found none; check the folder, --data-root or {DATA_ROOT_VARIABLE}"
            )
        files += found
    return [p for p in files if f"{p.parent.name}/{p.name}" not in bsds500_excluded()]


def read_uint8(path: Path, channels: int) -> np.ndarray:
    """Read an image file as (H, W) grey (Pillow's 'L') or (H, W, 3) RGB, uint8; 16-bit grey is scaled to 8.

    Raises:
        DataError: if the file cannot be decoded, or holds floats, whose white is unknown.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.mode == "F":
                raise DataError(f"{path}: expected 8 or 16 bits, got floats; save it as 16-bit PNG first")
            if file.mode.startswith("I"):  # 16 bits, which `convert` would clip to white
                grey = np.round(np.asarray(file, dtype=np.float64) / 257.0).clip(0, 255).astype(np.uint8)
                return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(file.convert("L" if channels == 1 else "RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected a readable image, got {type(error).__name__}: {error}") from error


def read_all(files: list[Path], channels: int, smallest: int = 1) -> list[np.ndarray]:
    """Read many images, and name every one that cannot be used, not just the first.

    Args:
        files: to read, see `read_uint8`.
        channels: 1 for grey, 3 for RGB.
        smallest: least number of pixels a side.

    Raises:
        DataError: if a file cannot be read or is too small.
    """
    images, faults = [], []
    for path in files:
        try:
            images.append(read_uint8(path, channels))
            if min(images[-1].shape[:2]) < smallest:
                height, width = images[-1].shape[:2]
                faults.append(f"{path}: {width} x {height} pixels, expected at least {smallest} a side")
        except DataError as error:
            faults.append(str(error))
    if faults:
        listed = "; ".join(faults[:20]) + ("; ..." if len(faults) > 20 else "")
        raise DataError(f"{len(faults)} of {len(files)} training images cannot be used; remove them: {listed}")
    return images


def training_images(sets: Collection[str], root: Path | None, channels: int, smallest: int = 1) -> list[np.ndarray]:
    """Read the images of training sets, and draw those of 'drawings': pages of text, lines and boxes.

    Photographs hold little text, and a network trained on them alone makes faint noise in text worse.

    Args:
        sets: names as in `training_files`, and 'drawings'.
        root: see there.
        channels: 1 for grey, 3 for RGB.
        smallest: least number of pixels a side.

    Raises:
        DataError: see `training_files` and `read_all`.
    """
    files = [path for name in sets if name != "drawings" for path in training_files(name, root)]
    images = read_all(files, channels, smallest)
    if "drawings" in sets:
        rng, side = np.random.default_rng(0), max(_DRAWING_SIDE, smallest)
        pages = [drawing(rng, side, side) for _ in range(_DRAWINGS)]
        images += pages if channels == 3 else [to_grey(page) for page in pages]
    return images


def drawing(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw text, lines and boxes, (height, width, 3), uint8; the letters are those of the installed Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    def colour() -> tuple[int, ...]:
        return tuple(int(v) for v in rng.integers(0, 256, 3))

    def point() -> tuple[int, int]:
        return int(rng.integers(width)), int(rng.integers(height))

    paper = colour() if rng.random() < 0.4 else (255, 255, 255)
    ink = colour() if rng.random() < 0.4 else (0, 0, 0) if sum(paper) > 382 else (255, 255, 255)
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    for _ in range(rng.integers(4)):
        x, y = point()
        draw.rectangle([x, y, x + int(rng.integers(5, width)), y + int(rng.integers(5, height))], fill=colour())
    kind = rng.integers(3)
    size, top = int(rng.integers(8, 30)), int(rng.integers(10))
    while kind < 2 and top < height:
        text = "".join(rng.choice(list("abcdefgh ijklmno pqrstuvwxyz ABCDEFGH 0123456789.,;"), 80))
        draw.text((int(rng.integers(20)), top), text, fill=ink, font=ImageFont.load_default(size))
        top += int(size * rng.uniform(1.1, 2.0))
    for _ in range(rng.integers(3, 40) if kind else 0):
        draw.line([point(), point()], fill=ink, width=int(rng.integers(1, 3)))
    image = np.asarray(page)
    return np.where(image > 127, 255, 0).astype(np.uint8) if rng.random() < 0.2 else image


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 as (H, W), Pillow's 'L'."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))


@dataclasses.dataclass(frozen=True)
class PatchSource:
    """Images held in memory as uint8, side by side in one tensor, from which batches of patches are gathered."""

    pixels: Tensor  # (N, C) uint8, all images row by row
    offsets: Tensor  # (K,) index of each image's first pixel
    heights: Tensor  # (K,) in pixels
    widths: Tensor  # (K,) in pixels
    digest: str  # SHA-256 of sizes and pixels: what the network was trained on

    @classmethod
    def from_images(cls, images: list[np.ndarray], device: str | torch.device = "cpu") -> PatchSource:
        """Build from (H, W) or (H, W, 3) uint8 arrays, all of one kind."""
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        counts = sizes.prod(axis=1)
        flat = np.concatenate([image.reshape(count, -1) for image, count in zip(images, counts, strict=True)])
        digest = hashlib.sha256(sizes.tobytes() + flat.tobytes()).hexdigest()
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])
        tensors = [torch.from_numpy(a).to(device) for a in (flat, offsets, sizes[:, 0].copy(), sizes[:, 1].copy())]
        return cls(*tensors, digest=digest)

    def draw(self, batch_size: int, patch_size: int, generator: Generator) -> Tensor:
        """Gather random crops under random flips and transpositions (the eight symmetries of a square).

        Images are drawn in proportion to their number of pixels.

        Args:
            batch_size: number of patches, B.
            patch_size: side in pixels, P; at most the smallest image side.
            generator: the source of randomness, on this object's device.

        Returns:
            (B, C, P, P) float32 in [0, 1].

        Raises:
            DataError: if an image is smaller than the patch.
        """
        device = self.pixels.device
        smallest = int(torch.minimum(self.heights, self.widths).min())
        if smallest < patch_size:
            raise DataError(f"patch_size: expected at most {smallest}, the smallest image side, got {patch_size}")
        uniform = torch.rand(6, batch_size, generator=generator, device=device, dtype=torch.float64)
        areas = (self.heights * self.widths).double().cumsum(0)
        image = torch.searchsorted(areas, uniform[0] * areas[-1], right=True)
        width = self.widths[image]
        top = (uniform[1] * (self.heights[image] - patch_size + 1)).long()
        left = (uniform[2] * (width - patch_size + 1)).long()
        ramp = torch.arange(patch_size, device=device).expand(batch_size, -1)
        down, across = (torch.where(flip[:, None], ramp.flip(1), ramp) for flip in (uniform[3:5] < 0.5))
        rows = (self.offsets[image] + left)[:, None] + (top[:, None] + down) * width[:, None]
        index = rows[:, :, None] + across[:, None, :]
        index = torch.where((uniform[5] < 0.5)[:, None, None], index.transpose(1, 2), index)
        return self.pixels[index].permute(0, 3, 1, 2).float().div_(255.0)


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a training step sees."""

    clean: Tensor  # (B, C, P, P) in [0, 1]
    noisy: Tensor  # the same with noise, not clipped, channels last
    sigma: Tensor  # (B,), or (B, 1, P, P) where levels differ across patches
    # what a teacher makes of them, by the key of what it was shown, see `mdrn.distill.View`
    answers: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def fresh_batch(
    source: PatchSource, count: int, size: int, noise_level: tuple[float, float], map_share: float, generator: Generator
) -> Batch:
    """Draw `count` patches of `size` x `size` pixels, their levels (see `noise.draw_corners`) and their noise."""
    clean = source.draw(count, size, generator)
    sigma = noise.spread(noise.draw_corners(noise_level, count, map_share, generator), size)
    noisy = noise.add_training_noise(clean, sigma, generator)
    return Batch(clean, noisy.contiguous(memory_format=torch.channels_last), sigma)
