"""Pixels and metadata to the bytes of an image file, and those into place; codec libraries are imported when called.

libvips (pyvips) writes PNG and TIFF of any depth; Pillow writes BMP, JPEG and WebP, because it copies an EXIF block
byte for byte, and joins the pages of a TIFF, which libvips does for pages of one size alone.
"""

import io
import os
import secrets
import shutil
import struct
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdrn.files import blocks, formats, tags
from mdrn.files.formats import ImageFile, ImageFileError

_HOLDS = {  # format -> sample types it can hold, and whether it can hold alpha
    "png": (("uint8", "uint16"), True),
    "jpeg": (("uint8",), False),
    "webp": (("uint8",), True),
    "tiff": (("uint8", "uint16", "float32"), True),
    "bmp": (("uint8",), True),
}
_MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
_JPEG_MARKER_BYTES = 65_533 - 29  # one JPEG marker, less the longest identifier (that of XMP)
_CLASSIC_TIFF_BYTES = 2**32 - 2**26  # its offsets have 32 bits; a larger image becomes a BigTIFF
_COLOUR_SPACES = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16"), "float32": ("b-w", "scrgb")}
_KEPT_BY_VIPS = "icc|xmp"
_ADVICE = "check that the folder exists, is writable and has free space"


def write_image(
    path: str | Path,
    pixels: np.ndarray,
    like: ImageFile | None = None,
    *,
    depth: int | None = None,
    keep_metadata: bool = True,
    overwrite: bool = False,
) -> None:
    """Write an image whole or not at all, in the format of the path's suffix.

    The bytes go to a temporary file beside `path` that replaces it at the end, so a full disk or Ctrl-C leaves what was
    there before. Missing folders are made. See `encode_image` for what each format keeps.

    Args:
        path: where to write; the suffix is one of `SUFFIXES`.
        pixels: as `ImageFile.pixels`.
        like: the file whose profile, metadata and TIFF compression to carry over.
        depth: bits of a sample, 8 or 16; None keeps the pixels' own as far as the format can hold it.
        keep_metadata: False drops all but the description of the colours.
        overwrite: replace an existing file.

    Raises:
        ImageFileError: if the file exists, the format cannot hold the pixels, or the folder cannot be written to.
    """
    write_pages(path, [pixels], [like] if like else None, depth=depth, keep_metadata=keep_metadata, overwrite=overwrite)


def write_pages(
    path: str | Path,
    pages: Iterable[np.ndarray],
    like: Iterable[ImageFile] | None = None,
    *,
    depth: int | None = None,
    keep_metadata: bool = True,
    overwrite: bool = False,
) -> None:
    """Write the pages of a TIFF, or the one of any file: `write_image` for several, which may differ in every way."""
    format = check_target(path, overwrite=overwrite)
    data = encode_pages(pages, format, like, depth=depth, keep_metadata=keep_metadata)
    with formats.readable_errors(str(path), _ADVICE):
        write_atomically(Path(os.path.realpath(path)), data)  # through a symbolic link instead of replacing it


def check_target(
    path: str | Path,
    like: ImageFile | None = None,
    pages: int = 1,
    *,
    depth: int | None = None,
    overwrite: bool = False,
) -> str:
    """Return the format that a path names, if an image can be written there: to know it before the work is done.

    Args:
        path: where to write; folders that are missing may be made later.
        like: an image of the kind that will be written.
        pages: how many.
        depth: as in `write_image`.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageFileError: if the name, the place or the kind of image does not fit.
    """
    format = formats.SUFFIXES.get(Path(path).suffix.lower())
    if format is None:
        raise ImageFileError(f"{path}: expected a name ending in {', '.join(formats.SUFFIXES)}; rename the output")
    with formats.readable_errors(str(path), _ADVICE):
        target = Path(path)
        if target.is_dir():
            raise ImageFileError(f"{path}: expected a file name, got a folder; add a file name")
        if target.exists() and not overwrite:
            raise ImageFileError(f"{path}: exists already; choose another name or allow overwriting")
        folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ImageFileError(f"{path}: {folder} is no folder, or a read-only one; choose another place")
    if pages > 1 and format != "tiff":
        raise ImageFileError(f"{path}: expected one image for {format.upper()}, got {pages} pages; write TIFF")
    if like:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when it is written
            _prepare(like.pixels[:1], like, format, depth)
        _check_sides(like.pixels, format)
    return format


