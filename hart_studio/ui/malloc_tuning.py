"""Tune malloc so that memory of freed images is returned to the system.

glibc keeps freed memory per thread arena, and images are opened in many threads, so that after some hundred questions
dozens of arenas would each hold tens of unused megabytes.
"""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS: Final = 2
"""Number of arenas; the default of glibc is eight per core."""

MAPPED_BYTES: Final = 1 << 20
"""Blocks of at least this size are mapped, and unmapped when freed. If it is not set, glibc raises the threshold to the
size of the largest freed block."""

_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3


def limit_malloc_arenas() -> bool:
    """Set both limits for this process; call it before threads are started.

    Returns:
        Whether they were set; only glibc supports them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_ARENA_MAX, ARENAS)) and bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES))
