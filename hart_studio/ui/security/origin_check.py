"""The door of the web server: which hosts it answers to, which pages may call it, which headers it adds.

A page on this machine can start models and read images, so two browser attacks matter: a foreign site that
calls the local port, and a foreign name that is re-pointed at 127.0.0.1 (DNS rebinding). The first is stopped by
comparing ``Origin`` with ``Host``, the second by answering only to known host names. Guesses at a login are slowed
down. Where there is a login, it is asked for here, in front of everything, and not once per address. Headers by which a
client could tell the server its own address are dropped (``forwarding``).
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

from hart_studio.ui.security.proxy_headers import NO_PROXY, ProxyConfig, is_host, strip_proxy_headers
from hart_studio.ui.security.rate_limiter import RateLimiter
from hart_studio.ui.security.routes import is_open, is_served

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

_API_INFO: Final = re.compile(rb"(<script>window\.gradio_api_info = ).*?(;</script>)", re.DOTALL)
"""Where Gradio writes the API of the page into its HTML, also into the login page."""


class OriginCheckMiddleware:
    """ASGI middleware; written without ``BaseHTTPMiddleware``, which would buffer the event stream.

    Attributes:
        hosts: Host names, without port, that are answered; None answers to all (a public server cannot know its names).
        proxying: Which headers of proxies are used.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, proxying: ProxyConfig = NO_PROXY) -> None:
        self.app = app
        self.hosts = hosts
        self.proxying = proxying
        self._logins = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what ``_find_refusal`` finds; else pass on and add the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cleaned = strip_proxy_headers(scope, self.proxying)
        refusal = self._find_refusal(scope, (cleaned.get("client") or ("unknown",))[0])

        is_stranger = not _may_pass(scope)
        start: Message | None = None
        page = b""

        async def send_with_headers(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start" and is_stranger and _is_html(message):
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
        """Why a request is not answered, as status and words; None when it is.

        Args:
            scope: The request with the headers that the client sent.
            address: Of the client, see ``strip_proxy_headers``.

        A foreign host gets 400, another site 403, an address that is not served 404, too many logins 429, and whoever
        has not logged in where that is needed 401.
        """
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        host, path = headers.get("host", ""), scope.get("path", "")
        named = [value for name, value in pairs if name in {"host", "x-forwarded-host"}]
        if self.hosts is not None and not (host and all(_host_name(name) in self.hosts for name in named)):
            return 400, "This server does not answer to that host name; start it with --allow-host NAME."
        if host and not is_host(host):
            return 400, "The Host header is not a host name."
        if _is_foreign(scope["method"], path, headers, host):
            return 403, "Requests from other sites are refused. A proxy has to pass on the Host that the browser named."
        if not is_served(path):
            return 404, "Not found."
        if scope["method"] == "POST" and path.rstrip("/") == "/login" and not self._logins.admit(address):
            return 429, "Too many tries. Wait a minute."
        if not is_open(path) and not _may_pass(scope):
            return 401, "Log in first."
        return None


def _is_foreign(method: str, path: str, headers: dict[str, str], host: str) -> bool:
    """Whether a page of another site sends this. Only opening the page itself is for everyone to do.

    Programs that are no browsers name no origin, and are not led by a foreign page.
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
    """Whether a request may pass an application of gradio: it asks no one, or knows the request's token."""
    if app is None or (getattr(app, "auth", None) is None and getattr(app, "auth_dependency", None) is None):
        return True
    jar = cookie_parser(cookies)
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(jar.get(name) in app.tokens for name in names)


def _tighten(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header of the answer; a cookie of the login goes to this site's own pages only.

    Except where the page lies in a frame of Hugging Face: there it would never be sent.
    """
    if name.lower() != b"set-cookie" or os.environ.get("SPACE_ID"):
        return name, value
    kept = [part for part in value.split(b";") if not part.strip().lower().startswith(b"samesite")]
    return name, b";".join([*kept, b" SameSite=Lax"])


def _netloc(address: str) -> str:
    """Host and port of an address, in lower case; ``null`` and what is malformed -> empty text."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """``localhost:7860`` -> ``localhost``, ``[::1]:7860`` -> ``::1``; a malformed value -> empty text."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
