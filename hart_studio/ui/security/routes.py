"""Allowlist of URL paths, with and without login.

Gradio serves more routes than the pages use: a proxy to other sites, recordings, an editor, deep links that fill the
disk. Paths that are not listed here are blocked, including routes of future Gradio versions.
"""

from __future__ import annotations

import re
from typing import Final

_OPEN: Final = frozenset({
    "/", "/login", "/logout", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon",
    "/gradio_api/startup-events", "/gradio_api/theme.css", "/gradio_api/reset",
    "/mcp",
})  # fmt: skip
# /mcp checks its own token.
_OPEN_BELOW: Final = ("/assets/", "/static/", "/svelte/", "/login/", "/mcp/")
_CLOSED: Final = frozenset({
    "/config", "/gradio_api/app_id", "/gradio_api/cancel", "/gradio_api/component_server", "/gradio_api/info",
    "/gradio_api/login_check", "/gradio_api/openapi.json", "/gradio_api/queue/data", "/gradio_api/queue/join",
    "/gradio_api/queue/status", "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/user",
})  # fmt: skip
_CLOSED_BELOW: Final = ("/gradio_api/call/", "/gradio_api/heartbeat/", "/gradio_api/file=")
_FOREIGN_FILE: Final = re.compile(r"/gradio_api/file=\s*(?:[a-z][a-z0-9+.-]+:|[/\\]{2})", re.IGNORECASE)
_MALFORMED: Final = re.compile(r"[\0-\x1f\x7f]|[/\\=]\.\.(?:[/\\]|$)")
"""Control characters and path traversal."""


def is_open(path: str) -> bool:
    """Whether a path needs no login: the login page and its assets."""
    return _trim(path) in _OPEN or path.startswith(_OPEN_BELOW)


def is_served(path: str) -> bool:
    """Whether a path is served.

    File paths that name another server are blocked, because the server would fetch them, and so is path traversal.

    Args:
        path: Percent-decoded path.
    """
    if _FOREIGN_FILE.match(path) or _MALFORMED.search(path):
        return False
    return is_open(path) or _trim(path) in _CLOSED or path.startswith(_CLOSED_BELOW)


def _trim(path: str) -> str:
    return path.rstrip("/") or "/"
