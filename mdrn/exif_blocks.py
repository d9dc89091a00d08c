"""EXIF blocks, which are TIFF directories: taken out of a TIFF, put into one, and cleaned of orientation and thumbnail.

No library here writes EXIF into a 16-bit TIFF, so `image_decode` and `image_encode`, which alone import this module, do
it with these. A directory is read as {tag: (type, little-endian bytes of the value, or a nested directory)}.
"""

from __future__ import annotations

import contextlib
import struct
import warnings

import numpy as np

SUBFILE_TYPE, COMPRESSION, PHOTOMETRIC, _ORIENTATION, TILE_WIDTH = 254, 259, 262, 274, 322
DNG_VERSION = 50706
_NESTED = (34665, 34853, 40965)  # Exif, GPS, interoperability
# The tags of a TIFF's own directory that EXIF shares; all others describe its layout. Description, make, model;
# software, date, artist, computer; rating, copyright; title to subject as Windows writes them; the nested directories.
_ABOUT_THE_PICTURE = {270, 271, 272, 305, 306, 315, 316, 18246, 33432, *range(40091, 40096), *_NESTED[:2]}
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8}  # type -> bytes to swap together
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # first bytes -> byte order
_RATIONAL = (5, 10)  # types whose value is two units
_MAX_TAGS, _MAX_TAG_BYTES = 512, 2**18
_MALFORMED = (struct.error, ValueError, LookupError)


def _value_bytes(kind: int) -> int:
    return _UNITS[kind] * (2 if kind in _RATIONAL else 1)


def _read_directory(tiff: bytes, at: int | None = None, depth: int = 0) -> dict[int, tuple]:
    """Parse one directory of a classic TIFF of either byte order, skipping what is cut off or too big for EXIF."""
    order = _ORDERS[tiff[:4]]
    (at,) = struct.unpack_from(order + "I", tiff, 4) if at is None else (at,)
    (count,) = struct.unpack_from(order + "H", tiff, at)
    if count > _MAX_TAGS:
        raise ValueError(f"{count} tags")
    directory: dict[int, tuple] = {}
    for i in range(count):
        tag, kind, values, inline = struct.unpack_from(order + "HHI4s", tiff, at + 2 + 12 * i)
        (start,) = struct.unpack(order + "I", inline)
        if tag in _NESTED:
            with contextlib.suppress(*_MALFORMED):
                if depth < 2:
                    directory[tag] = (4, _read_directory(tiff, start, depth + 1))
            continue
        size = values * _value_bytes(kind) if kind in _UNITS else 0
        if not 0 < size <= _MAX_TAG_BYTES:
            continue
        value = inline[:size] if size <= 4 else tiff[start : start + size]
        if len(value) < size:
            continue
        swapped = np.frombuffer(value, f"{order}u{_UNITS[kind]}").astype(f"<u{_UNITS[kind]}")
        directory[tag] = (kind, swapped.tobytes())
    return directory


def _pack_directory(
    directory: dict[int, tuple], at: int, raw: dict[int, bytes] | None = None, page_at: int = 0, moved: int = 0
) -> bytes:
    """Lay out a little-endian directory for position `at`; `raw` holds finished entries that join it as they are.

    The page will be moved to `page_at` by someone who corrects the offsets in its own directory, but neither those of
    nested directories nor those in them, whose values are at `at + moved`.
    """
    entries = dict(raw or {})
    tail_at = at + 2 + 12 * len(entries.keys() | directory.keys()) + 4
    tail = b""
    for tag, (kind, value) in directory.items():
        if isinstance(value, dict):
            values, inline = 1, struct.pack("<I", tail_at + len(tail) + page_at)
            tail += _pack_directory(value, tail_at + len(tail), page_at=page_at, moved=page_at)
        else:
            values = len(value) // _value_bytes(kind)
            inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", tail_at + len(tail) + moved)
            tail += (value + b"\0" * (len(value) % 2)) if len(value) > 4 else b""
        entries[tag] = struct.pack("<HHI4s", tag, kind, values, inline)
    return struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + tail


def number(directory: dict[int, tuple], tag: int, default: int = 0) -> int:
    return int.from_bytes(directory[tag][1], "little") if tag in directory else default


def tiff_directory(data: bytes, name: str, page: int = 0) -> dict[int, tuple]:
    """Parse the directory of one page; what cannot be read is empty, with a warning."""
    try:
        at = _raw_entries(data)[1]
        for _ in range(page):
            (at,) = struct.unpack_from(_ORDERS[data[:4]] + "I", data, _raw_entries(data, at)[2] - 4)
        return _read_directory(data, at)
    except _MALFORMED as error:
        warnings.warn(f"{name}: its EXIF cannot be read (damaged, or a BigTIFF: {error}) and is dropped", stacklevel=2)
        return {}


def _about_the_picture(directory: dict[int, tuple]) -> dict[int, tuple]:
    return {tag: directory[tag] for tag in _ABOUT_THE_PICTURE & directory.keys()}


def exif_from_tiff(directory: dict[int, tuple]) -> bytes | None:
    kept = _about_the_picture(directory)
    return b"II*\0" + struct.pack("<I", 8) + _pack_directory(kept, 8) if kept else None


def add_exif(tiff: bytes, exif: bytes, page_at: int = 0) -> bytes:
    """Append a directory that has the old one's entries and those of `exif`, and make it the first.

    Args:
        tiff: a classic little-endian TIFF of one page.
        exif: the block.
        page_at: where in a larger file Pillow's `AppendingTiffWriter` will append this page.
    """
    try:
        if tiff[:4] != b"II*\0":
            raise ValueError("a file over 4 GB")
        extra = _about_the_picture(_read_directory(exif))
    except _MALFORMED as error:
        warnings.warn(f"TIFF cannot hold this EXIF ({error}), it is dropped", stacklevel=2)
        return tiff
    raw = _raw_entries(tiff)[3]
    tiff += b"\0" * (len(tiff) % 2)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + _pack_directory(extra, len(tiff), raw, page_at)


def _raw_entries(tiff: bytes, at: int | None = None) -> tuple[str, int, int, dict[int, bytes]]:
    """Return the byte order, start, end and 12-byte entries of a directory, by default the first."""
    order = _ORDERS[tiff[:4]]
    (at,) = struct.unpack_from(order + "I", tiff, 4) if at is None else (at,)
    (count,) = struct.unpack_from(order + "H", tiff, at)
    entries = (tiff[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12))
    return order, at, at + 2 + 12 * count + 4, {struct.unpack_from(order + "H", entry)[0]: entry for entry in entries}


def clean_exif(exif: bytes | None, name: str) -> bytes | None:
    """Take orientation and thumbnail (which shows the old pixels) out of an EXIF block, leaving all else in place."""
    if not exif:
        return None
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order, at, end, entries = _raw_entries(exif)
    except _MALFORMED as error:
        warnings.warn(f"{name}: its EXIF is damaged ({error}) and is dropped", stacklevel=2)
        return None
    entries.pop(_ORIENTATION, None)
    table = struct.pack(order + "H", len(entries)) + b"".join(entries.values())
    return exif[:at] + table.ljust(end - at, b"\0") + exif[end:]
