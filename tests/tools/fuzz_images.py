"""Thousands of damaged image files against the reader: no crash, no hang, every refusal one line.

    python -m tests.tools.fuzz_images --count 10000

A child process decodes (libvips and Pillow are native code: a crash there would take the whole program along); it is
started again when it dies or takes too long. What went wrong is printed with the seed that makes the file again and,
with --keep FOLDER, written there. Exit code 0: nothing went wrong. `tests/files/test_adversity.py` runs a few hundred.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from image_files import pillow, tiff

from mdrn.files import ImageFile, ImageFileError, encode_image, encode_pages, open_pages

TIME_LIMIT = 10.0  # seconds for one file
MEMORY_LIMIT = 4 * 2**30  # bytes of address space of the child beyond what it starts with
MAX_PIXELS = 20_000_000
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, 255 * 256)


_TAGS = [(33723, 4, 3, (0x1C027800, 1, 2), True), (33550, 12, 3, (1.0, 1.0, 0.0), True), (65000, 3, 1, 7, True)]
_CHUNKS = ((b"gAMA", b"\0\1\x86\xa0"), (b"tEXt", b"Author\0Someone"), (b"cICP", bytes((9, 16, 0, 1))))
_SEGMENTS = ((b"\xfe", b"by me"), (b"\xed", b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\4abcd8BIM\4\x0c\0\0\0\0\0\2ab"))
_GAIN_MAP = b'<x xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"><hdrgm:Map>1</hdrgm:Map></x>'


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file: 'read', 'refused', or one of the failures 'crash', 'hang', 'leak' and 'lines'."""

    kind: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.kind not in ("read", "refused")


