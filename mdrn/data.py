"""Training images in memory, seeded patches drawn from them on the device, and stored draws with a teacher's answers.

`train` imports this module, and so may anything that needs the validation images. Pillow is imported when files are
read.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from mdrn import camera, noise
from mdrn.denoiser import MdrnError
from mdrn.files.atomic import write_atomically

DATA_ROOT_VARIABLE = "MDRN_DATA"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TRAINING_SETS = ("bsds", "extra", "samples")


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
                f"expected images in {root / folder}, found none; check the folder, --data-root or {DATA_ROOT_VARIABLE}"
            )
        files += found
    return [p for p in files if f"{p.parent.name}/{p.name}" not in bsds500_excluded()]


def read_uint8(path: Path, channels: int) -> np.ndarray:
    """Read an image file as (H, W) grey (Pillow's 'L') or (H, W, 3) RGB, uint8; 16-bit grey is scaled to 8.

    Raises:
        DataError: if the file cannot be decoded, or holds floats, whose white is unknown.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            if file.mode == "F":
                raise DataError(f"{path}: expected 8 or 16 bits, got floats; save it as 16-bit PNG first")
            if file.mode.startswith("I"):  # 16 bits, which `convert` would clip to white
                grey = np.round(np.asarray(file, dtype=np.float64) / 257.0).clip(0, 255).astype(np.uint8)
                return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(file.convert("L" if channels == 1 else "RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
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


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a training step sees.

    Args:
        clean: (B, C, P, P) in [0, 1].
        noisy: the same with noise, not clipped, channels last.
        sigma: (B,), or (B, 1, P, P) where levels differ across patches.
        answers: what a teacher makes of them, by the key of what it was shown (see `mdrn.distill.View`).
    """

    clean: torch.Tensor
    noisy: torch.Tensor
    sigma: torch.Tensor
    answers: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def fresh_batch(
    source: PatchSource,
    count: int,
    size: int,
    noise_level: tuple[float, float],
    map_share: float,
    generator: torch.Generator,
) -> Batch:
    """Draw `count` patches of `size` x `size` pixels, their levels (see `noise.draw_corners`) and their noise."""
    clean = source.draw(count, size, generator)
    sigma = noise.spread(noise.draw_corners(noise_level, count, map_share, generator), size)
    noisy = noise.add_training_noise(clean, sigma, generator)
    return Batch(clean, noisy.contiguous(memory_format=torch.channels_last), sigma)


Answer = Callable[[Batch, torch.Generator], torch.Tensor]


class Pool:
    """Draws of (patch, level, noise) made once and stored, with a teacher's answers to them, for many runs to read.

    A draw is a patch of the largest size; smaller ones are cut from it. A run sees no cut twice under the same flip
    and rotation. What is missing is made when it is asked for; killed, it goes on where it stopped.

    Args:
        folder: where pools are kept; this one's own folder in it is named by a hash of what follows.
        source: the training images, on the CPU.
        draws: number of draws, N.
        size: side of a draw in pixels.
        noise_level: lowest and highest level on the 8-bit scale.
        map_share: see `noise.draw_corners`.
        camera_share: share of the draws with the noise of photographs (see `mdrn.camera`), whose level is that of
            white noise which disturbs coarse detail as much; RGB alone.
    """

    _CHUNK = 16
    _SYMMETRIES = 8

    def __init__(
        self,
        folder: Path,
        source: PatchSource,
        draws: int,
        size: int,
        noise_level: tuple[float, float],
        map_share: float,
        camera_share: float = 0.0,
    ) -> None:
        self.source, self.draws, self.size = source, draws, size
        self.noise_level, self.map_share, self.camera_share = noise_level, map_share, camera_share
        self.channels = source.pixels.shape[1]
        said = ["pool-1", source.digest, draws, size, noise_level, map_share]
        said = json.dumps(said + [camera_share] * (camera_share > 0))
        self.folder = folder / f"pool-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        self._open: dict[str, np.ndarray] = {}

    def bytes_missing(self, keys: list[str]) -> int:
        """Return how much disk space the draws and these answers will take, as far as they are not there yet."""
        image = self.draws * self.channels * self.size**2
        sizes = {"clean": image, "noisy": 2 * image} | dict.fromkeys(keys, 2 * image)
        return sum(size for name, size in sizes.items() if not self._path(name).exists())

    def fill(
        self, answers: Mapping[str, Answer], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Make what is missing of the draws and of a teacher's answers to them.

        Args:
            answers: key -> what gives the answers (B, C, P, P) to a batch.
            progress: called with (draws done, draws in all) for each kind in turn.
        """
        shape = (self.draws, self.channels, self.size, self.size)
        kinds = {"clean": np.uint8, "noisy": np.float16, "corners": np.float32} | dict.fromkeys(answers, np.float16)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, kind in kinds.items():
            path = self._path(name)
            if not path.exists():
                whole = (self.draws, 1, 2, 2) if name == "corners" else shape
                np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", kind, whole).flush()
                os.replace(path.with_suffix(".tmp"), path)
        arrays = {name: np.load(self._path(name), mmap_mode="r+") for name in kinds}
        self._fill_from("draws", self._make_draws, arrays, progress)
        for key, answer in answers.items():
            self._fill_from(key, functools.partial(self._make_answers, key, answer), arrays, progress)
        self._open = {name: np.load(self._path(name), mmap_mode="r") for name in kinds}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _fill_from(self, name: str, make: Callable, arrays: dict[str, np.ndarray], progress: Callable) -> None:
        counter = self.folder / f"{name}.done"
        done = int(counter.read_text()) if counter.exists() else 0
        for start in range(done, self.draws, self._CHUNK):
            stop = min(start + self._CHUNK, self.draws)
            make(arrays, slice(start, stop), torch.Generator().manual_seed(start))
            if stop == self.draws or stop % (64 * self._CHUNK) == 0:
                for array in arrays.values():
                    array.flush()
                write_atomically(counter, str(stop).encode())
            progress(stop, self.draws)

    def _make_draws(self, arrays: dict[str, np.ndarray], part: slice, generator: torch.Generator) -> None:
        count = part.stop - part.start
        clean = self.source.draw(count, self.size, generator)
        corners = noise.draw_corners(self.noise_level, count, self.map_share, generator)
        noisy = noise.add_training_noise(clean, noise.spread(corners, self.size), generator)
        arrays["clean"][part] = clean.mul(255.0).round_().to(torch.uint8).numpy()
        arrays["noisy"][part] = noisy.half().numpy()
        arrays["corners"][part] = corners.numpy()
        rng = np.random.default_rng(part.start)
        for index in range(part.start, part.stop):
            if self.camera_share and rng.random() < self.camera_share:
                self._photograph(arrays, index, rng, generator)

    def _photograph(
        self, arrays: dict[str, np.ndarray], index: int, rng: np.random.Generator, generator: torch.Generator
    ) -> None:
        """Put a photograph in the place of a draw: its middle, for a camera may halve its size."""
        scene = self.source.draw(1, 2 * self.size, generator)[0].mul(255.0).round_().to(torch.uint8)
        clean, noisy = camera.photograph(scene.permute(1, 2, 0).numpy(), camera.Camera.draw(rng), rng)
        top, left = ((side - self.size) // 2 for side in clean.shape[:2])
        clean, noisy = (image[top : top + self.size, left : left + self.size] for image in (clean, noisy))
        level = camera.white_level(noisy.astype(np.float32) - clean)
        arrays["clean"][index] = clean.transpose(2, 0, 1)
        arrays["noisy"][index] = (noisy / 255.0).transpose(2, 0, 1)
        arrays["corners"][index] = noise.to_sigma(min(level, self.noise_level[1]))

    def _make_answers(
        self, key: str, answer: Answer, arrays: dict[str, np.ndarray], part: slice, generator: torch.Generator
    ) -> None:
        clean = torch.from_numpy(arrays["clean"][part]).float().div_(255.0)
        noisy = torch.from_numpy(arrays["noisy"][part]).float().contiguous(memory_format=torch.channels_last)
        sigma = noise.spread(torch.from_numpy(arrays["corners"][part]), self.size)
        arrays[key][part] = answer(Batch(clean, noisy, sigma), generator).half().numpy()

    def capacity(self, size: int) -> int:
        """Return how many patches of `size` a run can see before one would repeat."""
        return self.draws * (self.size // size) ** 2 * self._SYMMETRIES

    def batch(self, seed: int, first: int, count: int, size: int, keys: list[str], used: int = 0) -> Batch:
        """Return patches `first` to `first + count` in the order of a seed.

        Args:
            seed: of the order.
            first: number of the first patch of this size that the run has not seen.
            count: number of patches, B.
            size: side in pixels, P; at most that of the draws.
            keys: of the answers to read.
            used: symmetries that the run has used up with patches of another size.

        Raises:
            DataError: if the pool has no more draws that the run has not seen.
        """
        cells = self.size // size
        numbers = range(first, first + count)
        rounds = [divmod(number // self.draws, cells**2) for number in numbers]
        if used + rounds[-1][0] >= self._SYMMETRIES:
            raise DataError(f"pool: {self.draws} draws are too few for a run of this length; expected a larger pool")
        stacks: dict[str, list[np.ndarray]] = {name: [] for name in ("clean", "noisy", *keys)}
        corners, maps = [], []
        for number, (turn, cell) in zip(numbers, rounds, strict=True):
            order = _order(seed, turn * cells**2 + cell, size, self.draws)
            draw = int(order[number % self.draws])
            symmetry = (draw + used + turn) % self._SYMMETRIES
            top, left = (size * index for index in divmod(cell, cells))
            window = (draw, slice(None), slice(top, top + size), slice(left, left + size))
            for name, stack in stacks.items():
                stack.append(_turned(self._open[name][window], symmetry))
            corners.append(self._open["corners"][draw])
            maps.append((top, left, symmetry))
        tensors = {name: torch.from_numpy(np.stack(stack)).float() for name, stack in stacks.items()}
        sigma = noise.spread(torch.from_numpy(np.stack(corners)), self.size)
        if sigma.ndim == 4:
            cut = [
                _turned(level[:, top : top + size, left : left + size], symmetry)
                for level, (top, left, symmetry) in zip(sigma.numpy(), maps, strict=True)
            ]
            sigma = torch.from_numpy(np.stack(cut))
        return Batch(
            clean=tensors["clean"].div_(255.0),
            noisy=tensors["noisy"].contiguous(memory_format=torch.channels_last),
            sigma=sigma,
            answers={key: tensors[key] for key in keys},
        )


@functools.lru_cache(maxsize=4)
def _order(seed: int, turn: int, size: int, draws: int) -> np.ndarray:
    return np.random.default_rng([seed, turn, size]).permutation(draws)


def _turned(patch: np.ndarray, symmetry: int) -> np.ndarray:
    """Return (C, P, P) under one of the eight symmetries of a square."""
    patch = patch[:, ::-1] if symmetry & 1 else patch
    patch = patch[:, :, ::-1] if symmetry & 2 else patch
    return patch.transpose(0, 2, 1) if symmetry & 4 else patch
