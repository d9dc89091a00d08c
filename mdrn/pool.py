"""Draws of patch, level and noise that are made once and stored, with a teacher's answers, for many runs to read.

A teacher on the spot makes a training step five times as long; stored, its answers cost next to nothing, and all seeds
and sizes share them. `train` imports this module.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import filelock
import numpy as np
import torch

from mdrn import camera, noise
from mdrn.data import Batch, DataError, PatchSource
from mdrn.files.writing import write_atomically

Answer = Callable[[Batch, torch.Generator], torch.Tensor]


@dataclasses.dataclass(eq=False)
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

    folder: Path
    source: PatchSource
    draws: int
    size: int
    noise_level: tuple[float, float]
    map_share: float
    camera_share: float = 0.0

    _CHUNK = 16
    _SYMMETRIES = 8

    def __post_init__(self) -> None:
        said = ["pool-1", self.source.digest, self.draws, self.size, self.noise_level, self.map_share]
        said = json.dumps(said + [self.camera_share, camera.VERSION] * (self.camera_share > 0))
        self.folder /= f"pool-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        self._shape = (self.draws, self.source.pixels.shape[1], self.size, self.size)
        self._open: dict[str, np.ndarray] = {}

    def bytes_missing(self, keys: list[str]) -> int:
        """Return how much disk space the draws and these answers will take, as far as they are not there yet."""
        image = math.prod(self._shape)
        sizes = {"clean": image, "noisy": 2 * image} | dict.fromkeys(keys, 2 * image)
        return sum(size for name, size in sizes.items() if not self._path(name).exists())

    def fill(
        self, answers: Mapping[str, Answer], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Make what is missing of the draws and of a teacher's answers to them; one process does so while others wait.

        Args:
            answers: key -> what gives the answers (B, C, P, P) to a batch.
            progress: called with (draws done, draws in all) for each kind in turn.
        """
        kinds = {"clean": np.uint8, "noisy": np.float16, "corners": np.float32} | dict.fromkeys(answers, np.float16)
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            for name, kind in kinds.items():
                path = self._path(name)
                if not path.exists():
                    counter = name if name in answers else "draws"
                    self._counter(counter).unlink(missing_ok=True)  # of a file that is gone
                    shape = (self.draws, 1, 2, 2) if name == "corners" else self._shape
                    np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", kind, shape).flush()
                    os.replace(path.with_suffix(".tmp"), path)
            arrays = {name: np.load(self._path(name), mmap_mode="r+") for name in kinds}
            self._fill_from("draws", self._make_draws, arrays, progress)
            for key, answer in answers.items():
                self._fill_from(key, functools.partial(self._make_answers, key, answer), arrays, progress)
        self._open = {name: np.load(self._path(name), mmap_mode="r") for name in kinds}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _counter(self, name: str) -> Path:
        return self.folder / f"{name}.done"

    def _fill_from(self, name: str, make: Callable, arrays: dict[str, np.ndarray], progress: Callable) -> None:
        counter = self._counter(name)
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
        """Put a photograph in the place of a draw: its middle, for its borders know less."""
        settings = camera.Camera.draw(rng)
        scene = self.source.draw(1, settings.scene_side(self.size), generator)[0].mul(255.0).round_().to(torch.uint8)
        clean, noisy = camera.photograph(scene.permute(1, 2, 0).numpy(), settings, rng)
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

    def symmetries(self, count: int, size: int) -> int:
        """Return how many symmetries the first `count` patches of `size` use up."""
        return math.ceil(count / (self.draws * (self.size // size) ** 2))

    def check(self, last: int, size: int, used: int = 0) -> None:
        """See that a run can have patch number `last` of `size`, with `used` as in `batch`.

        Raises:
            DataError: if it would be one that the run has seen.
        """
        if used + self.symmetries(last + 1, size) > self._SYMMETRIES:
            raise DataError(f"pool: {self.draws} draws are too few for a run of this length; expected a larger pool")

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
        self.check(first + count - 1, size, used)
        cells = self.size // size
        draws, places = [], []  # of each patch: its draw, and the part of it with the symmetry
        for number in range(first, first + count):
            turn, cell = divmod(number // self.draws, cells**2)
            draw = int(_order(seed, number // self.draws, size, self.draws)[number % self.draws])
            top, left = (size * index for index in divmod(cell, cells))
            draws.append(draw)
            places.append((np.s_[:, top : top + size, left : left + size], (draw + used + turn) % self._SYMMETRIES))

        def cut(images: Iterable[np.ndarray]) -> torch.Tensor:
            patches = [_turned(image[part], turn) for image, (part, turn) in zip(images, places, strict=True)]
            return torch.from_numpy(np.stack(patches)).float()

        tensors = {name: cut(self._open[name][draw] for draw in draws) for name in ("clean", "noisy", *keys)}
        sigma = noise.spread(torch.from_numpy(np.stack([self._open["corners"][draw] for draw in draws])), self.size)
        return Batch(
            clean=tensors["clean"].div_(255.0),
            noisy=tensors["noisy"].contiguous(memory_format=torch.channels_last),
            sigma=cut(sigma.numpy()) if sigma.ndim == 4 else sigma,
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
