"""Freed memory kept for the next layer, not handed back to the system and cleared anew.

For programs, which own their process: the command line, the demo and the timings call it; a library that changes malloc
would be a surprise.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_LARGEST_REUSED = 32 * 2**20  # glibc takes no more; larger blocks are mapped anew each time
_KEPT = 512 * 2**20


def reuse_freed_memory() -> bool:
    """Tell malloc to keep up to 512 MiB of freed memory, in this process and for all its threads.

    Without it, each layer's output is mapped afresh and the system clears it page by page. Results do not change.

    Returns:
        Whether it was done: with glibc, on Linux; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_REUSED), (_TRIM_THRESHOLD, _KEPT), (_ARENA_MAX, 1))
    return all([mallopt(name, value) == 1 for name, value in settings])
