"""Files to arrays and back with nothing lost on the way: bit depth, alpha, colour profile, EXIF, XMP, resolution.

For the command line and the demo; imports nothing else of `mdrn`, and its two codec libraries only when called. libvips
(pyvips) reads and writes what Pillow cannot hold (16-bit RGB, grey with alpha, float TIFF) and refuses damaged files;
Pillow does BMP and writes JPEG and WebP, because it copies an EXIF block byte for byte.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mdrn import exif_blocks

MAX_PIXELS = 500_000_000  # default limit of read_image: 1.5 GB as 8-bit RGB
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
_MM_PER_INCH = 25.4
_VIPS_TYPES = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}
_COLOUR_SPACES = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16"), "float32": ("b-w", "scrgb")}
_FIELDS = ("interpretation", "bands", "format", "n-pages", "orientation")
_FIELDS += ("exif-data", "icc-profile-data", "xmp-data")
_TIFF_COMPRESSIONS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits"}
_ORIENTATIONS = {  # EXIF orientation -> swap rows and columns first; then the step through rows and through columns
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


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


def read_image(source: str | Path | bytes, *, max_pixels: int | None = None) -> ImageFile:
    """Read one image, upright, at its own bit depth.

    Palettes and 1, 2 and 4-bit grey come back as 8 bits, half floats as float32. Metadata that cannot be parsed is
    dropped with a warning and never stops the reading. IPTC and other private blocks are not kept.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse more pixels than this, by the header, before decoding; None means `MAX_PIXELS`.

    Raises:
        ImageFileError: for whatever is not one whole grey or RGB image in a format of `SUFFIXES`: missing, empty or
            damaged files, several pages or frames, CMYK or Lab, camera raw, float values outside [0, 1].

    Example:
        >>> data = encode_image(np.full((2, 3), 40_000, np.uint16), "png")
        >>> read_image(data).pixels.dtype
        dtype('uint16')
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    name = "image data" if isinstance(source, bytes) else str(source)
    with _readable_errors(name, "check the path, and that it is a file you may read"):
        data, kind = _read_source(source, name)
    try:
        return _decode_bmp(data, name, limit) if kind == "bmp" else _decode_with_vips(data, kind, name, limit)
    except ImageFileError:
        raise
    except MemoryError as error:
        raise ImageFileError(f"{name}: not enough memory to decode it; cut it into smaller images") from error
    except Exception as error:  # pyvips.Error, and Pillow's parser raises a dozen built-in types on damaged files
        detail = _last_line(error)
        raise ImageFileError(
            f"{name}: expected a whole {kind.upper()} image, got one that is truncated, damaged or of an unsupported "
            f"kind ({detail}); get a fresh copy, or save it again as 8 or 16-bit PNG"
        ) from error


def write_image(
    path: str | Path,
    pixels: np.ndarray,
    like: ImageFile | None = None,
    *,
    keep_metadata: bool = True,
    overwrite: bool = False,
) -> None:
    """Write an image whole or not at all, in the format of the path's suffix.

    The bytes go to a temporary file beside `path` that replaces it at the end, so a full disk or Ctrl-C leaves what was
    there before. See `encode_image` for what each format keeps.

    Args:
        path: where to write; the suffix is one of `SUFFIXES`.
        pixels: as `ImageFile.pixels`.
        like: the file whose profile, metadata and TIFF compression to carry over.
        keep_metadata: False drops all but the colour profile.
        overwrite: replace an existing file.

    Raises:
        ImageFileError: if the file exists, the format cannot hold the pixels, or the folder cannot be written to.
    """
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise ImageFileError(f"{path}: expected a name ending in {', '.join(SUFFIXES)}; rename the output")
    with _readable_errors(str(path), "check that the folder exists, is writable and has free space"):
        target = Path(os.path.realpath(path))  # writes through a symbolic link instead of replacing it
        if target.is_dir():
            raise ImageFileError(f"{path}: expected a file name, got a folder; add a file name")
        if target.exists() and not overwrite:
            raise ImageFileError(f"{path}: exists already; choose another name or allow overwriting")
        _write_whole(target, encode_image(pixels, kind, like, keep_metadata=keep_metadata))