def encode_image(
    pixels: np.ndarray,
    format: str,
    like: ImageFile | None = None,
    *,
    depth: int | None = None,
    keep_metadata: bool = True,
) -> bytes:
    """Encode pixels as the bytes of a file.

    PNG, TIFF, BMP and WebP are lossless (WebP stores grey as RGB); JPEG has quality 95 and full-resolution colour. All
    but BMP keep the profile, EXIF and XMP, and their own kinds of metadata; what does not fit, and a depth that the
    format cannot hold, is named in a warning. In a TIFF, EXIF is rebuilt (a maker note that uses absolute offsets may
    become unreadable); elsewhere it is a verbatim copy less orientation and thumbnail.

    Args:
        pixels: as `ImageFile.pixels`.
        format: 'png', 'jpeg', 'webp', 'tiff' or 'bmp'.
        like: the file whose profile, metadata and TIFF compression to carry over; a TIFF is deflated if unknown.
        depth: bits of a sample, 8 or 16; None keeps the pixels' own as far as the format can hold it.
        keep_metadata: False drops all but the description of the colours: without it they change.

    Raises:
        ImageFileError: if the format cannot hold the pixels, or they are not an image.
    """
    return encode_pages([pixels], format, [like] if like else None, depth=depth, keep_metadata=keep_metadata)


def encode_pages(
    pages: Iterable[np.ndarray],
    format: str,
    like: Iterable[ImageFile] | None = None,
    *,
    depth: int | None = None,
    keep_metadata: bool = True,
) -> bytes:
    """Encode several images as the pages of a TIFF: `encode_image` for each, of whatever size and depth."""
    pages = list(pages)
    like = list(like) if like is not None else [ImageFile(pixels, format) for pixels in pages]
    if format not in _HOLDS:
        raise ImageFileError(f"format: expected one of {', '.join(_HOLDS)}, got {format!r}")
    if len(pages) > 1 and format != "tiff":
        raise ImageFileError(f"{format.upper()}: expected one image, got {len(pages)} pages; write TIFF")
    ready = []
    for pixels, each in zip(pages, like, strict=True):
        ready.append(_prepare(pixels, each if keep_metadata else _without_metadata(each), format, depth))
        _check_sides(pixels, format)
    try:
        if format == "tiff":
            return _encode_tiff(ready)
        return _encode_png(*ready[0]) if format == "png" else _encode_with_pillow(*ready[0], format)
    except MemoryError as error:
        shape = ready[0][0].shape
        raise ImageFileError(f"{format.upper()}: not enough memory to encode {shape}; cut it up") from error
    except Exception as error:  # pyvips.Error and whatever Pillow's encoders raise
        raise ImageFileError(f"{format.upper()}: could not be encoded ({formats.last_line(error)}); try PNG") from error


def _without_metadata(like: ImageFile) -> ImageFile:
    colour = tuple(block for block in like.blocks if block[0] in blocks.COLOUR_CHUNKS)
    tags_kept = {tag: value for tag, value in like.tags.items() if tag in tags.COLOUR}
    return replace(like, exif=tags.colour_exif(like.exif), xmp=None, resolution=None, blocks=colour, tags=tags_kept)


