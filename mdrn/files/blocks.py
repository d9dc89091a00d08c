"""The blocks of PNG and JPEG files that hold no pixels, and what to do with them: keep, or name as left out.

Reading and writing alone import this module. libvips and Pillow keep some blocks, rewrite others and lose the rest, so
what is to come back as it was is copied here, byte for byte.
"""

import re
import struct
import zlib
from collections.abc import Iterator

Block = tuple[bytes, bytes]  # kind: a PNG chunk's four letters, or a JPEG marker's one byte; content

COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_KEPT_CHUNKS = (*COLOUR_CHUNKS, b"tEXt", b"zTXt", b"iTXt", b"oFFs", b"sCAL", b"pCAL", b"sTER")
_OTHERWISE_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"iCCP", b"eXIf", b"pHYs")  # elsewhere, or as pixels
BACKGROUND = b"bKGD"  # in the units of the pixels
_XMP_CHUNK = b"XML:com.adobe.xmp\0"
_NAMES = {b"caBX": "content credentials", b"\xed": "IPTC", b"\xfe": "comment", BACKGROUND: "background colour"}
_NAMES |= {b"tIME": "time of the last change", b"sBIT": "significant bits", b"hIST": "histogram", b"sPLT": "palette"}
_NAMES |= dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), "text") | dict.fromkeys(COLOUR_CHUNKS, "colour chunks")

_HEIF_HEADER = 2**16  # bytes in which its boxes are looked for
_COMMENT, _APP1, _APP13, _END, _SCAN = 0xFE, 0xE1, 0xED, 0xD9, 0xDA
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_SEGMENTS = (  # marker, how it begins, what it is; None if it is kept elsewhere or says how the old file was coded
    (0xE0, b"", None),
    (_APP1, b"Exif\0", None),
    (_APP1, b"http://ns.adobe.com/xap/1.0/\0", None),
    (0xE2, b"ICC_PROFILE\0", None),
    (0xE2, b"MPF\0", "further images such as a preview or gain map"),
    (0xE2, b"urn:iso:std:iso:ts:21496", "gain map"),
    (0xEB, b"JP", "content credentials"),
    (0xEE, b"Adobe", None),
)
_NOT_IN_ENTROPY = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_XMP_OF_OTHER_IMAGES = {  # namespace -> properties that announce an image or video that the result does not hold
    rb"http://ns.adobe.com/hdr-gain-map/1.0/": rb"\w+",
    rb"http://ns.apple.com/HDRGainMap/1.0/": rb"\w+",
    rb"http://ns.google.com/photos/1.0/container/": rb"\w+",
    rb"http://ns.google.com/photos/1.0/camera/": rb"(?:MotionPhoto|MicroVideo)\w*",
}


def block_name(kind: bytes) -> str:
    """Return what to call a kind of block in a message."""
    return _NAMES.get(kind) or (kind.decode("latin-1") if len(kind) == 4 else f"APP{kind[0] - 0xE0}")


def png_chunks(data: bytes) -> Iterator[Block]:
    """Yield the chunks of a PNG as far as it is whole."""
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def read_png_blocks(data: bytes) -> tuple[tuple[Block, ...], list[str]]:
    """Return the chunks to keep, and the names of what is not kept."""
    kept, lost = [], []
    palette = data[25:26] == b"\3"  # the colour type; these come back as RGB
    for kind, content in png_chunks(data):
        if kind in _OTHERWISE_KEPT or content.startswith(_XMP_CHUNK):
            continue
        safe_to_copy = kind.isalpha() and kind[0] & 32 and kind[3] & 32  # by PNG's rule for chunks nobody knows
        if kind in _KEPT_CHUNKS or kind == BACKGROUND and not palette or safe_to_copy and kind not in _NAMES:
            kept.append((kind, content))
        else:
            lost.append(block_name(kind))
    return tuple(kept), list(dict.fromkeys(lost))


def add_png_blocks(png: bytes, blocks: list[Block]) -> bytes:
    """Return a PNG with these chunks after its header, and without its own resolution."""
    at, before = 8, []
    while png[at + 4 : at + 8] != b"IDAT":
        end = at + 12 + struct.unpack_from(">I", png, at)[0]
        if png[at + 4 : at + 8] != b"pHYs":
            before.append(png[at:end])
        at = end
    added = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in blocks
    ]
    return b"".join([png[:8], before[0], *added, *before[1:], memoryview(png)[at:]])


