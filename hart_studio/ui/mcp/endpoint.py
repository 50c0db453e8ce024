"""The path ``/mcp``: bearer token authentication with a rate limit on wrong tokens, and the optional server behind it.

The login of the page does not apply here: MCP clients have no session, and gradio does not check requests that a
middleware answers. The token is required with and without a login, before the body is read.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hart_studio.errors import InputError
from hart_studio.ui.security.access import PERIOD_SECONDS, RateLimiter
from hart_studio.ui.security.proxy_headers import client_address

if TYPE_CHECKING:
    from hart_studio.ui.mcp.server import McpServer

MCP_PATH: Final = "/mcp"
"""Path of the MCP endpoint."""

_SCHEME: Final = b"bearer "


class TokenAuth:
    """ASGI middleware that passes requests for ``MCP_PATH`` with the token to ``tools``, all others to ``app``."""

    def __init__(self, app: ASGIApp, token: str, tools: ASGIApp, wrong_tokens: RateLimiter | None = None) -> None:
        self.app, self.tools = app, tools
        self._token = token.encode("ascii")
        self._wrong_tokens = wrong_tokens or RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 without the token, 429 after too many wrong ones, 405 to all but POST."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != MCP_PATH:
            await self.app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        await (refusal or self.tools)(scope, receive, send)

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        """Response to a refused request; None if it is accepted."""
        address = client_address(scope)
        if not self._wrong_tokens.is_below_limit(address):
            wait = {"retry-after": f"{PERIOD_SECONDS:.0f}"}
            return JSONResponse({"detail": "Too many wrong tokens. Wait a minute."}, 429, wait)
        sent = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
        if sent[: len(_SCHEME)].lower() != _SCHEME:
            asks = {"www-authenticate": 'Bearer realm="HART Studio"'}
            return JSONResponse({"detail": "Missing header Authorization: Bearer TOKEN."}, 401, asks)
        if not secrets.compare_digest(sent[len(_SCHEME) :].strip(), self._token):
            self._wrong_tokens.admit(address)
            asks = {"www-authenticate": 'Bearer realm="HART Studio", error="invalid_token"'}
            return JSONResponse({"detail": "Wrong token."}, 401, asks)
        if scope["method"] != "POST":
            return JSONResponse({"detail": "Use POST: this endpoint has no sessions."}, 405, {"allow": "POST"})
        return None


def find_server() -> type[McpServer]:
    """Import the class of the MCP server.

    Raises:
        InputError: If the package ``mcp`` is missing or has another version.
    """
    try:
        from hart_studio.ui.mcp.server import McpServer  # noqa: PLC0415 - imports the library
    except ImportError as error:
        raise InputError("--mcp needs the package mcp, version 2. Run pip install -r requirements-mcp.txt") from error
    return McpServer
