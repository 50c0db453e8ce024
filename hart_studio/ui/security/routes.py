"""Which addresses of the web server are answered at all, and which of them before someone has logged in.

Gradio has more of them than the pages use: an open relay to other sites, recordings, an editor, deep links that fill
the disk. What is not named here is not there. So a new one that comes with another version stays shut, too.
"""

from __future__ import annotations

import re
from typing import Final

_OPEN: Final = frozenset({
    "/", "/login", "/logout", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon",
    "/gradio_api/startup-events", "/gradio_api/theme.css", "/gradio_api/reset",
    "/mcp",
})  # fmt: skip
# Programs come to /mcp with a token of their own, which is asked for there.
_OPEN_BELOW: Final = ("/assets/", "/static/", "/svelte/", "/login/", "/mcp/")
_SHUT: Final = frozenset({
    "/config", "/gradio_api/app_id", "/gradio_api/cancel", "/gradio_api/component_server", "/gradio_api/info",
    "/gradio_api/login_check", "/gradio_api/openapi.json", "/gradio_api/queue/data", "/gradio_api/queue/join",
    "/gradio_api/queue/status", "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/user",
})  # fmt: skip
_SHUT_BELOW: Final = ("/gradio_api/call/", "/gradio_api/heartbeat/", "/gradio_api/file=")
_FOREIGN_FILE: Final = re.compile(r"/gradio_api/file=\s*(?:[a-z][a-z0-9+.-]+:|[/\\]{2})", re.IGNORECASE)
_BENT: Final = re.compile(r"[\0-\x1f\x7f]|[/\\=]\.\.(?:[/\\]|$)")
"""What no page asks for: control characters, and parts that lead elsewhere than they say."""


def is_open(path: str) -> bool:
    """Whether an address is answered to everyone: the page with the login, and what it is drawn with."""
    return _trim(path) in _OPEN or path.startswith(_OPEN_BELOW)


def is_served(path: str) -> bool:
    """Whether an address is answered at all.

    A file's address that names another server is not: the server would fetch it for whoever asks. Neither is one that
    begins with what everyone may have and leads out of it.

    Args:
        path: As the server hands it over, with percent signs decoded.
    """
    if _FOREIGN_FILE.match(path) or _BENT.search(path):
        return False
    return is_open(path) or _trim(path) in _SHUT or path.startswith(_SHUT_BELOW)


def _trim(path: str) -> str:
    return path.rstrip("/") or "/"
