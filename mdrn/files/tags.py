"""TIFF directories, which EXIF blocks are too: taken out of a file, put into one, cleaned of orientation and preview.

No library here writes EXIF into a 16-bit TIFF, so reading and writing, which alone import this module, do it with
these. A directory is read as {tag: (type, little-endian bytes of the value, or a nested directory)}.
"""

import contextlib
import struct
import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from mdrn.files.formats import ImageFileError

SUBFILE_TYPE, COMPRESSION, PHOTOMETRIC, _ORIENTATION, TILE_WIDTH = 254, 259, 262, 274, 322
DNG_VERSION, EXTRA_SAMPLES = 50706, 338
_OLD_SUBFILE_TYPE, _SUB_DIRECTORIES, _LAYERS = 255, 330, 37724
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
RESOLUTION = (_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT)
_RESOLUTION_UNITS = {"none": 1, "inch": 2, "cm": 3}
_EXIF, _SIDES = 34665, {256: 257, 257: 256, 40962: 40963, 40963: 40962}  # width and height, in either directory
_COLOUR_SPACE, _INTEROPERABILITY, _IPTC = 40961, 40965, 33723
_NESTED = (_EXIF, 34853, _INTEROPERABILITY)  # Exif, GPS, interoperability
# The tags of a TIFF's own directory that EXIF shares. Description, make, model; software, date, artist, computer;
# rating, copyright; title to subject as Windows writes them; the nested directories.
_ABOUT_THE_PICTURE = {270, 271, 272, 305, 306, 315, 316, 18246, 33432, *range(40091, 40096), *_NESTED[:2]}
# Those that TIFF alone has. Document, page name, position and number; transfer function, white point, primaries; target
# printer; image id; IPTC, image resources; GeoTIFF and GDAL; ImageJ; Micro-Manager.
_TIFF_ALONE = {269, 285, 286, 287, 297, 301, 318, 319, 337, 32781, _IPTC, 34377, 33550, 33922, 34264}
_TIFF_ALONE |= {34735, 34736, 34737, 42112, 42113, 50838, 50839, 51123}
TRANSFER_FUNCTION = 301  # its length depends on the depth
COLOUR = (TRANSFER_FUNCTION, 318, 319)  # what says what the colours are
# Those that say how the old file was laid out or coded, or are kept elsewhere (XMP, profile).
_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289}
_LAYOUT |= {290, 291, 292, 293, 317, 320, *range(322, 326), 332, 336, 338, 339, 340, 341, 347, *range(512, 522)}
_LAYOUT |= {529, 530, 531, 532, 559, 700, 34675, *RESOLUTION}
_SINGLE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_RATIONAL = (5, 10)  # types whose value is two units; _SINGLE is the bytes of a unit, which are swapped together
_FORMATS = {  # first bytes -> byte order; of the offset to the first directory: its place; codes; bytes of an entry
    b"II*\0": ("<", 4, "I", "H", 12),
    b"MM\0*": (">", 4, "I", "H", 12),
    b"II+\0": ("<", 8, "Q", "Q", 20),
    b"MM\0+": (">", 8, "Q", "Q", 20),
}
_MAX_TAGS, _MAX_TAG_BYTES, _MAX_DIRECTORIES = 512, 2**20, 10_000
_MALFORMED = (struct.error, ValueError, LookupError)
Directory = Mapping[int, tuple[Any, ...]]


def _value_bytes(kind: int) -> int:
    return _SINGLE[kind] * (2 if kind in _RATIONAL else 1)


def _read_directory(tiff: bytes, at: int | None = None, depth: int = 0) -> dict[int, tuple[Any, ...]]:
    """Parse one directory of either byte order, skipping what is cut off or too big to be metadata."""
    order, at, _, entries = _raw_entries(tiff, at)
    word = "Q" if tiff[2:4] in (b"+\0", b"\0+") else "I"
    room = struct.calcsize(word)
    directory: dict[int, tuple[Any, ...]] = {}
    for tag, entry in entries.items():
        _, kind, values, inline = struct.unpack(f"{order}HH{word}{room}s", entry)
        (start,) = struct.unpack(order + word, inline)
        if tag in _NESTED:
            with contextlib.suppress(*_MALFORMED):
                if depth < 2:
                    directory[tag] = (4, _read_directory(tiff, start, depth + 1))
            continue
        size = values * _value_bytes(kind) if kind in _SINGLE else 0
        if not 0 < size <= _MAX_TAG_BYTES:
            continue
        value = inline[:size] if size <= room else tiff[start : start + size]
        if len(value) < size:
            continue
        swapped = np.frombuffer(value, f"{order}u{_SINGLE[kind]}").astype(f"<u{_SINGLE[kind]}")
        directory[tag] = (kind, swapped.tobytes())
    return directory


