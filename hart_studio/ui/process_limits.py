"""Limits of the server process: idle connections, open files, and memory of freed images.

uvicorn has a timeout between two requests, but none before the first one and none for clients that stop reading, so its
protocol class is replaced by a subclass. Must not import Gradio, because ``app.py`` calls it before Gradio is imported.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Any, Final

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

IDLE_SECONDS: Final = 30.0
"""Timeout for a complete request head, before the first request and between two."""

READ_SECONDS: Final = 60.0
"""Timeout for a client that does not read a pending response."""

SHUTDOWN_SECONDS: Final = 1.0
"""How long a stopping server waits for responses; else event streams would keep it running."""

MAX_FILES: Final = 65_536
"""Upper limit of the open files and connections to request from the system."""

ARENAS: Final = 2
"""Number of arenas; the default of glibc is eight per core."""

MAPPED_BYTES: Final = 1 << 20
"""Blocks of at least this size are mapped, and unmapped when freed. If it is not set, glibc raises the threshold to the
size of the largest freed block."""

_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    _Protocol = H11Protocol
else:
    _Protocol = AutoHTTPProtocol


class BoundedProtocol(_Protocol):
    """uvicorn protocol with both timeouts."""

    _bounded: asyncio.Transport
    _idle_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _last_cycle: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._bounded = transport
        self._idle_timer = self.loop.call_later(IDLE_SECONDS, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both timers."""
        for timer in (self._idle_timer, self._read_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Abort responses that do not end shortly after a server stop, such as event streams."""
        super().shutdown()
        self.loop.call_later(SHUTDOWN_SECONDS, self._bounded.abort)

    def pause_writing(self) -> None:
        """Start the read timeout: the client reads more slowly than the server sends."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_SECONDS, self._bounded.abort)

    def resume_writing(self) -> None:
        """Stop the read timeout: the client has caught up."""
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        super().resume_writing()

    def _check_idle(self) -> None:
        """Close a connection without a request since the last check and without a pending response."""
        cycle = self.cycle
        if (cycle is None or cycle.response_complete) and cycle is self._last_cycle:
            self._bounded.abort()
            return
        self._last_cycle = cycle
        self._idle_timer = self.loop.call_later(IDLE_SECONDS, self._check_idle)


def install_connection_limits() -> None:
    """Make servers started later in this process use ``BoundedProtocol``; Gradio has no option for it."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit; the default of many systems is 1,024."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit_malloc_arenas() -> bool:
    """Make malloc return the memory of freed images to the system; call it before threads are started.

    glibc keeps freed memory per thread arena, and images are opened in many threads, so that after some hundred
    questions dozens of arenas would each hold tens of unused megabytes.

    Returns:
        Whether they were set; only glibc supports them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_ARENA_MAX, ARENAS)) and bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES))
