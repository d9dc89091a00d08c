"""What a visitor is told when something goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class DemoError(ValueError):
    """Something the visitor can put right; its message is shown as it is."""


class Stopped(Exception):
    """The visitor asked for the work to stop."""


@contextlib.contextmanager
def told_to_the_visitor(path: Path | None = None) -> Iterator[None]:
    """Turn the library's complaints into `DemoError`, with a file's name in place of its path on the server."""
    try:
        yield
    except DemoError:
        raise
    except ValueError as error:
        message = str(error) if path is None else str(error).replace(str(path), path.name)
        raise DemoError(message) from error
    except MemoryError as error:
        raise DemoError("The server has too little memory for this image now; try a smaller one.") from error