def encode_image(
    pixels: np.ndarray, format: str, like: ImageFile | None = None, *, keep_metadata: bool = True
) -> bytes:
    """Encode pixels as the bytes of a file.

    PNG, TIFF, BMP and WebP are lossless (WebP stores grey as RGB); JPEG has quality 95 and full-resolution colour. All
    but BMP keep the profile, EXIF and XMP; what does not fit is dropped with a warning. In a TIFF, EXIF is rebuilt
    (description, camera, exposure, GPS, author; a maker note that uses absolute offsets may become unreadable);
    elsewhere it is a verbatim copy less orientation and thumbnail.

    Args:
        pixels: as `ImageFile.pixels`.
        format: 'png', 'jpeg', 'webp', 'tiff' or 'bmp'.
        like: the file whose profile, metadata and TIFF compression to carry over; a TIFF is deflated if unknown.
        keep_metadata: False drops EXIF, XMP and resolution. The colour profile stays: without it colours change.

    Raises:
        ImageFileError: if the format cannot hold the pixels, or they are not an image.
    """
    _check_can_hold(pixels, format)
    like = like or ImageFile(pixels, format)
    like = like if keep_metadata else replace(like, exif=None, xmp=None, dpi=None)
    like = _without_what_does_not_fit(like, pixels, format)
    pixels = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
    encode = {"png": _encode_png, "tiff": _encode_tiff}.get(format, _encode_with_pillow)
    try:
        return encode(pixels, format, like)
    except MemoryError as error:
        raise ImageFileError(f"{format.upper()}: not enough memory to encode {pixels.shape}; cut it up") from error
    except Exception as error:  # pyvips.Error and whatever Pillow's encoders raise
        raise ImageFileError(f"{format.upper()}: could not be encoded ({_last_line(error)}); try PNG") from error


# ---------------------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def _readable_errors(name: str, advice: str) -> Iterator[None]:
    """Turn what the operating system says of a path into an ImageFileError."""
    try:
        yield
    except ImageFileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageFileError(f"{name}: {reason}; {advice}") from error


def _read_source(source: str | Path | bytes, name: str) -> tuple[bytes, str]:
    """Return the bytes and the format that their first bytes announce; foreign files are not read to the end."""
    if isinstance(source, bytes):
        return source, _sniff(source, name)
    path = Path(source)
    if path.is_dir():
        raise ImageFileError(f"{name}: expected an image file, got a folder; name one image")
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{name}: expected an image file, got a device or pipe; save it to a file first")
    with path.open("rb") as file:
        kind = _sniff(file.read(32), name)
        file.seek(0)
        return file.read(), kind


def _sniff(data: bytes, name: str) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data.startswith(b"BM"):
        return "bmp"
    got = "an empty file" if not data else "something else"
    got = "a GIF" if data.startswith(b"GIF8") else "HEIC, AVIF or a video" if data[4:8] == b"ftyp" else got
    raise ImageFileError(f"{name}: expected a PNG, JPEG, WebP, TIFF or BMP image, got {got}; convert it to PNG first")


def _check_size(width: int, height: int, name: str, limit: int) -> None:
    if width * height > limit:
        raise ImageFileError(
            f"{name}: expected at most {limit:,} pixels, got {width} x {height}; cut it into smaller images"
        )


