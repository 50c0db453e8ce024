"""The door of the web server: which hosts it answers to, which pages may call it, which headers it adds.

A page on this machine can start models and read pictures, so two browser attacks matter: a foreign site that
posts to the local port, and a foreign name that is re-pointed at 127.0.0.1 (DNS rebinding). The first is stopped by
comparing ``Origin`` with ``Host``, the second by answering only to known host names. Guesses at a login are slowed
down.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.ui.throttle import Throttle

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names under which a page on this machine is opened."""

_CONTENT_POLICY: Final = "; ".join(
    [
        "default-src 'self'",
        # Gradio compiles component scripts in the page, hence unsafe-eval; no foreign script can load.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "frame-ancestors 'self' https://huggingface.co",
    ]
)
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"content-security-policy", _CONTENT_POLICY.encode()),
)


class Guard:
    """ASGI middleware; written without ``BaseHTTPMiddleware``, which would buffer the event stream.

    Attributes:
        hosts: Host names, without port, that are answered; None answers to all (a public server cannot know its names).
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = hosts
        self._logins = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a foreign host (400) or origin (403), or too many logins (429); else pass on and add the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            await JSONResponse({"detail": "This server does not answer to that host name."}, 400)(scope, receive, send)
            return
        origin = headers.get("origin")
        if scope["method"] not in {"GET", "HEAD", "OPTIONS"} and origin and urlsplit(origin).netloc != host:
            await JSONResponse({"detail": "Requests from other sites are refused."}, 403)(scope, receive, send)
            return
        if scope["method"] == "POST" and scope.get("path", "").rstrip("/").endswith("/login"):
            address = (scope.get("client") or ("unknown",))[0]
            if not self._logins.admit(address):
                await JSONResponse({"detail": "Too many tries. Wait a minute."}, 429)(scope, receive, send)
                return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _host_name(host: str) -> str:
    """``localhost:7860`` -> ``localhost``, ``[::1]:7860`` -> ``::1``; a malformed value -> empty text."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
