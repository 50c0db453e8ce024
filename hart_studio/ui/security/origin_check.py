"""ASGI middleware: checks of host, origin and path, login, response headers.

The server can run models and read images, so two browser attacks matter: another site that calls the local port, and a
foreign host name that resolves to 127.0.0.1 (DNS rebinding). The first is stopped by comparing ``Origin`` with
``Host``, the second by accepting only known host names. Login attempts are rate limited. The login is checked here,
before all routes. Untrusted forwarding headers are dropped (``proxy_headers``).

Gradio serves more routes than the pages use: a proxy to other sites, recordings, an editor, deep links that fill the
disk. Paths that are not listed here are blocked, including routes of future Gradio versions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.ui.security.access import RateLimiter
from hart_studio.ui.security.proxy_headers import NO_PROXY, ProxyConfig, client_address, is_host, strip_proxy_headers

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

_API_INFO: Final = re.compile(rb"(<script>window\.gradio_api_info = ).*?(;</script>)", re.DOTALL)
"""API description that Gradio writes into its HTML, also into the login page."""


class OriginCheckMiddleware:
    """ASGI middleware; written without ``BaseHTTPMiddleware``, which would buffer the event stream.

    Attributes:
        hosts: Accepted host names without port; None = all, because a public server cannot know its names.
        proxying: Trusted proxy headers.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, proxying: ProxyConfig = NO_PROXY) -> None:
        self.app = app
        self.hosts = hosts
        self.proxying = proxying
        self._logins = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse requests by ``_find_refusal``, or call the application and add response headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cleaned = strip_proxy_headers(scope, self.proxying)
        refusal = self._find_refusal(scope, client_address(cleaned))

        is_anonymous = not _may_pass(scope)
        start: Message | None = None
        page = b""

        async def send_with_headers(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start" and is_anonymous and _is_html(message):
                start = message
                return
            if start is not None:
                page += message.get("body", b"")
                if message.get("more_body"):
                    return
                page = _API_INFO.sub(rb"\1{}\2", page)
                lengths = (b"content-length", str(len(page)).encode())
                kept = [pair for pair in start.get("headers", []) if pair[0].lower() != lengths[0]]
                await send_tightened({**start, "headers": [*kept, lengths]})
                message = {**message, "body": page}
            await send_tightened(message)

        async def send_tightened(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = [_tighten(name, value) for name, value in message.get("headers", [])]
                message["headers"] = [*sent, *_HEADERS]
            await send(message)

        if refusal is not None:
            status, detail = refusal
            await JSONResponse({"detail": detail}, status)(scope, receive, send_with_headers)
            return
        await self.app(cleaned, receive, send_with_headers)

    def _find_refusal(self, scope: Scope, address: str) -> tuple[int, str] | None:
        """Status and message of a refused request; None if it is accepted.

        Args:
            scope: The request with the headers that the client sent.
            address: Client address, see ``strip_proxy_headers``.

        An unknown host gets 400, another site 403, an unknown path 404, too many logins 429, a missing login 401.
        """
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        host, path = headers.get("host", ""), scope.get("path", "")
        named = [value for name, value in pairs if name in {"host", "x-forwarded-host"}]
        if self.hosts is not None and not (host and all(_host_name(name) in self.hosts for name in named)):
            return 400, "Unknown host name. Start the server with --allow-host NAME to accept it."
        if host and not is_host(host):
            return 400, "The Host header is not a host name."
        if _is_foreign(scope["method"], path, headers, host):
            return 403, "Requests from other sites are refused. A proxy must pass on the Host header of the browser."
        if not is_served(path):
            return 404, "Not found."
        if scope["method"] == "POST" and path.rstrip("/") == "/login" and not self._logins.admit(address):
            return 429, "Too many attempts. Wait a minute."
        if not is_open(path) and not _may_pass(scope):
            return 401, "Log in first."
        return None


def _is_foreign(method: str, path: str, headers: dict[str, str], host: str) -> bool:
    """Whether another site sends this request; opening the page from a link is allowed.

    Clients other than browsers send no origin.
    """
    origin = headers.get("origin")
    if origin is not None:
        return _netloc(origin) != host.lower()
    is_reading = method in {"GET", "HEAD", "OPTIONS"}
    if headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
        return not is_reading or headers.get("sec-fetch-mode") != "navigate" or path.rstrip("/") == "/logout"
    referer = headers.get("referer")
    return not is_reading and referer is not None and _netloc(referer) != host.lower()


def _is_html(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in start.get("headers", [])
    )


def _may_pass(scope: Scope) -> bool:
    cookies = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}.get(b"cookie", "")
    return _is_logged_in(scope.get("app"), cookies)


def _is_logged_in(app: Any, cookies: str) -> bool:
    """Whether gradio needs no login, or the request has a valid token."""
    if app is None or (getattr(app, "auth", None) is None and getattr(app, "auth_dependency", None) is None):
        return True
    jar = cookie_parser(cookies)
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(jar.get(name) in app.tokens for name in names)


def _tighten(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Set ``SameSite=Lax`` on cookies.

    Not on a Space, where the page is in a frame of Hugging Face and the cookie would not be sent.
    """
    if name.lower() != b"set-cookie" or os.environ.get("SPACE_ID"):
        return name, value
    kept = [part for part in value.split(b";") if not part.strip().lower().startswith(b"samesite")]
    return name, b";".join([*kept, b" SameSite=Lax"])


def _netloc(address: str) -> str:
    """Host and port of a URL in lower case; empty for ``null`` and malformed values."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """``localhost:7860`` -> ``localhost``, ``[::1]:7860`` -> ``::1``; malformed values -> empty."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


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
