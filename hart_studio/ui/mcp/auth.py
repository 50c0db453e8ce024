"""The door of ``/mcp``: only who sends the token is heard, and guesses at it are slowed down.

The page's login is no help here: a program has no session, and gradio's check does not stand in front of what a
middleware answers. So the token is asked for with and without a login, before a byte of the body is read.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hart_studio.ui.security.rate_limiter import PERIOD_SECONDS, RateLimiter

MCP_PATH: Final = "/mcp"
"""Where MCP clients go."""

_SCHEME: Final = b"bearer "


class TokenAuth:
    """ASGI middleware that answers requests to ``MCP_PATH``; all others pass untouched.

    Attributes:
        app: What answers all other paths.
        tools: What answers those with the token.
    """

    def __init__(self, app: ASGIApp, token: str, tools: ASGIApp, wrong_tokens: RateLimiter | None = None) -> None:
        """Open the door.

        Args:
            app: What answers all other paths.
            token: What a client must send, plain ASCII.
            tools: What answers those who do.
            wrong_tokens: Counts wrong tokens by address.
        """
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
        """The answer to a request that goes no further; None lets it in."""
        address = (scope.get("client") or ("unknown",))[0]
        if not self._wrong_tokens.has_room(address):
            wait = {"retry-after": f"{PERIOD_SECONDS:.0f}"}
            return JSONResponse({"detail": "Too many wrong tokens. Wait a minute."}, 429, wait)
        sent = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
        if sent[: len(_SCHEME)].lower() != _SCHEME:
            asks = {"www-authenticate": 'Bearer realm="HART Studio"'}
            return JSONResponse({"detail": "Expected the header Authorization: Bearer TOKEN."}, 401, asks)
        if not secrets.compare_digest(sent[len(_SCHEME) :].strip(), self._token):
            self._wrong_tokens.admit(address)
            asks = {"www-authenticate": 'Bearer realm="HART Studio", error="invalid_token"'}
            return JSONResponse({"detail": "This is not the token of this server."}, 401, asks)
        if scope["method"] != "POST":
            return JSONResponse({"detail": "Expected POST: there are no sessions here."}, 405, {"allow": "POST"})
        return None
