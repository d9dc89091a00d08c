"""What an image file is to this package: formats, the `ImageFile` that is read and written, and the error.

`image_io` hands these on; its decoder and encoder import them from here, and what both need besides.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

# What is read and written; a file is read by its content and written by its suffix.
SUFFIXES = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}
VIPS_TYPES = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}
MM_PER_INCH = 25.4


class ImageFileError(ValueError):
    """A file cannot be read or written. One line: what was expected, what was got, what to do."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One image and what is needed to write it back as it was.

    `pixels` is (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha, upright, alpha not
    premultiplied; uint8 or uint16 over their whole range, or float32 in [0, 1].
    """

    pixels: np.ndarray = field(repr=False)
    format: str  # 'png', 'jpeg', 'webp', 'tiff' or 'bmp'
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)  # a TIFF structure, without the 'Exif' prefix, no orientation
    xmp: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    compression: str | None = None  # of a TIFF: 'none', 'lzw', 'deflate', 'packbits'; None: another or unknown


def check_float(pixels: np.ndarray, name: str) -> None:
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageFileError(f"{name}: expected finite float pixels, got NaN or infinity; replace those pixels first")
    if low < 0 or high > 1:
        raise ImageFileError(
            f"{name}: expected float pixels in [0, 1], got {low:g} to {high:g}; rescale to [0, 1] or save as 16 bits"
        )


def last_line(error: Exception) -> str:
    """Return the newest line that says something; libvips piles up several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "load error" not in line and "unable to" not in line]
    return (telling or lines or [type(error).__name__])[-1][:120]


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until libvips is done: raised in the callback by which pyvips logs, it would be lost."""
    if threading.current_thread() is not threading.main_thread():  # where Python runs all handlers
        yield
        return
    waiting: list[int] = []
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    handlers = {signum: handler for signum, handler in handlers.items() if callable(handler)}
    for signum in handlers:
        signal.signal(signum, lambda signum, _: waiting.append(signum))
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for signum in waiting:
            signal.raise_signal(signum)
