"""The bytes of an image file to pixels and metadata; the codec libraries are imported when called.

Pillow reads BMP. For the others libvips (pyvips) reads what Pillow cannot hold (16-bit RGB, grey with alpha, float
TIFF) and refuses damaged files.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mdrn.files import blocks, formats, tags
from mdrn.files.formats import ImageFile, ImageFileError

MAX_PIXELS = 500_000_000  # default limit of all pages of a file together: 1.5 GB as 8-bit RGB

_FIELDS = ["interpretation", "bands", "format", "n-pages", "orientation", "bits-per-sample", "heif-compression"]
_FIELDS += ["exif-data", "icc-profile-data", "xmp-data"]
_TIFF_COMPRESSIONS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits"}
_BLOCKS = {"png": blocks.read_png_blocks, "jpeg": blocks.read_jpeg_blocks, "heif": blocks.read_heif_blocks}
_RESOLUTIONS = {"png": blocks.png_resolution, "jpeg": blocks.jpeg_resolution}
# EXIF orientation -> steps through rows and columns, which 5 to 8 swap first
_STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}


@dataclass(frozen=True, eq=False)
class Pages:
    """The pages of a file, decoded one at a time as they are iterated over; one but for some TIFFs."""

    name: str
    kind: str
    max_pixels: int
    _data: bytes = field(repr=False)
    _numbers: tuple[int, ...]  # in the file, which may also hold smaller copies of its pages
    _directories: Sequence[tags.Directory] = field(repr=False)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def format(self) -> str:
        """What they are written back as."""
        return "png" if self.kind == "heif" else self.kind

    def __iter__(self) -> Iterator[ImageFile]:
        left = self.max_pixels
        for index, number in enumerate(self._numbers):
            name = self.name if len(self) == 1 else f"{self.name}, page {index + 1} of {len(self)}"
            directory = self._directories[number] if number < len(self._directories) else {}
            with _one_clear_line(name, self.kind):
                if self.kind == "bmp":
                    image = _decode_bmp(self._data, name, left)
                else:
                    image = _decode_with_vips(self._data, self.kind, name, left, number, directory)
            left -= image.pixels.shape[0] * image.pixels.shape[1]
            yield image


def open_pages(source: str | Path | bytes, *, max_pixels: int | None = None) -> Pages:
    """Open a file that may have several pages; see `read_image` for what each page comes back as.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse more pixels than this, all pages together; None means `MAX_PIXELS`.

    Raises:
        ImageFileError: if it is missing, empty or in no format that is read; iterating raises it for damaged pages.

    Example:
        >>> from mdrn.files import encode_pages
        >>> pixels = np.zeros((2, 3), np.uint8)
        >>> [page.pixels.shape for page in open_pages(encode_pages([pixels, pixels.T], "tiff"))]
        [(2, 3), (3, 2)]
    """
    name = "image data" if isinstance(source, bytes) else str(source)
    with formats.readable_errors(name, "check the path, and that it is a file you may read"):
        data, kind = _read_source(source, name)
    numbers, directories = _list_pages(data, name) if kind == "tiff" else ((0,), [])
    return Pages(name, kind, MAX_PIXELS if max_pixels is None else max_pixels, data, numbers, directories)


def read_image(source: str | Path | bytes, *, max_pixels: int | None = None) -> ImageFile:
    """Read one image, upright, at its own bit depth.

    Palettes and 1, 2 and 4-bit grey come back as 8 bits, half floats as float32, 10 and 12-bit AVIF as 16 bits. What
    the file holds and the result will not is named in one warning.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse more pixels than this, by the header, before decoding; None means `MAX_PIXELS`.

    Raises:
        ImageFileError: for whatever is not one whole grey or RGB image in a format that is read: missing, empty or
            damaged files, several pages or frames, CMYK or Lab, camera raw, float values outside [0, 1].

    Example:
        >>> from mdrn.files import encode_image
        >>> data = encode_image(np.full((2, 3), 40_000, np.uint16), "png")
        >>> read_image(data).pixels.dtype
        dtype('uint16')
    """
    pages = open_pages(source, max_pixels=max_pixels)
    if len(pages) > 1:
        raise ImageFileError(
            f"{pages.name}: expected one page, got a TIFF of {len(pages)} pages; save each page as its own file"
        )
    return next(iter(pages))


def format_of(path: str | Path) -> str | None:
    """Return what a file would be written back as, by its content; None if it cannot be read or is no image."""
    try:
        with Path(path).open("rb") as file:
            kind = formats.sniff(file.read(formats.START), str(path))
    except (OSError, ValueError):
        return None
    return "png" if kind == "heif" else kind


def _read_source(source: str | Path | bytes, name: str) -> tuple[bytes, str]:
    """Return the bytes and what their first ones announce; foreign files are not read to the end."""
    if isinstance(source, bytes):
        return source, formats.sniff(source, name)
    path = Path(source)
    if path.is_dir():
        raise ImageFileError(f"{name}: expected an image file, got a folder; name one image")
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{name}: expected an image file, got a device or pipe; save it to a file first")
    with path.open("rb") as file:
        kind = formats.sniff(file.read(formats.START), name)
        file.seek(0)
        return file.read(), kind


def _list_pages(data: bytes, name: str) -> tuple[tuple[int, ...], Sequence[tags.Directory]]:
    """Return the numbers of a TIFF's pages, less the smaller copies of others, and the directories of all."""
    with _one_clear_line(name, "tiff"):
        import pyvips

        count = pyvips.Image.tiffload_buffer(data).get("n-pages")
    directories = tags.tiff_directories(data, name)
    if directories and tags.is_camera_raw(directories[0]):
        raise ImageFileError(f"{name}: expected a TIFF image, got camera raw; develop it to TIFF first")
    reduced = [number for number, directory in enumerate(directories[:count]) if tags.is_reduced(directory)]
    whole = tuple(number for number in range(count) if number not in reduced)
    if not whole:
        raise ImageFileError(f"{name}: expected a TIFF image, got a preview alone; open the file it was made from")
    if reduced:
        warnings.warn(f"{name}: not kept: {len(reduced)} smaller copies or masks of its pages", stacklevel=3)
    return whole, directories


