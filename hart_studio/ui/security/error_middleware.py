"""Faults of the web server as one plain line: no stack trace, no text of an exception, no broken connection.

Gradio answers requests that no page would send, such as an event of a component that does not exist, with an exception.
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
"""Server errors that are sent on purpose: the queue is full, or the space for uploads is full."""

_UNPROCESSABLE: Final = 422
_INVALID: Final = "The request does not have the fields of this address. Check their names and types."


class ErrorMiddleware:
    """ASGI middleware that answers 400 where the application behind it fails; streams pass through as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; an exception is logged under a number, and the number is the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_started = is_failed = is_invalid = False

        async def send_plainly(message: Message) -> None:
            nonlocal is_started, is_failed, is_invalid
            if message["type"] == "http.response.start":
                is_invalid = message["status"] == _UNPROCESSABLE
                if is_invalid:  # the application's own answer would repeat all of the input
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
            return  # no one is there to be told
        except Exception as error:
            if is_started:
                # The end of an event stream that was asked for by a wrong name is one, and has told so.
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
    return JSONResponse({"detail": f"This request cannot be answered. The log has it as {incident}."}, 400)