def _prepare(pixels: np.ndarray, like: ImageFile, format: str, depth: int | None) -> tuple[np.ndarray, ImageFile]:
    """Return pixels that the format holds and the metadata that it can carry, with a warning that names the rest."""
    shape, kind = pixels.shape, pixels.dtype.name
    if not (len(shape) == 2 or len(shape) == 3 and shape[2] in (2, 3, 4)) or 0 in shape:
        raise ImageFileError(f"pixels: expected (H, W), (H, W, 2), (H, W, 3) or (H, W, 4), got {shape}; reshape it")
    if kind not in formats.VIPS_TYPES:
        raise ImageFileError(f"pixels: expected uint8, uint16 or float32, got {kind}; convert it")
    if depth not in (None, 8, 16):
        raise ImageFileError(f"depth: expected 8 or 16 bits, got {depth}")
    if kind == "float32":
        formats.check_float(pixels, "pixels")
    lost = []
    if len(shape) == 3 and shape[2] in (2, 4) and not like.alpha and format != "tiff":
        pixels = pixels[..., 0] if shape[2] == 2 else pixels[..., :3]
        lost.append("the channel that is neither colour nor transparency")
    kinds, holds_alpha = _HOLDS[format]
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4) and not holds_alpha:
        able = " or ".join(name.upper() for name, (_, alpha) in _HOLDS.items() if alpha)
        raise ImageFileError(f"{format.upper()}: expected an image without transparency, got one with it; write {able}")
    if depth or kind not in kinds:
        wanted = depth or 16
        held = wanted if f"uint{wanted}" in kinds else 8
        converted = formats.to_depth(pixels, held)
        if converted.dtype != pixels.dtype:  # what is true of one depth alone goes
            tags_kept = {tag: value for tag, value in like.tags.items() if tag != tags.TRANSFER_FUNCTION}
            blocks_kept = tuple(block for block in like.blocks if block[0] != blocks.BACKGROUND)
            like = replace(like, tags=tags_kept, blocks=blocks_kept)
            if held != depth:
                lost.append(f"the depth of {kind} (it holds {held} bits)")
        pixels = converted
    like, left_out = _what_fits(like, pixels, format)
    if lost + left_out:
        warnings.warn(f"{format.upper()} file: not kept: {', '.join(lost + left_out)}", stacklevel=4)
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("=")), like


def _check_sides(pixels: np.ndarray, format: str) -> None:
    height, width = pixels.shape[:2]
    if max(height, width) > _MAX_SIDE.get(format, max(height, width)):
        raise ImageFileError(
            f"{format.upper()}: expected sides of at most {_MAX_SIDE[format]} pixels, got {width} x {height}; "
            "write PNG or TIFF"
        )


def _what_fits(like: ImageFile, pixels: np.ndarray, format: str) -> tuple[ImageFile, list[str]]:
    """Return the metadata that the file can carry, and the names of what it cannot."""
    grey = format != "webp" and (pixels.ndim == 2 or pixels.shape[2] == 2)
    misfits = {name for name in ("icc", "exif", "xmp") if format == "bmp" and getattr(like, name)}
    if like.icc and like.icc[16:20] != (b"GRAY" if grey else b"RGB "):
        misfits.add("icc")
    if format == "jpeg":
        misfits |= {name for name in ("exif", "xmp") if len(getattr(like, name) or b"") > _JPEG_MARKER_BYTES}
    if format == "webp" and like.resolution and not like.exif:
        misfits.add("resolution")
    names = sorted(misfits)
    changes: dict[str, Any] = dict.fromkeys(misfits)
    if format != like.format and like.blocks:
        names += dict.fromkeys(blocks.block_name(kind) for kind, _ in like.blocks)
        changes["blocks"] = ()
    if format != "tiff" and like.tags:
        names.append(f"TIFF tags {', '.join(map(str, sorted(like.tags)))}")
        changes["tags"] = {}
    return replace(like, **changes), names


def _as_vips(pixels: np.ndarray, like: ImageFile) -> Any:
    """Return the libvips image of the pixels, with `_KEPT_BY_VIPS`."""
    import pyvips

    height, width, channels = (*pixels.shape, 1)[:3]
    image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, formats.VIPS_TYPES[pixels.dtype.name])
    xres, yres = (value / formats.MM_PER_INCH for value in like.dpi or (72, 72))
    space = _COLOUR_SPACES[pixels.dtype.name][channels > 2]
    image = image.copy(interpretation=space, xres=xres, yres=yres)
    for name, block in (("icc-profile-data", like.icc), ("xmp-data", like.xmp)):
        if block:
            image.set_type(pyvips.GValue.blob_type, name, block)
    return image


