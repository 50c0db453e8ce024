"""ASGI middleware that replaces unhandled exceptions by a short JSON error without stack trace.

Gradio raises exceptions for malformed requests, such as an event of a component that does not exist.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_logger = logging.getLogger(__name__)

_INTENDED: Final = frozenset({503, 507})
"""Intended server errors: queue full, upload space full."""

_UNPROCESSABLE: Final = 422
_INVALID: Final = "Invalid request. Check the names and types of its fields."


class ErrorMiddleware:
    """ASGI middleware that answers 400 if the application fails; streams are passed through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; log an exception under an incident number and return the number."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_started = is_failed = is_invalid = False

        async def send_plainly(message: Message) -> None:
            nonlocal is_started, is_failed, is_invalid
            if message["type"] == "http.response.start":
                is_invalid = message["status"] == _UNPROCESSABLE
                if is_invalid:  # the application's own response would repeat the whole input
                    is_started = True
                    await JSONResponse({"detail": _INVALID}, _UNPROCESSABLE)(scope, receive, send)
                is_failed = message["status"] >= 500 and message["status"] not in _INTENDED
                if not is_failed:
                    is_started = True
            if not is_failed and not is_invalid:
                await send(message)

        try:
            await self.app(scope, receive, send_plainly)
        except ClientDisconnect:
            return
        except Exception as error:
            if is_started:
                # An event stream with an unknown name ends with HTTPException after it has sent its error.
                if not isinstance(error, HTTPException):
                    _log(scope, error)
                return
            await _answer(_log(scope, error))(scope, receive, send)
            return
        if is_failed:
            await _answer(_log(scope, None))(scope, receive, send)


def _log(scope: Scope, error: Exception | None) -> str:
    incident = secrets.token_hex(4)
    _logger.error("incident %s: %s %r", incident, scope["method"], scope["path"], exc_info=error)
    return incident


def _answer(incident: str) -> JSONResponse:
    return JSONResponse({"detail": f"Request failed. Search the server log for {incident}."}, 400)
