"""Pictures of a job for the screen: 8-bit PNG files of every pixel, which never go into the download. No Gradio."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from demo.service import NAME_LENGTH, Job, as_uint8, open_source, read, restored
from mdrn import files

RESIDUAL_GAIN = 4
CLOSE_UP_PIXELS = 128
_CLOSE_UP_SCALE = 4


def before_after(job: Job, strength: float = 1.0) -> tuple[Path, Path]:
    """Write what the slider shows: 8-bit PNG files of the upload and of the restored image, every pixel of them."""
    source = open_source(job)
    for old in job.folder.glob("after_*.png"):
        old.unlink()
    after = job.folder / f"after_{round(strength * 100):03d}.png"  # a new name, for browsers keep old ones
    return _before(job, source), _write_shown(after, restored(job, source, strength), source)


def close_up(job: Job, strength: float, across: float, down: float) -> tuple[Path, Path]:
    """Write a small square before and after, each pixel as a block; `across` and `down` run from 0 to 1."""
    source = open_source(job)
    paths = []
    for name, pixels in (("before", source.pixels), ("after", restored(job, source, strength))):
        side = min(CLOSE_UP_PIXELS, *pixels.shape[:2])
        top, left = (round((size - side) * at) for size, at in zip(pixels.shape[:2], (down, across), strict=True))
        crop = pixels[top : top + side, left : left + side]
        large = crop.repeat(_CLOSE_UP_SCALE, axis=0).repeat(_CLOSE_UP_SCALE, axis=1)
        path = job.folder / f"close_{name}_{round(strength * 100)}_{top}_{left}.png"
        paths.append(_write_shown(path, large, source))
    return paths[0], paths[1]


def residual(job: Job, strength: float = 1.0) -> Path:
    """Write what was taken away: upload minus result, `RESIDUAL_GAIN` times, around mid grey."""
    source = open_source(job)
    before, after = (as_uint8(image) for image in (source.pixels, restored(job, source, strength)))
    if before.ndim == 3 and before.shape[2] in (2, 4):
        colours = slice(0, 3) if before.shape[2] == 4 else 0
        before, after = before[..., colours], after[..., colours]
    shown = 128 + RESIDUAL_GAIN * (before.astype(np.int16) - after)
    path = job.folder / f"removed_{round(strength * 100):03d}.png"
    return _write_shown(path, np.clip(shown, 0, 255).astype(np.uint8), source)


def stages(job: Job) -> list[tuple[Path, str]]:
    """Write the image before, and after each stage at full strength, with captions."""
    source = open_source(job)
    shown = [(_before(job, source), "as uploaded")]
    for index in range(1, job.stages + 1):
        path = job.folder / f"stage_{index}.png"
        if not path.exists():
            _write_shown(path, np.load(job.folder / f"stage_{index}.npy"), source)
        shown.append((path, f"after stage {index} of {job.stages}"))
    return shown


def preview(path: Path, folder: Path) -> Path:
    """Write an 8-bit PNG of a file that browsers cannot show."""
    source = read(path)
    return _write_shown(folder / f"{path.stem[:NAME_LENGTH]}.png", source.pixels, source)


def _before(job: Job, source: files.ImageFile) -> Path:
    path = job.folder / "before.png"
    return path if path.exists() else _write_shown(path, source.pixels, source)


def _write_shown(path: Path, image: np.ndarray, source: files.ImageFile) -> Path:
    like = dataclasses.replace(source, pixels=image)
    path.write_bytes(files.encode_image(as_uint8(image), "png", like, keep_metadata=False))
    return path
