"""Pixels to the bytes of an image file; its codec libraries are imported when called. Only `image_io` imports it.

libvips (pyvips) writes PNG and TIFF of any depth; Pillow writes BMP, JPEG and WebP, because it copies an EXIF block
byte for byte, and joins the pages of a TIFF, which libvips does for pages of one size alone.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np

from mdrn import exif_blocks
from mdrn.image_file import MM_PER_INCH, VIPS_TYPES, ImageFile, ImageFileError, check_float, interrupts_wait, last_line

_HOLDS = {  # format -> sample types it can hold, and whether it can hold alpha
    "png": (("uint8", "uint16"), True),
    "jpeg": (("uint8",), False),
    "webp": (("uint8",), True),
    "tiff": (("uint8", "uint16", "float32"), True),
    "bmp": (("uint8",), False),
}
_MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
_JPEG_MARKER_BYTES = 65_533 - 29  # one JPEG marker, less the longest identifier (that of XMP)
_CLASSIC_TIFF_BYTES = 2**32 - 2**26  # its offsets have 32 bits; a larger image becomes a BigTIFF
_COLOUR_SPACES = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16"), "float32": ("b-w", "scrgb")}


def encode(images: list[tuple[np.ndarray, ImageFile]], format: str) -> bytes:
    """Encode one image, or several as the pages of a TIFF; see `image_io.encode_image`.

    Args:
        images: pixels, and the file whose profile, metadata and TIFF compression to carry over.
        format: 'png', 'jpeg', 'webp', 'tiff' or 'bmp'.

    Raises:
        ImageFileError: if the format cannot hold the pixels, or they are not images.
    """
    ready = []
    for pixels, like in images:
        check_can_hold(pixels, format, pages=len(images))
        like = _without_what_does_not_fit(like, pixels, format)
        ready.append((np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("=")), like))
    try:
        with interrupts_wait():
            if format == "tiff":
                return _encode_tiff(ready)
            return (_encode_png if format == "png" else _encode_with_pillow)(*ready[0], format)
    except MemoryError as error:
        shape = ready[0][0].shape
        raise ImageFileError(f"{format.upper()}: not enough memory to encode {shape}; cut it up") from error
    except Exception as error:  # pyvips.Error and whatever Pillow's encoders raise
        raise ImageFileError(f"{format.upper()}: could not be encoded ({last_line(error)}); try PNG") from error


def check_can_hold(pixels: np.ndarray, format: str, pages: int = 1) -> None:
    """Raise ImageFileError unless files of this format can hold these pixels, as one of so many pages."""
    if format not in _HOLDS:
        raise ImageFileError(f"format: expected one of {', '.join(_HOLDS)}, got {format!r}")
    if pages > 1 and format != "tiff":
        raise ImageFileError(f"{format.upper()}: expected one image, got {pages} pages; write TIFF")
    shape, kind = pixels.shape, pixels.dtype.name
    if not (len(shape) == 2 or len(shape) == 3 and shape[2] in (2, 3, 4)) or 0 in shape:
        raise ImageFileError(f"pixels: expected (H, W), (H, W, 2), (H, W, 3) or (H, W, 4), got {shape}; reshape it")
    alpha = len(shape) == 3 and shape[2] in (2, 4)
    able = [name for name, (kinds, with_alpha) in _HOLDS.items() if kind in kinds and (with_alpha or not alpha)]
    if not able:
        raise ImageFileError(f"pixels: expected uint8, uint16 or float32, got {kind}; convert it")
    if format not in able:
        raise ImageFileError(
            f"{format.upper()}: expected pixels it can hold, got {kind}{' with alpha' if alpha else ''}; "
            f"write {' or '.join(name.upper() for name in able)}, or convert to 8 bits without alpha"
        )
    if max(shape[:2]) > _MAX_SIDE.get(format, max(shape[:2])):
        raise ImageFileError(
            f"{format.upper()}: expected sides of at most {_MAX_SIDE[format]} pixels, got {shape[1]} x {shape[0]}; "
            "write PNG or TIFF"
        )
    if kind == "float32":
        check_float(pixels, "pixels")


def _without_what_does_not_fit(like: ImageFile, pixels: np.ndarray, format: str) -> ImageFile:
    """Drop, with a warning, the metadata that the file cannot carry."""
    grey = format != "webp" and (pixels.ndim == 2 or pixels.shape[2] == 2)
    misfits = {name for name in ("icc", "exif", "xmp") if format == "bmp" and getattr(like, name)}
    if like.icc and like.icc[16:20] != (b"GRAY" if grey else b"RGB "):
        misfits.add("icc")
    if format == "jpeg":
        misfits |= {name for name in ("exif", "xmp") if len(getattr(like, name) or b"") > _JPEG_MARKER_BYTES}
    for name in sorted(misfits):
        warnings.warn(f"{format.upper()}: this file cannot hold the {name} block, which is dropped", stacklevel=4)
    return replace(like, **dict.fromkeys(misfits))


def _vips_options(pixels: np.ndarray, like: ImageFile) -> tuple:
    """Return the libvips image of the pixels with its metadata, and what to keep of it when saving."""
    import pyvips

    height, width, channels = (*pixels.shape, 1)[:3]
    image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, VIPS_TYPES[pixels.dtype.name])
    xres, yres = (value / MM_PER_INCH for value in like.dpi or (72, 72))
    space = _COLOUR_SPACES[pixels.dtype.name][channels > 2]
    image = image.copy(interpretation=space, xres=xres, yres=yres)
    for name, block in (("icc-profile-data", like.icc), ("xmp-data", like.xmp)):
        if block:
            image.set_type(pyvips.GValue.blob_type, name, block)
    return image, pyvips.enums.ForeignKeep.ICC | pyvips.enums.ForeignKeep.XMP


def _encode_png(pixels: np.ndarray, like: ImageFile, format: str) -> bytes:
    image, keep = _vips_options(pixels, like)
    png = image.pngsave_buffer(keep=keep)
    if not like.exif:
        return png
    header = 33  # bytes: signature, then the IHDR chunk. libvips itself would rewrite the EXIF block.
    checksum = struct.pack(">I", zlib.crc32(b"eXIf" + like.exif))
    return png[:header] + struct.pack(">I", len(like.exif)) + b"eXIf" + like.exif + checksum + png[header:]


def _encode_tiff(images: list[tuple[np.ndarray, ImageFile]]) -> bytes:
    big = sum(pixels.nbytes for pixels, _ in images) > _CLASSIC_TIFF_BYTES
    if len(images) == 1:
        return _encode_page(*images[0], big)
    from PIL.TiffImagePlugin import AppendingTiffWriter

    file = io.BytesIO()
    with AppendingTiffWriter(file) as joined:
        for pixels, like in images:
            joined.write(_encode_page(pixels, like, big, page_at=joined.offsetOfNewPage))
            joined.newFrame()
    return file.getvalue()


def _encode_page(pixels: np.ndarray, like: ImageFile, big: bool, page_at: int = 0) -> bytes:
    image, keep = _vips_options(pixels, like)
    options = {"compression": like.compression or "deflate", "keep": keep, "resunit": "inch"}
    if options["compression"] in ("deflate", "lzw"):
        options["predictor"] = "float" if pixels.dtype == np.float32 else "horizontal"
    tiff = image.tiffsave_buffer(bigtiff=big, **options)
    return exif_blocks.add_exif(tiff, like.exif, page_at) if like.exif else tiff


def _encode_with_pillow(pixels: np.ndarray, like: ImageFile, format: str) -> bytes:
    from PIL import Image

    options = {"dpi": like.dpi, "icc_profile": like.icc, "exif": like.exif, "xmp": like.xmp}
    if format == "jpeg":
        options |= {"quality": 95, "subsampling": 0, "exif": like.exif and b"Exif\0\0" + like.exif}
    elif format == "webp":
        options |= {"lossless": True, "exact": True}  # exact: keep the colours under zero alpha
    buffer = io.BytesIO()
    given = {name: value for name, value in options.items() if value is not None}
    Image.fromarray(pixels).save(buffer, format, **given)
    return buffer.getvalue()
