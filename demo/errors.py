"""What a visitor is told when something goes wrong: the library's line for programs, a sentence for people."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

_SENTENCES = (  # what the library's line says -> what a person is told; {kind} is the file's suffix, or 'file'
    (r"empty file", "This file is empty. Please upload it again."),
    (r"cut off|truncated|damaged", "This {kind} is incomplete. Please upload a fresh copy."),
    (
        r"expected at most ([\d,]+) pixels, got (\d+) x (\d+)",
        r"This image has \2 × \3 pixels, more than the \1 that this page takes. Please upload a smaller one.",
    ),
    (r"libvips can decode", "This {kind} image cannot be read here. Please convert it to JPEG or PNG."),
    (
        r"expected an? PNG, JPEG",
        "This is not an image that this page can read. Please upload PNG, JPEG, WebP, TIFF or BMP.",
    ),
    (r"got an animation", "This is an animation. Please upload one frame as a still image."),
    (r"got CMYK", "This image is in CMYK. Please convert it to RGB first."),
    (r"is a colour network", "This network is for colour, and the image is grey. Please choose another network."),
    (r"files, got 0", "Choose some images first."),
    (r"expected one page", "This file has several pages. Please upload one page."),
)


class DemoError(ValueError):
    """Something the visitor can put right; its message, for programs and reports, may be shown as it is.

    `kind` is the file's suffix, such as 'PNG', if a file is at fault.
    """

    def __init__(self, message: str, kind: str = "file") -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def sentence(self) -> str:
        """The message in words for a person, without names of files or settings."""
        for pattern, words in _SENTENCES:
            if found := re.search(pattern, str(self)):
                return found.expand(words.replace("{kind}", self.kind))
        return str(self)


class Stopped(Exception):
    """The visitor asked for the work to stop."""

    sentence = "Stopped."


@contextlib.contextmanager
def told_to_the_visitor(path: Path = Path("file")) -> Iterator[None]:
    """Turn the library's complaints into `DemoError`, with a file's name in place of its path on the server."""
    try:
        yield
    except DemoError:
        raise
    except ValueError as error:
        message = str(error).replace(str(path), path.name)
        raise DemoError(message, path.suffix[1:].upper() or "file") from error
    except FileNotFoundError as error:
        raise DemoError(
            "This image has been cleared: files are kept for a short time. Please upload it again."
        ) from error
    except MemoryError as error:
        raise DemoError("The server has too little memory for this image now; try a smaller one.") from error
