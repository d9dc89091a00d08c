"""The bytes of an image file to pixels; its codec libraries are imported when called. Only `image_io` imports it.

Pillow reads BMP. For the others libvips (pyvips) reads what Pillow cannot hold (16-bit RGB, grey with alpha, float
TIFF) and refuses damaged files.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

import numpy as np

from mdrn import exif_blocks
from mdrn.image_file import MM_PER_INCH, VIPS_TYPES, ImageFile, ImageFileError, check_float, interrupts_wait, last_line

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


def sniff(data: bytes, name: str) -> str:
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


def count_pages(data: bytes, kind: str, name: str) -> int:
    """Return the number of pages of a TIFF; of any other format 1.

    Raises:
        ImageFileError: if the file is damaged.
    """
    if kind != "tiff":
        return 1
    with _one_clear_line(name, kind):
        import pyvips

        return pyvips.Image.tiffload_buffer(data).get("n-pages")


def decode(data: bytes, kind: str, name: str, limit: int, page: int = 0) -> ImageFile:
    """Decode one image or page.

    Args:
        data: a whole file.
        kind: what `sniff` says of it.
        name: what to call it in messages.
        limit: refuse more pixels than this.
        page: of a TIFF, from 0.

    Raises:
        ImageFileError: if it is damaged or of an unsupported kind.
    """
    with _one_clear_line(name, kind):
        return _decode_bmp(data, name, limit) if kind == "bmp" else _decode_with_vips(data, kind, name, limit, page)


@contextlib.contextmanager
def _one_clear_line(name: str, kind: str) -> Iterator[None]:
    try:
        with interrupts_wait():
            yield
    except ImageFileError:
        raise
    except MemoryError as error:
        raise ImageFileError(f"{name}: not enough memory to decode it; cut it into smaller images") from error
    except Exception as error:  # pyvips.Error, and Pillow's parser raises a dozen built-in types on damaged files
        raise ImageFileError(
            f"{name}: expected a whole {kind.upper()} image, got one that is truncated, damaged or of an unsupported "
            f"kind ({last_line(error)}); get a fresh copy, or save it again as 8 or 16-bit PNG"
        ) from error


def _check_size(width: int, height: int, name: str, limit: int) -> None:
    if width * height > limit:
        raise ImageFileError(
            f"{name}: expected at most {limit:,} pixels, got {width} x {height}; cut it into smaller images"
        )


def _decode_with_vips(data: bytes, kind: str, name: str, limit: int, page: int) -> ImageFile:
    import pyvips

    directory = exif_blocks.tiff_directory(data, name, page) if kind == "tiff" else {}
    # 'truncated' lets half of a TIFF pass, and 'error' lets broken tiles pass as black; 'warning' everywhere would
    # refuse readable files for a stray byte or an unsorted tag.
    fail_on = "warning" if kind == "tiff" and (not directory or exif_blocks.TILE_WIDTH in directory) else "error"
    load = getattr(pyvips.Image, f"{kind}load_buffer")  # by name: no other of libvips' loaders ever sees the data
    options = {"page": page} if kind == "tiff" else {}
    image = load(data, access="sequential", fail_on=fail_on, **options)
    _check_size(image.width, image.height, name, limit)
    fields = {key: image.get(key) for key in _FIELDS if image.get_typeof(key)}
    _check_supported(fields, data, kind, directory, name)
    pixels = image.numpy()
    pixels = pixels.reshape((image.height, image.width, image.bands)[: 2 if image.bands == 1 else 3])
    if pixels.dtype == np.float32:
        check_float(pixels, name)

    exif = (
        exif_blocks.exif_from_tiff(directory)
        if kind == "tiff"
        else exif_blocks.clean_exif(fields.get("exif-data"), name)
    )
    xmp = fields.get("xmp-data")
    dpi = (image.xres * MM_PER_INCH, image.yres * MM_PER_INCH)
    unset = round(dpi[0], 1) in (72.0, MM_PER_INCH)  # libvips' stand-ins for a file without a resolution
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
    frames = 1 if kind == "tiff" else fields.get("n-pages", 1)
    if frames > 1 or (kind == "png" and b"acTL" in data[: data.find(b"IDAT")]):
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
    if samples not in VIPS_TYPES.values():
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