def _pack_directory(
    directory: Directory, at: int, raw: dict[int, bytes] | None = None, page_at: int = 0, moved: int = 0
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


def _raw_entries(tiff: bytes, at: int | None = None) -> tuple[str, int, int, dict[int, bytes]]:
    """Return the byte order, start, end and entries of a directory, by default the first."""
    order, place, offset, number, size = _FORMATS[tiff[:4]]
    (at,) = struct.unpack_from(order + offset, tiff, place) if at is None else (at,)
    (count,) = struct.unpack_from(order + number, tiff, at)
    if count > _MAX_TAGS:
        raise ValueError(f"{count} tags")
    first = at + struct.calcsize(number)
    entries = (tiff[start : start + size] for start in range(first, first + size * count, size))
    end = first + size * count + struct.calcsize(offset)
    return order, at, end, {struct.unpack_from(order + "H", entry)[0]: entry.ljust(size, b"\0") for entry in entries}


def number(directory: Directory, tag: int, default: int = 0) -> int:
    """Return the value of a tag that holds one whole number, or the first of several."""
    if tag not in directory or isinstance(directory[tag][1], dict):
        return default
    kind, value = directory[tag]
    return int.from_bytes(value[: _value_bytes(kind)], "little")


def tiff_directories(data: bytes, name: str) -> list[dict[int, tuple[Any, ...]]]:
    """Parse the directory of every page; what cannot be read ends the list, with a warning.

    Raises:
        ImageFileError: if the file ends within a directory.
    """
    found: list[dict[int, tuple[Any, ...]]] = []
    try:
        order, place, offset, _, _ = _FORMATS[data[:4]]
        (at,) = struct.unpack_from(order + offset, data, place)
        seen = set()
        while at and at not in seen and len(found) < _MAX_DIRECTORIES:
            seen.add(at)
            found.append(_read_directory(data, at))
            end = _raw_entries(data, at)[2]
            if end > len(data):
                raise ImageFileError(
                    f"{name}: expected a whole TIFF image, got one cut off at its end; get a fresh copy"
                )
            (at,) = struct.unpack_from(order + offset, data, end - struct.calcsize(offset))
    except ImageFileError:
        raise
    except _MALFORMED as error:
        warnings.warn(f"{name}: its metadata cannot be read to the end (damaged: {error})", stacklevel=2)
    return found


def is_reduced(directory: Directory) -> bool:
    """Return whether a page is a smaller copy of another, or a mask of one."""
    return bool(number(directory, SUBFILE_TYPE) & 0b101) or number(directory, _OLD_SUBFILE_TYPE) == 2


def is_camera_raw(directory: Directory) -> bool:
    """Return whether a TIFF is camera raw: it says so, or its first page is a preview of what its sub-pages hold."""
    colour_filter = number(directory, PHOTOMETRIC) in (32803, 34892)
    return DNG_VERSION in directory or colour_filter or is_reduced(directory) and _SUB_DIRECTORIES in directory


def read_resolution(directory: Directory) -> tuple[tuple[float, float] | None, str]:
    """Return the pixels per unit across and down, if both are there, and the unit."""
    values = []
    for tag in (_X_RESOLUTION, _Y_RESOLUTION):
        kind, value = directory.get(tag, (0, b""))
        if kind != 5 or len(value) < 8:
            return None, "inch"
        numerator, denominator = struct.unpack_from("<II", value)
        values.append(numerator / denominator if denominator else 0.0)
    units = {code: unit for unit, code in _RESOLUTION_UNITS.items()}
    across, down = values
    return (across, down) if across and down else None, units.get(number(directory, _RESOLUTION_UNIT, 2), "inch")


def exif_resolution(exif: bytes) -> tuple[tuple[float, float] | None, str]:
    """Return the resolution that an EXIF block gives."""
    with contextlib.suppress(*_MALFORMED):
        return read_resolution(_read_directory(exif))
    return None, "inch"


def resolution_tags(resolution: tuple[float, float], unit: str) -> dict[int, tuple[int, bytes]]:
    """Return what `read_resolution` reads."""
    found = {_RESOLUTION_UNIT: (3, struct.pack("<H", _RESOLUTION_UNITS[unit]))}
    for tag, value in zip((_X_RESOLUTION, _Y_RESOLUTION), resolution, strict=True):
        fraction = Fraction(min(value, 2**32 - 1)).limit_denominator(2**32 // (int(value) + 1) or 1)
        found[tag] = (5, struct.pack("<II", fraction.numerator, fraction.denominator))
    return found


def _about_the_picture(directory: Directory) -> dict[int, tuple[Any, ...]]:
    return {tag: directory[tag] for tag in _ABOUT_THE_PICTURE & directory.keys()}


def exif_from_tiff(directory: Directory) -> bytes | None:
    """Return what a TIFF's directory shares with EXIF as a block of its own."""
    kept = _about_the_picture(directory)
    return b"II*\0" + struct.pack("<I", 8) + _pack_directory(kept, 8) if kept else None


def tiff_tags(directory: Directory) -> tuple[dict[int, tuple[int, bytes]], list[str]]:
    """Return what a TIFF's directory holds besides, and the names of what is not kept."""
    kept = {tag: directory[tag] for tag in _TIFF_ALONE & directory.keys()}
    if _IPTC in kept:
        kept[_IPTC] = (7, _in_file_order(kept[_IPTC][1]))
    others = sorted(directory.keys() - _TIFF_ALONE - _ABOUT_THE_PICTURE - _LAYOUT - {*_NESTED})
    names = {_SUB_DIRECTORIES: "smaller copies", _LAYERS: "layers"}
    lost = [names.pop(tag) for tag in others if tag in names]
    private = [str(tag) for tag in others if tag not in (_SUB_DIRECTORIES, _LAYERS)]
    if number(directory, EXTRA_SAMPLES) == 1:
        lost.append("the premultiplication of its alpha")
    return kept, lost + ([f"private tags {', '.join(private)}"] if private else [])


def _in_file_order(iptc: bytes) -> bytes:
    """Return IPTC, which is bytes, from a tag that some programs write as 32-bit numbers of the file's byte order."""
    if iptc[:1] == b"\x1c" or len(iptc) % 4:
        return iptc
    turned = np.frombuffer(iptc, "<u4").byteswap().tobytes()
    return turned if turned[:1] == b"\x1c" else iptc


def colour_exif(exif: bytes | None) -> bytes | None:
    """Return the part of an EXIF block that says what the colours are, which cameras that use Adobe RGB say there."""
    with contextlib.suppress(*_MALFORMED):
        inner = _read_directory(exif or b"").get(_EXIF, (4, {}))[1]
        kept = {tag: inner[tag] for tag in (_COLOUR_SPACE, _INTEROPERABILITY) if tag in inner}
        if kept:
            return b"II*\0" + struct.pack("<I", 8) + _pack_directory({_EXIF: (4, kept)}, 8)
    return None


def rewrite_tags(tiff: bytes, exif: bytes | None, tags: Directory, page_at: int = 0) -> bytes:
    """Append a directory that has the old one's entries less the resolution, those of `exif` and `tags`; make it first.

    Args:
        tiff: a classic little-endian TIFF of one page.
        exif: an EXIF block.
        tags: further tags, which replace old ones.
        page_at: where in a larger file Pillow's `AppendingTiffWriter` will append this page.
    """
    if tiff[:4] != b"II*\0":
        if exif or tags:
            warnings.warn("TIFF file over 4 GB: not kept: EXIF, resolution and other tags", stacklevel=2)
        return tiff
    extra = dict(tags)
    try:
        extra |= _about_the_picture(_read_directory(exif)) if exif else {}
    except _MALFORMED as error:
        warnings.warn(f"TIFF cannot hold this EXIF ({error}), it is dropped", stacklevel=2)
    raw = {tag: entry for tag, entry in _raw_entries(tiff)[3].items() if tag not in RESOLUTION}
    at = len(tiff) + len(tiff) % 2
    directory = _pack_directory(extra, at, raw, page_at)
    return b"".join([tiff[:4], struct.pack("<I", at), memoryview(tiff)[8:], bytes(at - len(tiff)), directory])


def clean_exif(exif: bytes | None, name: str, turned: bool = False) -> bytes | None:
    """Take orientation and thumbnail (which shows the old pixels) out of an EXIF block, leaving all else in place.

    Args:
        exif: the block.
        name: what to call the file in a warning.
        turned: whether the image was turned by a quarter, so that its width and height are swapped.
    """
    if not exif:
        return None
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        if turned:
            exif = _with_sides_swapped(exif)
        order, at, end, entries = _raw_entries(exif)
    except _MALFORMED as error:
        warnings.warn(f"{name}: its EXIF is damaged ({error}) and is dropped", stacklevel=2)
        return None
    entries.pop(_ORIENTATION, None)
    table = struct.pack(order + "H", len(entries)) + b"".join(entries.values())
    return exif[:at] + table.ljust(end - at, b"\0") + exif[end:]


def _with_sides_swapped(exif: bytes) -> bytes:
    """Exchange width and height, in the first directory and in that of EXIF."""
    changed = bytearray(exif)
    order, at, _, entries = _raw_entries(exif)
    directories = [(at, entries)]
    if _EXIF in entries:
        with contextlib.suppress(*_MALFORMED):
            directories.append(_raw_entries(exif, struct.unpack_from(order + "I", entries[_EXIF], 8)[0])[1::2])
    for at, entries in directories:
        for index, tag in enumerate(entries):
            other = entries.get(_SIDES.get(tag, -1))
            if other:
                changed[at + 2 + 12 * index + 2 : at + 14 + 12 * index] = other[2:]
    return bytes(changed)
