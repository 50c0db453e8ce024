"""Memory that an image took goes back to the system when the image goes.

The C library keeps what a thread frees for that thread, and images are opened in whatever thread a visitor's click is
handled: after some hundred questions dozens of threads would each hold tens of megabytes of nothing.
"""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS: Final = 2
"""Heaps that all threads share; the C library's own choice is eight for each core."""

MAPPED_BYTES: Final = 1 << 20
"""A block of this size or more is mapped by itself, and unmapped when it is freed. Without the fixed size the C library
raises it to that of the largest image."""

_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3


def limit_malloc_arenas() -> bool:
    """Set both for this process; to be called before it has threads.

    Returns:
        Whether the C library could be told; only that of GNU knows how.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    return tell is not None and bool(tell(_ARENA_MAX, ARENAS)) and bool(tell(_MMAP_THRESHOLD, MAPPED_BYTES))
