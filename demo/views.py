"""Pictures of a job for the screen, which never go into the download: small previews, and one crop at 100 %. No Gradio.

A crop is the same part of the image in every view. Where nobody has chosen one, it is where the result differs most.
Pictures are written once, into the folder of the job; what is returned are their paths as strings, for Gradio.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from demo import service
from demo.service import Job
from mdrn import files
from mdrn.files.formats import to_depth

RESIDUAL_GAIN = 4
PREVIEW_SIDE = 1024  # larger images are reduced for the screen; smaller ones are shown with every pixel
CROP_WIDTH, CROP_HEIGHT = 640, 360
NAVIGATOR_SIDE = 480
_GRID = 16  # places that are tried along each side
Spot = tuple[float, float]  # across and down, 0 to 1: the middle of the crop


def whole(job: Job, strength: float) -> tuple[str, str]:
    """Write the whole image before and after, at most `PREVIEW_SIDE` pixels a side."""
    before, after = (_reduced(image, PREVIEW_SIDE) for image in (job.stage(0), service.restored(job, strength)))
    return _write(job, "whole_before", before), _write(job, f"whole_after_{_percent(strength)}", after)


def crop(job: Job, strength: float, spot: Spot | None) -> tuple[str, str]:
    """Write the crop before and after, every pixel of it."""
    at, place = window(job, spot)
    before, after = job.stage(0)[at], service.restored(job, strength, at)
    return _write(job, f"crop_before{place}", before), _write(job, f"crop_after{place}_{_percent(strength)}", after)


def removed(job: Job, strength: float, spot: Spot | None) -> str:
    """Write what was taken away in the crop: upload minus result, `RESIDUAL_GAIN` times, around mid grey."""
    at, place = window(job, spot)
    pair = job.stage(0)[at], service.restored(job, strength, at)
    before, after = (to_depth(without_alpha(image), 8).astype(np.int16) for image in pair)
    shown = np.clip(128 + RESIDUAL_GAIN * (before - after), 0, 255).astype(np.uint8)
    return _write(job, f"removed{place}_{_percent(strength)}", shown)


def stages(job: Job, spot: Spot | None) -> list[tuple[str, str]]:
    """Write the crop before, and after each stage at full strength, with captions."""
    at, place = window(job, spot)
    captions = ["as uploaded", *(f"after stage {index} of {job.stages}" for index in range(1, job.stages + 1))]
    return [(_write(job, f"stage_{i}{place}", job.stage(i)[at]), caption) for i, caption in enumerate(captions)]


def window(job: Job, spot: Spot | None) -> tuple[tuple[slice, slice], str]:
    """Return the crop's rows and columns, and a name of the place."""
    at = part_at(job.stage(0).shape[:2], (CROP_HEIGHT, CROP_WIDTH), spot or _where_it_differs(job))
    return at, f"_{at[1].start}_{at[0].start}"


def part_at(shape: tuple[int, int], sides: tuple[int, int], spot: Spot) -> tuple[slice, slice]:
    """Return the rows and columns around a spot, moved into the image; of one with fewer they end beyond it."""
    found = []
    for size, side, at in zip(shape, sides, spot[::-1], strict=True):
        start = min(max(0, round(size * at) - side // 2), max(0, size - side))
        found.append(slice(start, start + side))
    return tuple(found)


def navigator(job: Job, spot: Spot | None) -> str:
    """Write the whole image, small, with the crop outlined."""
    pixels = job.stage(0)
    (rows, columns), place = window(job, spot)
    image = Image.fromarray(_reduced(without_alpha(pixels), NAVIGATOR_SIDE)).convert("RGB")
    scale = image.width / pixels.shape[1]
    left, top = columns.start * scale, rows.start * scale
    right, bottom = min(columns.stop * scale, image.width) - 1, min(rows.stop * scale, image.height) - 1
    if right - left > 4 and bottom - top > 4:  # of a tiny image there is nothing to choose
        draw = ImageDraw.Draw(image)
        draw.rectangle([left, top, right, bottom], outline="black", width=4)
        draw.rectangle([left + 1, top + 1, right - 1, bottom - 1], outline="white", width=2)
    return _write(job, f"navigator{place}", np.asarray(image))


def thumbnail(source: files.ImageFile, path: Path) -> str:
    """Write a small picture of an upload."""
    small = _reduced(source.pixels, NAVIGATOR_SIDE)
    path.write_bytes(files.encode_image(small, "png", files.ImageFile(small, "png", icc=source.icc)))
    return str(path)


def without_alpha(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W), or (H, W, C) with or without alpha, as (H, W) or (H, W, 3)."""
    if image.ndim == 3 and image.shape[2] in (2, 4):
        return image[..., 0] if image.shape[2] == 2 else image[..., :3]
    return image


@functools.lru_cache(maxsize=256)
def _where_it_differs(job: Job) -> Spot:
    """Return the middle of the grid cell in which the restored image differs most from the upload."""
    before, after = job.stage(0), job.stage(job.stages)
    step = max(1, int((job.pixels / 1e6) ** 0.5))  # a million samples are enough
    error = np.abs(before[::step, ::step].astype(np.float32) - after[::step, ::step])
    error = Image.fromarray(error if error.ndim == 2 else error.mean(axis=2))
    cells = np.asarray(error.resize((_GRID, _GRID), Image.Resampling.BOX))
    row, column = divmod(int(cells.argmax()), _GRID)
    return (column + 0.5) / _GRID, (row + 0.5) / _GRID


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image of any kind as 8 bits, at most `side` pixels a side."""
    picture = Image.fromarray(to_depth(image, 8))
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(picture)


def _percent(strength: float) -> str:
    return f"{round(strength * 1000):04d}"


def _write(job: Job, name: str, image: np.ndarray) -> str:
    """Write a picture once: PNG of every pixel, or JPEG of a reduced opaque photograph, which is for the eye alone."""
    reduced = max(job.stage(0).shape[:2]) > PREVIEW_SIDE and name.startswith(("whole", "navigator"))
    suffix = "jpeg" if reduced and (image.ndim == 2 or image.shape[2] == 3) else "png"
    path = job.folder / f"{name}.{suffix}"
    if not path.exists():
        pixels = np.ascontiguousarray(to_depth(image, 8))
        like = files.ImageFile(pixels, suffix, icc=(job.folder / "profile.icc").read_bytes() or None)
        path.write_bytes(files.encode_image(pixels, suffix, like))
    return str(path)