@contextlib.contextmanager
def _one_clear_line(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except ImageFileError:
        raise
    except MemoryError as error:
        raise ImageFileError(f"{name}: not enough memory to decode it; cut it into smaller images") from error
    except Exception as error:  # pyvips.Error, and Pillow's parser raises a dozen built-in types on damaged files
        if kind == "heif":
            raise ImageFileError(
                f"{name}: expected an AVIF or HEIC image that libvips can decode here, got one that it cannot "
                f"({formats.last_line(error)}); convert it to PNG, for example with heif-convert or ImageMagick"
            ) from error
        raise ImageFileError(
            f"{name}: expected a whole {kind.upper()} image, got one that is truncated, damaged or of an unsupported "
            f"kind ({formats.last_line(error)}); get a fresh copy, or save it again as 8 or 16-bit PNG"
        ) from error


def _check_size(width: int, height: int, name: str, limit: int) -> None:
    if width * height > limit:
        raise ImageFileError(
            f"{name}: expected at most {limit:,} pixels, got {width} x {height}; cut it into smaller images"
        )


def _decode_with_vips(data: bytes, kind: str, name: str, limit: int, page: int, directory: tags.Directory) -> ImageFile:
    import pyvips

    # 'truncated' lets half of a TIFF pass, and 'error' lets broken tiles pass as black; 'warning' everywhere would
    # refuse readable files for a stray byte or an unsorted tag.
    fail_on = "warning" if kind == "tiff" and (not directory or tags.TILE_WIDTH in directory) else "error"
    load = getattr(pyvips.Image, f"{kind}load_buffer")  # by name: no other of libvips' loaders ever sees the data
    options = {"page": page} if kind == "tiff" else {}
    image = load(data, access="sequential", fail_on=fail_on, **options)
    _check_size(image.width, image.height, name, limit)
    fields = {key: image.get(key) for key in _FIELDS if image.get_typeof(key)}
    _check_supported(fields, data, kind, directory, name)
    pixels = image.numpy()
    pixels = pixels.reshape((image.height, image.width, image.bands)[: 2 if image.bands == 1 else 3])
    if pixels.dtype == np.float32:
        formats.check_float(pixels, name)
    if kind == "heif":
        pixels = _over_whole_range(pixels, fields.get("bits-per-sample", 8))
    return _with_metadata(pixels, fields, data, kind, directory, name)


def _with_metadata(
    pixels: np.ndarray, fields: dict[str, Any], data: bytes, kind: str, directory: tags.Directory, name: str
) -> ImageFile:
    """Turn the pixels upright, add the metadata, and say in one warning what the file holds that is not kept."""
    orientation = 1 if kind == "heif" else fields.get("orientation", 1)
    turned = 5 <= orientation <= 8
    rows, columns = _STEPS.get(orientation, (1, 1))
    pixels = np.ascontiguousarray((pixels.swapaxes(0, 1) if turned else pixels)[::rows, ::columns])
    xmp, lost = blocks.clean_xmp(fields.get("xmp-data"))
    kept: tuple[tuple[bytes, bytes], ...] = ()
    alone: Mapping[int, tuple[int, bytes]] = {}
    if kind == "tiff":
        exif = tags.exif_from_tiff(directory)
        alone, lost_here = tags.tiff_tags(directory)
        resolution, unit = tags.read_resolution(directory)
    else:
        exif = tags.clean_exif(fields.get("exif-data"), name, turned)
        kept, lost_here = _BLOCKS[kind](data) if kind in _BLOCKS else ((), [])
        resolution, unit = _RESOLUTIONS[kind](data) if kind in _RESOLUTIONS else (None, "inch")
        if resolution is None and exif and kind == "jpeg":
            resolution, unit = tags.exif_resolution(exif)
    lost = list(dict.fromkeys(lost_here + lost))
    if lost:
        warnings.warn(f"{name}: not kept: {', '.join(lost)}", stacklevel=6)
    compression = _TIFF_COMPRESSIONS.get(tags.number(directory, tags.COMPRESSION)) if directory else None
    return ImageFile(
        pixels=pixels,
        format="png" if kind == "heif" else kind,
        icc=fields.get("icc-profile-data"),
        exif=exif,
        xmp=xmp,
        resolution=resolution[::-1] if resolution and turned else resolution,
        resolution_unit=unit,
        compression=compression,
        alpha=pixels.shape[2:] not in ((2,), (4,)) or not directory or tags.number(directory, tags.EXTRA_SAMPLES) != 0,
        blocks=kept,
        tags=alone,
    )


def _over_whole_range(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Stretch what libvips has shifted to the top of 16 bits, so that white is white."""
    if pixels.dtype != np.uint16 or not 8 < bits < 16:
        return pixels
    white = 2**bits - 1
    values = pixels.astype(np.uint32) >> (16 - bits)
    stretched: np.ndarray = (values * 65535 + white // 2) // white
    return stretched.astype(np.uint16)


def _check_supported(fields: dict[str, Any], data: bytes, kind: str, directory: tags.Directory, name: str) -> None:
    """Refuse what libvips reads but this package would misread: frames, other colour spaces, other sample types."""
    frames = 1 if kind in ("tiff", "heif") else fields.get("n-pages", 1)
    if frames > 1 or data[4:12] == b"ftypavis" or (kind == "png" and b"acTL" in data[: data.find(b"IDAT")]):
        raise ImageFileError(f"{name}: expected a still image, got an animation; save each frame as its own file")
    if kind == "png" and data.rfind(b"\0\0\0\0IEND\xaeB`\x82") < 0:  # libvips accepts this if the pixels are there
        raise ImageFileError(f"{name}: expected a whole PNG image, got one cut off at its end; get a fresh copy")
    space, bands, samples = fields["interpretation"], fields["bands"], fields["format"]
    if space == "cmyk":
        raise ImageFileError(
            f"{name}: expected grey or RGB, got CMYK; convert to RGB first, for example with ImageMagick: "
            "magick in.jpg -profile sRGB.icc out.png"
        )
    if samples not in formats.VIPS_TYPES.values():
        raise ImageFileError(
            f"{name}: expected unsigned 8 or 16-bit or 32-bit float samples, got {samples}; convert to one of them"
        )
    grey = space in ("b-w", "grey16")
    if not grey and space not in ("srgb", "rgb16", "scrgb") or bands not in ((1, 2) if grey else (3, 4)):
        raise ImageFileError(
            f"{name}: expected grey or RGB, with or without alpha, got {bands} channels of colour space {space!r}; "
            "convert to RGB, or save each channel as its own grey file"
        )
    if samples == "float" and tags.number(directory, tags.PHOTOMETRIC, 1) == 0:  # libvips does not invert these
        raise ImageFileError(f"{name}: expected float TIFF with black as 0, got white as 0; save it as MinIsBlack")


def _decode_bmp(data: bytes, name: str, limit: int) -> ImageFile:
    from PIL import BmpImagePlugin, Image

    image: Image.Image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))  # not Image.open: its pixel limit is global
    _check_size(*image.size, name, limit)
    dpi = image.info.get("dpi")
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return ImageFile(np.array(image), "bmp", resolution=dpi if dpi and min(dpi) > 1 else None)
