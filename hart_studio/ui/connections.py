"""Close connections that hold resources for nothing: those that send no request, and those that read no answer.

uvicorn has a timeout for the time between two requests, but none for the first one, and none for a client that stops
reading. So its protocol class is replaced by a subclass of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

IDLE_SECONDS: Final = 30.0
"""How long a connection may be open without a complete request head, before the first request and between two."""

READ_SECONDS: Final = 60.0
"""How long a client may read nothing of an answer that waits for it."""

SHUTDOWN_SECONDS: Final = 1.0
"""How long a server that ends waits for answers; without it a stream of events would keep the server."""

MAX_FILES: Final = 65_536
"""Open files and connections that the process asks the system for, at most."""

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    _Protocol = H11Protocol
else:
    _Protocol = AutoHTTPProtocol


class BoundedProtocol(_Protocol):
    """The web server's protocol for one connection, with both timeouts."""

    _bounded: asyncio.Transport
    _idle_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _last_cycle: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
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
        """The server ends: answers that do not, such as streams of events, are cut off a moment later."""
        super().shutdown()
        self.loop.call_later(SHUTDOWN_SECONDS, self._bounded.abort)

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer comes: it has to read something in time."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_SECONDS, self._bounded.abort)

    def resume_writing(self) -> None:
        """The client has read what was sent."""
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        super().resume_writing()

    def _check_idle(self) -> None:
        """Close a connection on which nothing was asked since the last look and nothing is being answered."""
        cycle = self.cycle
        if (cycle is None or cycle.response_complete) and cycle is self._last_cycle:
            self._bounded.abort()
            return
        self._last_cycle = cycle
        self._idle_timer = self.loop.call_later(IDLE_SECONDS, self._check_idle)


def install_connection_limits() -> None:
    """Make servers that start from now on in this process use ``BoundedProtocol``; Gradio offers no option for it."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one; many systems start programs with 1,024."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