def _decode_with_vips(data: bytes, kind: str, name: str, limit: int) -> ImageFile:
    import pyvips

    directory = exif_blocks.tiff_directory(data, name) if kind == "tiff" else {}
    # 'truncated' lets half of a TIFF pass, and 'error' lets broken tiles pass as black; 'warning' everywhere would
    # refuse readable files for a stray byte or an unsorted tag.
    fail_on = "warning" if kind == "tiff" and (not directory or exif_blocks.TILE_WIDTH in directory) else "error"
    load = getattr(pyvips.Image, f"{kind}load_buffer")  # by name: no other of libvips' loaders ever sees the data
    image = load(data, access="sequential", fail_on=fail_on)
    _check_size(image.width, image.height, name, limit)
    fields = {key: image.get(key) for key in _FIELDS if image.get_typeof(key)}
    _check_supported(fields, data, kind, directory, name)
    pixels = image.numpy()
    pixels = pixels.reshape((image.height, image.width, image.bands)[: 2 if image.bands == 1 else 3])
    if pixels.dtype == np.float32:
        _check_float(pixels, name)

    exif = (
        exif_blocks.exif_from_tiff(directory)
        if kind == "tiff"
        else exif_blocks.clean_exif(fields.get("exif-data"), name)
    )
    xmp = fields.get("xmp-data")
    dpi = (image.xres * _MM_PER_INCH, image.yres * _MM_PER_INCH)
    unset = round(dpi[0], 1) in (72.0, _MM_PER_INCH)  # libvips' stand-ins for a file without a resolution
    return ImageFile(
        pixels=_upright(pixels, fields.get("orientation", 1)),
        format=kind,
        icc=fields.get("icc-profile-data"),
        exif=exif,
        xmp=re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", xmp) if xmp else None,
        dpi=None if unset else dpi,
        compression=_TIFF_COMPRESSIONS.get(exif_blocks.number(directory, exif_blocks.COMPRESSION))
        if directory
        else None,
    )


def _check_supported(fields: dict, data: bytes, kind: str, directory: dict, name: str) -> None:
    """Refuse what libvips reads but this package would misread: frames, other colour spaces, other sample types."""
    pages = fields.get("n-pages", 1)
    if pages > 1 and kind == "tiff":
        raise ImageFileError(f"{name}: expected one page, got a TIFF of {pages} pages; save each page as its own file")
    if pages > 1 or (kind == "png" and b"acTL" in data[: data.find(b"IDAT")]):
        raise ImageFileError(f"{name}: expected a still image, got an animation; save each frame as its own file")
    if kind == "png" and data.rfind(b"\0\0\0\0IEND\xaeB`\x82") < 0:  # libvips accepts this if the pixels are there
        raise ImageFileError(f"{name}: expected a whole PNG image, got one cut off at its end; get a fresh copy")
    if exif_blocks.DNG_VERSION in directory or exif_blocks.number(directory, exif_blocks.SUBFILE_TYPE) & 1:
        raise ImageFileError(f"{name}: expected a TIFF image, got camera raw or a preview; develop it to TIFF first")
    space, bands, samples = fields["interpretation"], fields["bands"], fields["format"]
    if space == "cmyk":
        raise ImageFileError(
            f"{name}: expected grey or RGB, got CMYK; convert to RGB first, for example with ImageMagick: "
            "magick in.jpg -profile sRGB.icc out.png"
        )
    if samples not in _VIPS_TYPES.values():
        raise ImageFileError(
            f"{name}: expected unsigned 8 or 16-bit or 32-bit float samples, got {samples}; convert to one of them"
        )
    grey = space in ("b-w", "grey16")
    if not grey and space not in ("srgb", "rgb16", "scrgb") or bands not in ((1, 2) if grey else (3, 4)):
        raise ImageFileError(
            f"{name}: expected grey or RGB, with or without alpha, got {bands} channels of colour space {space!r}; "
            "convert to RGB, or save each channel as its own grey file"
        )
    if (
        samples == "float" and exif_blocks.number(directory, exif_blocks.PHOTOMETRIC, 1) == 0
    ):  # libvips does not invert these
        raise ImageFileError(f"{name}: expected float TIFF with black as 0, got white as 0; save it as MinIsBlack")


def _check_float(pixels: np.ndarray, name: str) -> None:
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageFileError(f"{name}: expected finite float pixels, got NaN or infinity; replace those pixels first")
    if low < 0 or high > 1:
        raise ImageFileError(
            f"{name}: expected float pixels in [0, 1], got {low:g} to {high:g}; rescale to [0, 1] or save as 16 bits"
        )


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    swap, rows, columns = _ORIENTATIONS.get(orientation, (False, 1, 1))
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _decode_bmp(data: bytes, name: str, limit: int) -> ImageFile:
    from PIL import BmpImagePlugin

    image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))  # not Image.open: its pixel limit is global
    _check_size(*image.size, name, limit)
    dpi = image.info.get("dpi")
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return ImageFile(np.array(image), "bmp", dpi=dpi if dpi and min(dpi) > 1 else None)


