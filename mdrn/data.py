"""Training images as one memory-resident array, and seeded patches drawn from it on the device.

`train` imports this module, and so may anything that needs the validation images. Pillow is imported when files are
read.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import os
from importlib import resources
from pathlib import Path

import numpy as np
import torch

DATA_ROOT_VARIABLE = "MDRN_DATA"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TRAINING_SETS = ("bsds", "extra", "samples")


class DataError(ValueError):
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
        name: 'bsds' (BSDS500 train and test folders), 'extra' (extra_train) or 'samples' (photographs that
            scikit-image ships; for smoke tests).
        root: the folder that holds BSDS500/ and extra_train/.

    Raises:
        DataError: if the set is unknown or its folder is missing or empty.
    """
    if name == "samples":
        return sample_files()[2:]
    if name not in TRAINING_SETS:
        raise DataError(f"training data: expected one of {', '.join(TRAINING_SETS)}, got {name!r}")
    folders = ["BSDS500/train", "BSDS500/test"] if name == "bsds" else ["extra_train"]
    return _list_images(root, folders)


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
                f"expected images in {root / folder}, found none; check --data-root or {DATA_ROOT_VARIABLE}"
            )
        files += found
    return [p for p in files if f"{p.parent.name}/{p.name}" not in bsds500_excluded()]


def read_uint8(path: Path, channels: int) -> np.ndarray:
    """Read an 8-bit image file as (H, W) grey (Pillow's 'L') or (H, W, 3) RGB, uint8.

    Raises:
        DataError: if the file cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("L" if channels == 1 else "RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected a readable image, got {type(error).__name__}: {error}") from error


@dataclasses.dataclass(frozen=True)
class PatchSource:
    """Images held in memory as uint8, side by side in one tensor, from which batches of patches are gathered.

    Args:
        pixels: (N, C) uint8, all images row by row.
        offsets: (K,) index of each image's first pixel.
        heights: (K,) in pixels.
        widths: (K,) in pixels.
        digest: SHA-256 of sizes and pixels: what the network was trained on.
    """

    pixels: torch.Tensor
    offsets: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor
    digest: str

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

    @classmethod
    def from_files(cls, files: list[Path], channels: int, device: str | torch.device = "cpu") -> PatchSource:
        """Read `files` as grey (channels 1) or RGB (channels 3)."""
        return cls.from_images([read_uint8(path, channels) for path in files], device)

    def __len__(self) -> int:
        return len(self.offsets)

    def draw(self, batch_size: int, patch_size: int, generator: torch.Generator) -> torch.Tensor:
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
