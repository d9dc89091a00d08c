"""What an image file is to this package: formats, depths, the `ImageFile` that is read and written, and the error.

Reading and writing both build on this module.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mdrn.denoiser import MdrnError

# What is read and written; a file is read by its content and written by its suffix. The first of each is the usual one.
_ENDINGS = {"png": ".png", "jpeg": ".jpg .jpeg .jpe .jfif", "webp": ".webp", "tiff": ".tif .tiff", "bmp": ".bmp"}
SUFFIXES = {suffix: format for format, endings in _ENDINGS.items() for suffix in endings.split()}
ALSO_READ = (".avif", ".heic", ".heif", ".hif")  # as far as libvips can; written back as PNG
START = 32  # bytes that tell what a file is
_KINDS = (  # where, what is there, what it is; the first that fits counts
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (8, b"WEBP", "webp"),
    (8, b"CR\x02", "camera raw (CR2)"),
    *((0, magic, "tiff") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (0, b"BM", "bmp"),
    *((4, b"ftyp" + brand, "heif") for brand in b"avif avis heic heix heim heis mif1 msf1".split()),
    (0, b"GIF8", "a GIF"),
    (4, b"ftypcrx ", "camera raw (CR3)"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"IIRO", "camera raw (ORF)"),
    (0, b"IIU\0", "camera raw (RW2)"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"SIMPLE  =", "a FITS file"),
    (4, b"ftyp", "a video"),
)
VIPS_TYPES = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}
MM_PER_INCH = 25.4


class ImageFileError(MdrnError):
    """A file cannot be read or written. One line: what was expected, what was got, what to do."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One image and what is needed to write it back as it was.

    Args:
        pixels: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha, upright, alpha not
            premultiplied; uint8 or uint16 over their whole range, or float32 in [0, 1].
        format: what it is written back as: 'png', 'jpeg', 'webp', 'tiff' or 'bmp'.
        icc: the colour profile.
        exif: a TIFF structure, without the 'Exif' prefix, orientation and thumbnail.
        xmp: the packet.
        resolution: pixels per unit across and down.
        resolution_unit: 'inch', 'cm' or 'none'.
        compression: of a TIFF: 'none', 'lzw', 'deflate', 'packbits'; None for another or unknown.
        alpha: whether the second or fourth channel is transparency; if not it is data, such as infrared.
        blocks: what else the format holds, as (kind, content): chunks of a PNG, segments of a JPEG.
        tags: what else a TIFF's directory holds: tag -> (type, little-endian bytes).
    """

    pixels: np.ndarray = field(repr=False)
    format: str
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    xmp: bytes | None = field(default=None, repr=False)
    resolution: tuple[float, float] | None = None
    resolution_unit: str = "inch"
    compression: str | None = None
    alpha: bool = True
    blocks: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    tags: Mapping[int, tuple[int, bytes]] = field(default_factory=dict, repr=False)

    @property
    def dpi(self) -> tuple[float, float] | None:
        """The resolution in pixels per inch; None if it is unknown or has no unit."""
        if self.resolution is None or self.resolution_unit == "none":
            return None
        scale = 1.0 if self.resolution_unit == "inch" else MM_PER_INCH / 10
        return self.resolution[0] * scale, self.resolution[1] * scale


def sniff(data: bytes, name: str) -> str:
    """Return what a file's first bytes say it is: a format of `SUFFIXES` or 'heif', which is AVIF and HEIC.

    Raises:
        ImageFileError: if it is something else; the message says what, as far as it can be told.
    """
    unknown = "something that is none of these" if data else "an empty file"
    got = next((kind for at, magic, kind in _KINDS if data[at : at + len(magic)] == magic), unknown)
    if got in (*SUFFIXES.values(), "heif"):
        return got
    formats = ", ".join(dict.fromkeys(format.upper() for format in SUFFIXES.values()))
    advice = "develop it to TIFF first" if got.startswith("camera raw") else "if this is an image, convert it to PNG"
    raise ImageFileError(f"{name}: expected a {formats}, AVIF or HEIC image, got {got}; {advice}")


def to_depth(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return pixels in unsigned integers of 8 or 16 bits, rounded.

    Example:
        >>> to_depth(np.array([[0, 300, 65535]], np.uint16), 8)
        array([[  0,   1, 255]], dtype=uint8)
    """
    kind = np.dtype(f"uint{bits}")
    if pixels.dtype == kind:
        return pixels
    if pixels.dtype.kind == "f":
        return np.round(pixels * np.float32(np.iinfo(kind).max)).astype(kind)
    if kind == np.uint16:
        return pixels * np.uint16(257)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(kind)


def check_float(pixels: np.ndarray, name: str) -> None:
    """Raise ImageFileError unless all values are in [0, 1]."""
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
def readable_errors(name: str, advice: str) -> Iterator[None]:
    """Turn what the operating system says of a path into an ImageFileError."""
    try:
        yield
    except ImageFileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageFileError(f"{name}: {reason}; {advice}") from error
