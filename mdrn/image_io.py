"""Files to arrays and back with nothing lost on the way: depth, alpha, pages, colour profile, EXIF, XMP, resolution.

For the command line and the demo; `image_decode` and `image_encode` do the formats, and import their codec libraries
only when called.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mdrn import image_decode, image_encode
from mdrn.image_file import SUFFIXES, ImageFile, ImageFileError

__all__ = ["MAX_PIXELS", "SUFFIXES", "ImageFile", "ImageFileError", "Pages", "check_target", "encode_image"]
__all__ += ["encode_pages", "open_pages", "read_image", "write_image", "write_pages"]

MAX_PIXELS = 500_000_000  # default limit of all pages of a file together: 1.5 GB as 8-bit RGB


@dataclass(frozen=True, eq=False)
class Pages:
    """The pages of a file, decoded one at a time as they are iterated over; one but for some TIFFs."""

    name: str
    format: str
    count: int
    max_pixels: int
    _data: bytes = field(repr=False)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ImageFile]:
        left = self.max_pixels
        for page in range(self.count):
            name = self.name if self.count == 1 else f"{self.name}, page {page + 1} of {self.count}"
            image = image_decode.decode(self._data, self.format, name, left, page)
            left -= image.pixels.shape[0] * image.pixels.shape[1]
            yield image


def open_pages(source: str | Path | bytes, *, max_pixels: int | None = None) -> Pages:
    """Open a file that may have several pages; see `read_image` for what each page comes back as.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse more pixels than this, all pages together; None means `MAX_PIXELS`.

    Raises:
        ImageFileError: if it is missing, empty or in no format of `SUFFIXES`; iterating raises it for damaged pages.

    Example:
        >>> pixels = np.zeros((2, 3), np.uint8)
        >>> [page.pixels.shape for page in open_pages(encode_pages([pixels, pixels.T], "tiff"))]
        [(2, 3), (3, 2)]
    """
    name = "image data" if isinstance(source, bytes) else str(source)
    with _readable_errors(name, "check the path, and that it is a file you may read"):
        data, kind = _read_source(source, name)
    count = image_decode.count_pages(data, kind, name)
    return Pages(name, kind, count, MAX_PIXELS if max_pixels is None else max_pixels, data)


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
    pages = open_pages(source, max_pixels=max_pixels)
    if len(pages) > 1:
        raise ImageFileError(
            f"{pages.name}: expected one page, got a TIFF of {len(pages)} pages; save each page as its own file"
        )
    return next(iter(pages))


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
    write_pages(path, [pixels], [like] if like else None, keep_metadata=keep_metadata, overwrite=overwrite)


def write_pages(
    path: str | Path,
    pages: Iterable[np.ndarray],
    like: Iterable[ImageFile] | None = None,
    *,
    keep_metadata: bool = True,
    overwrite: bool = False,
) -> None:
    """Write the pages of a TIFF, or the one of any file: `write_image` for several, which may differ in every way."""
    kind = check_target(path, overwrite=overwrite)
    data = encode_pages(pages, kind, like, keep_metadata=keep_metadata)
    with _readable_errors(str(path), "check that the folder exists, is writable and has free space"):
        _write_whole(Path(os.path.realpath(path)), data)  # through a symbolic link instead of replacing it


def check_target(path: str | Path, like: ImageFile | None = None, pages: int = 1, *, overwrite: bool = False) -> str:
    """Return the format that a path names, if an image can be written there: to know it before the work is done.

    Args:
        path: where to write; folders that are missing may be made later.
        like: an image of the kind that will be written.
        pages: how many.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageFileError: if the name, the place or the kind of image does not fit.
    """
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise ImageFileError(f"{path}: expected a name ending in {', '.join(SUFFIXES)}; rename the output")
    with _readable_errors(str(path), "check that the folder exists, is writable and has free space"):
        target = Path(path)
        if target.is_dir():
            raise ImageFileError(f"{path}: expected a file name, got a folder; add a file name")
        if target.exists() and not overwrite:
            raise ImageFileError(f"{path}: exists already; choose another name or allow overwriting")
        folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ImageFileError(f"{path}: {folder} is no folder, or a read-only one; choose another place")
    if like:
        image_encode.check_can_hold(like.pixels, kind, pages)
    return kind


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
    return encode_pages([pixels], format, [like] if like else None, keep_metadata=keep_metadata)


def encode_pages(
    pages: Iterable[np.ndarray], format: str, like: Iterable[ImageFile] | None = None, *, keep_metadata: bool = True
) -> bytes:
    """Encode several images as the pages of a TIFF: `encode_image` for each, of whatever size and depth."""
    pages = list(pages)
    like = list(like) if like is not None else [ImageFile(pixels, format) for pixels in pages]
    kept = like if keep_metadata else [replace(each, exif=None, xmp=None, dpi=None) for each in like]
    return image_encode.encode(list(zip(pages, kept, strict=True)), format)


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
        return source, image_decode.sniff(source, name)
    path = Path(source)
    if path.is_dir():
        raise ImageFileError(f"{name}: expected an image file, got a folder; name one image")
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{name}: expected an image file, got a device or pipe; save it to a file first")
    with path.open("rb") as file:
        kind = image_decode.sniff(file.read(32), name)
        file.seek(0)
        return file.read(), kind


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