def _encode_png(pixels: np.ndarray, like: ImageFile) -> bytes:
    added = list(like.blocks)  # libvips itself would rewrite the EXIF block and add a resolution
    if like.resolution:
        scale = {"none": 1, "cm": 100, "inch": 1000 / formats.MM_PER_INCH}[like.resolution_unit]
        across, down = (min(round(value * scale), 2**31 - 1) for value in like.resolution)
        added.append((b"pHYs", struct.pack(">IIB", across, down, like.resolution_unit != "none")))
    if like.exif:
        added.append((b"eXIf", like.exif))
    return blocks.add_png_blocks(_as_vips(pixels, like).pngsave_buffer(keep=_KEPT_BY_VIPS), added)


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
    options = {"compression": like.compression or "deflate", "keep": _KEPT_BY_VIPS, "resunit": "inch"}
    if options["compression"] in ("deflate", "lzw"):
        options["predictor"] = "float" if pixels.dtype == np.float32 else "horizontal"
    tiff = _as_vips(pixels, like).tiffsave_buffer(bigtiff=big, **options)
    added = dict(like.tags)
    if like.resolution:
        added |= tags.resolution_tags(like.resolution, like.resolution_unit)
    if not like.alpha and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        added[tags.EXTRA_SAMPLES] = (3, struct.pack("<H", 0))
    return tags.rewrite_tags(tiff, like.exif, added, page_at)


def _encode_with_pillow(pixels: np.ndarray, like: ImageFile, format: str) -> bytes:
    from PIL import Image

    if format == "bmp" and pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    options: dict[str, Any] = {"icc_profile": like.icc, "exif": like.exif, "xmp": like.xmp}
    if format == "jpeg":
        options |= {"quality": 95, "subsampling": 0, "exif": like.exif and b"Exif\0\0" + like.exif}
    elif format == "webp":
        options |= {"lossless": True, "exact": True}  # exact: keep the colours under zero alpha
    elif like.dpi:
        options["dpi"] = like.dpi
    buffer = io.BytesIO()
    given = {name: value for name, value in options.items() if value is not None}
    Image.fromarray(pixels).save(buffer, format, **given)
    data = buffer.getvalue()
    if format == "bmp" and pixels.ndim == 3 and pixels.shape[2] == 4:
        return _with_masks(data)
    return _finish_jpeg(data, like) if format == "jpeg" else data


def _with_masks(bmp: bytes) -> bytes:
    """Give a BMP of 32 bits a header of version 4, which alone says that the fourth byte is alpha."""
    (size, offset), info, added = struct.unpack_from("<I4xI", bmp, 2), bmp[14:54], 68
    masks = struct.pack("<5I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, int.from_bytes(b"sRGB", "big"))
    info = struct.pack("<I", len(info) + added) + info[4:16] + struct.pack("<I", 3) + info[20:] + masks + bytes(48)
    return b"BM" + struct.pack("<I4xI", size + added, offset + added) + info + bmp[offset:]


def _finish_jpeg(jpeg: bytes, like: ImageFile) -> bytes:
    """Add the other blocks and the resolution, which Pillow would write in whole inches alone."""
    jpeg = blocks.add_jpeg_blocks(jpeg, list(like.blocks))
    if not like.resolution:
        return jpeg
    unit = ("none", "inch", "cm").index(like.resolution_unit)
    across, down = (min(max(round(value), 1), 65_535) for value in like.resolution)
    return jpeg[:13] + struct.pack(">BHH", unit, across, down) + jpeg[18:]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to disk, then renamed over it.

    An existing file's permissions stay; a new one has the usual ones. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:  # also KeyboardInterrupt
        temporary.unlink(missing_ok=True)
        raise