def whole_files() -> list[bytes]:
    """Return one small file of each kind that is read, with metadata where it can hold any."""
    values = np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3) + np.random.default_rng(0).normal(0, 9, (64, 48, 3))
    rgb = np.clip(values, 0, 255).astype(np.uint8)
    grey, deep = np.ascontiguousarray(rgb[..., 0]), rgb * np.uint16(257)
    picture, exif = Image.fromarray(rgb), Image.Exif()
    exif[271], exif[274], exif[34665], exif[34853] = (
        "Camera",
        6,
        {36867: "2020:01:02 03:04:05"},
        {1: "N", 2: (4.0, 5.0)},
    )
    block, xmp = exif.tobytes(), b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    like = ImageFile(rgb, "tiff", exif=block.removeprefix(b"Exif\0\0"), xmp=xmp, resolution=(300.0, 300.0))
    second = {"save_all": True, "append_images": [Image.fromarray(255 - rgb)]}
    return [
        *(encode_image(pixels, "png", like) for pixels in (grey, rgb, deep, np.dstack([rgb, grey]))),
        pillow(picture.quantize(16), "PNG", transparency=3),
        pillow(picture, "PNG", **second),
        encode_image(rgb, "jpeg", like),
        encode_image(grey, "jpeg"),
        pillow(picture, "JPEG", progressive=True, exif=like.exif),
        pillow(picture.convert("CMYK"), "JPEG"),
        encode_image(rgb, "webp", like),
        pillow(picture, "WEBP", exif=block),
        pillow(picture, "WEBP", **second),
        *(encode_image(pixels, "bmp") for pixels in (grey, rgb)),
        pillow(picture.convert("1"), "BMP"),
        *(encode_image(pixels, "tiff", like) for pixels in (grey, rgb, deep, rgb / np.float32(255))),
        encode_pages([rgb, deep, grey], "tiff", [like] * 3),
        *(tiff(deep, photometric="rgb", compression=name) for name in ("lzw", "zlib", "packbits")),
        tiff(rgb, photometric="rgb", compression="jpeg", rowsperstrip=16),
        tiff(deep, photometric="rgb", tile=(32, 32), compression="lzw"),
        tiff(rgb, photometric="rgb", tile=(32, 32), bigtiff=True, byteorder=">"),
        tiff(np.stack([grey] * 4), photometric="minisblack", imagej=True),
        pillow(picture.convert("1"), "TIFF", compression="group4"),
        tiff(np.dstack([rgb, grey]), photometric="rgb", extrasamples=["unspecified"], extratags=_TAGS, byteorder=">"),
        encode_image(
            rgb, "png", ImageFile(rgb, "png", blocks=_CHUNKS, resolution=(10.0, 10.0), resolution_unit="none")
        ),
        encode_image(rgb, "jpeg", ImageFile(rgb, "jpeg", blocks=_SEGMENTS, xmp=_GAIN_MAP)) + encode_image(grey, "jpeg"),
        *(pillow(image, "AVIF", exif=block, xmp=xmp) for image in (picture, picture.convert("L"))),
    ]


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return a file with some bytes changed, moved, cut off, repeated or taken from another."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        near_start = rng.random() < 0.6  # where the headers are
        at = rng.randrange(max(1, min(len(damaged), 400) if near_start else len(damaged)))
        length = rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(8):
            case 0:
                damaged[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                if at < len(damaged):
                    damaged[at] ^= 1 << rng.randrange(8)
            case 2:
                size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
                damaged[at : at + size] = (rng.choice(INTERESTING) % 256**size).to_bytes(size, order)
            case 3:
                del damaged[at:]
            case 4:
                del damaged[at : at + length]
            case 5:
                damaged[at:at] = rng.randbytes(length)
            case 6:
                damaged[at:at] = damaged[at : at + length] * rng.choice((1, 2, 100))
            case 7:
                other = rng.choice(others)
                damaged[at:] = other[rng.randrange(len(other)) :]
    return bytes(damaged)


def make(seed: int, whole: list[bytes]) -> bytes:
    """Make the file of one seed again."""
    rng = random.Random(seed)
    return mutate(rng.choice(whole), rng, whole)


def read(data: bytes) -> Outcome:
    """Read all pages of a file as the command line does, and judge how that ended."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for page in open_pages(data, max_pixels=MAX_PIXELS):
                page.pixels.sum()
                for format in {"tiff", page.format}:  # what is carried over must be fit to be written
                    if format != "bmp":
                        encode_image(page.pixels, format, page)
    except ImageFileError as error:
        text = str(error)
        return Outcome("lines", repr(text)) if "\n" in text or not text else Outcome("refused", text)
    except BaseException as error:
        return Outcome("leak", f"{type(error).__name__}: {error}")
    return Outcome("read")


def _child(pipe: Connection) -> None:
    if sys.platform == "linux":  # a file that asks for all memory is refused here, instead of taking the machine along
        import resource

        open_pages(whole_files()[0])  # the libraries are mapped before the limit is
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_LIMIT, now + MEMORY_LIMIT))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("ready")
    while (data := pipe.recv_bytes()) != b"":
        outcome = read(data)
        pipe.send((outcome.kind, outcome.detail))


class Reader:
    """A child process that reads files and is replaced when it dies or hangs."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # ready: starting it is not part of a file's time

    def read(self, data: bytes) -> Outcome:
        """Read one file, within the time limit whatever happens."""
        if not data:
            return read(data)
        try:
            self._pipe.send_bytes(data)
            if self._pipe.poll(TIME_LIMIT):
                return Outcome(*self._pipe.recv())
            outcome = Outcome("hang", f"over {TIME_LIMIT:g} s")
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            outcome = Outcome("crash", signal.Signals(-code).name if code and code < 0 else f"exit code {code}")
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def fuzz(count: int, first_seed: int = 0, keep: Path | None = None, say=print) -> tuple[Counter, list[int]]:
    """Read `count` damaged files.

    Returns:
        How many ended how, and the seeds of those that failed.
    """
    whole, reader, ends, failures, slowest = whole_files(), Reader(), Counter(), [], 0.0
    try:
        for data in whole:  # whole, they are read, or refused for what they are
            assert not reader.read(data).failed
        for seed in range(first_seed, first_seed + count):
            data = make(seed, whole)
            began = time.monotonic()
            outcome = reader.read(data)
            slowest = max(slowest, time.monotonic() - began)
            ends[outcome.kind] += 1
            if outcome.failed:
                failures.append(seed)
                say(f"seed {seed}: {outcome.kind}: {outcome.detail}")
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}.bin").write_bytes(data)
    finally:
        reader.close()
    say(f"{count} files: {', '.join(f'{n} {kind}' for kind, n in sorted(ends.items()))}; slowest {slowest:.1f} s")
    return ends, failures


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fuzz_images", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="the first; each file has its own")
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    options = parser.parse_args(arguments)
    return 1 if fuzz(options.count, options.seed, options.keep)[1] else 0


if __name__ == "__main__":
    sys.exit(main())