def read_jpeg_blocks(data: bytes) -> tuple[tuple[Block, ...], list[str]]:
    """Return the segments to keep, and the names of what is not kept, also of what follows the image."""
    kept: list[Block] = []
    lost: list[str | None] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _END:
            lost += _after_the_image(data[at + 2 :])
            break
        if marker == 0xFF:  # filling
            at += 1
            continue
        (size,) = struct.unpack_from(">H", data, at + 2)
        content = data[at + 4 : at + 2 + size]
        at += 2 + size
        if marker == _SCAN:
            found = _NOT_IN_ENTROPY.search(data, at)
            at = found.start() if found else len(data)
        elif marker in (_COMMENT, _APP13) or marker == _APP1 and content.startswith(_EXTENDED_XMP):
            content = _without_preview(content) if marker == _APP13 else content
            kept.append((bytes([marker]), content))
        elif 0xE0 <= marker <= 0xEF:
            start = (what for number, begins, what in _SEGMENTS if number == marker and content.startswith(begins))
            lost.append(next(start, f"private data (APP{marker - 0xE0})"))
    return tuple(kept), [what for what in dict.fromkeys(lost) if what]


def add_jpeg_blocks(jpeg: bytes, blocks: list[Block]) -> bytes:
    """Return a JPEG with these segments behind those that it begins with."""
    at = 2
    while jpeg[at] == 0xFF and 0xE0 <= jpeg[at + 1] <= 0xEF:
        at += 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
    added = (b"\xff" + kind + struct.pack(">H", len(content) + 2) + content for kind, content in blocks)
    return b"".join([jpeg[:at], *added, memoryview(jpeg)[at:]])


def _after_the_image(rest: bytes) -> list[str]:
    rest = rest.strip(b"\0\xff")
    if len(rest) < 16:
        return []
    if b"ftyp" in rest and not rest.startswith(b"\xd8\xff"):
        return ["motion video"]
    return ["further images such as a preview or gain map" if rest[:1] == b"\xd8" else "data after the image"]


def _without_preview(resources: bytes) -> bytes:
    """Take the preview, which shows the old pixels, out of Photoshop's image resources."""
    prefix = b"Photoshop 3.0\0"
    begins = len(prefix) if resources.startswith(prefix) else 0
    kept, at = [resources[:begins]], begins
    while resources[at : at + 4] == b"8BIM" and at + 7 <= len(resources):
        name_ends = at + 6 + (resources[at + 6] // 2 + 1) * 2
        if name_ends + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">I", resources, name_ends)
        end = name_ends + 4 + size + size % 2
        if resources[at + 4 : at + 6] not in (b"\x04\x09", b"\x04\x0c"):
            kept.append(resources[at:end])
        at = end
    return b"".join(kept) + resources[at:]


def clean_xmp(xmp: bytes | None) -> tuple[bytes | None, list[str]]:
    """Take out what says how to turn the image, and what announces images or videos that the result does not hold."""
    if not xmp:
        return None, []
    cleaned = re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", xmp)
    turned = cleaned
    for namespace, properties in _XMP_OF_OTHER_IMAGES.items():
        for prefix in set(re.findall(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']", xmp)):
            name = prefix + rb":" + properties
            cleaned = re.sub(rb"\s" + name + rb"\s*=\s*(\"[^\"]*\"|'[^']*')", b"", cleaned)
            cleaned = re.sub(rb"<(" + name + rb")(?:\s[^>]*)?(?:/>|(?<!/)>.*?</\1\s*>)\s*", b"", cleaned, flags=re.S)
    return cleaned, ["what its XMP says of a gain map or motion video"] if cleaned != turned else []


def png_resolution(data: bytes) -> tuple[tuple[float, float] | None, str]:
    for kind, content in png_chunks(data):
        if kind == b"pHYs" and len(content) == 9:
            across, down, unit = struct.unpack(">IIB", content)
            scale = 100 if unit == 1 else 1  # pixels per metre
            return ((across / scale, down / scale) if across and down else None), "cm" if unit == 1 else "none"
        if kind == b"IDAT":
            break
    return None, "inch"


def jpeg_resolution(data: bytes) -> tuple[tuple[float, float] | None, str]:
    """Read JFIF's density; 1 x 1 without a unit says nothing."""
    if data[2:4] != b"\xff\xe0" or data[6:11] != b"JFIF\0" or len(data) < 20:
        return None, "inch"
    unit, across, down = struct.unpack_from(">BHH", data, 13)
    if not (across and down and unit < 3) or (unit, across, down) == (0, 1, 1):
        return None, "inch"
    return (float(across), float(down)), ("none", "inch", "cm")[unit]


def read_heif_blocks(data: bytes) -> tuple[tuple[Block, ...], list[str]]:
    """Return a colour description by code points as PNG has it, unless it is that of sRGB."""
    at = data[:_HEIF_HEADER].find(b"colrnclx")
    if at < 0 or at + 15 > len(data):
        return (), []
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    plain = primaries in (1, 2) and transfer in (1, 2, 6, 13)
    return () if plain or max(primaries, transfer) > 255 else ((b"cICP", bytes((primaries, transfer, 0, 1))),), []