def _last_line(error: Exception) -> str:
    """Return the newest line that says something; libvips piles up several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "load error" not in line and "unable to" not in line]
    return (telling or lines or [type(error).__name__])[-1][:120]


# ---------------------------------------------------------------------------------------------------- writing


def _check_can_hold(pixels: np.ndarray, format: str) -> None:
    if format not in _HOLDS:
        raise ImageFileError(f"format: expected one of {', '.join(_HOLDS)}, got {format!r}")
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
        _check_float(pixels, "pixels")


def _without_what_does_not_fit(like: ImageFile, pixels: np.ndarray, format: str) -> ImageFile:
    """Drop, with a warning, the metadata that the file cannot carry."""
    grey = format != "webp" and (pixels.ndim == 2 or pixels.shape[2] == 2)
    misfits = {name for name in ("icc", "exif", "xmp") if format == "bmp" and getattr(like, name)}
    if like.icc and like.icc[16:20] != (b"GRAY" if grey else b"RGB "):
        misfits.add("icc")
    if format == "jpeg":
        misfits |= {name for name in ("exif", "xmp") if len(getattr(like, name) or b"") > _JPEG_MARKER_BYTES}
    for name in sorted(misfits):
        warnings.warn(f"{format.upper()}: this file cannot hold the {name} block, which is dropped", stacklevel=3)
    return replace(like, **dict.fromkeys(misfits))


def _vips_options(pixels: np.ndarray, like: ImageFile) -> tuple:
    """Return the libvips image of the pixels with its metadata, and what to keep of it when saving."""
    import pyvips

    height, width, channels = (*pixels.shape, 1)[:3]
    image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, _VIPS_TYPES[pixels.dtype.name])
    xres, yres = (value / _MM_PER_INCH for value in like.dpi or (72, 72))
    space = _COLOUR_SPACES[pixels.dtype.name][channels > 2]
    image = image.copy(interpretation=space, xres=xres, yres=yres)
    for name, block in (("icc-profile-data", like.icc), ("xmp-data", like.xmp)):
        if block:
            image.set_type(pyvips.GValue.blob_type, name, block)
    return image, pyvips.enums.ForeignKeep.ICC | pyvips.enums.ForeignKeep.XMP


def _encode_png(pixels: np.ndarray, format: str, like: ImageFile) -> bytes:
    image, keep = _vips_options(pixels, like)
    png = image.pngsave_buffer(keep=keep)
    if not like.exif:
        return png
    header = 33  # bytes: signature, then the IHDR chunk. libvips itself would rewrite the EXIF block.
    checksum = struct.pack(">I", zlib.crc32(b"eXIf" + like.exif))
    return png[:header] + struct.pack(">I", len(like.exif)) + b"eXIf" + like.exif + checksum + png[header:]


def _encode_tiff(pixels: np.ndarray, format: str, like: ImageFile) -> bytes:
    image, keep = _vips_options(pixels, like)
    options = {"compression": like.compression or "deflate", "keep": keep, "resunit": "inch"}
    if options["compression"] in ("deflate", "lzw"):
        options["predictor"] = "float" if pixels.dtype == np.float32 else "horizontal"
    tiff = image.tiffsave_buffer(bigtiff=pixels.nbytes > _CLASSIC_TIFF_BYTES, **options)
    return exif_blocks.add_exif(tiff, like.exif) if like.exif else tiff


def _encode_with_pillow(pixels: np.ndarray, format: str, like: ImageFile) -> bytes:
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


def _write_whole(target: Path, data: bytes) -> None:
    """Write `data` beside `target`, then put it in place in one step; leave no trace of a failure."""
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:  # also KeyboardInterrupt
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
