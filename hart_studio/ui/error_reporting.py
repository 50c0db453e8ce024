"""Turn exceptions into messages for the user, or into responses without details; stack traces go to the log only."""

from __future__ import annotations

import errno
import logging
import secrets
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.errors import BoxError, BusyError, DataError, HartError, ImageError, InputError, ModelError
from hart_studio.ui.pages.display import Failed

_logger = logging.getLogger(__name__)

_TITLES: Final[dict[type[HartError], str]] = {
    ImageError: "Invalid image",
    InputError: "Invalid input",
    ModelError: "Model unavailable",
    BoxError: "Invalid boxes",
    DataError: "Cannot read file",
    BusyError: "Server busy",
}

OUT_OF_MEMORY: Final = "Out of memory"
"""Title of the message."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, a quota, or a file size limit."""

_INTENDED: Final = frozenset({503, 507})
"""Intended server errors: queue full, upload space full."""

_UNPROCESSABLE: Final = 422
_INVALID: Final = "Invalid request. Check the names and types of its fields."


def describe(error: Exception) -> Failed:
    """Describe an exception for the user.

    Args:
        error: A ``HartError`` carries a message for users. Out of memory is detected by class name, because the page
            must not import torch. Anything else is a bug: it is logged with its stack trace under an incident number,
            and only that number is shown.
    """
    if isinstance(error, HartError):
        return Failed(_TITLES.get(type(error), "Request failed"), _sentence(str(error)))
    if isinstance(error, OSError) and error.errno in _FULL:
        _logger.error("the disk is full", exc_info=error)
        return Failed(
            "Disk full",
            "The disk of the server is full. Saved data is intact. Free some space and try again.",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failed(
            OUT_OF_MEMORY,
            "The model and this image need more memory than is available. Choose a smaller model or a smaller image.",
        )
    incident = _log_incident(error)
    return Failed("Internal error", f"This is a bug, not a problem with your input. Search the log for {incident}.")


def _sentence(text: str) -> str:
    """Capitalize a message and end it with a period."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


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
                    _log_incident(error, scope)
                return
            await _answer(_log_incident(error, scope))(scope, receive, send)
            return
        if is_failed:
            await _answer(_log_incident(None, scope))(scope, receive, send)


def _log_incident(error: Exception | None, scope: Scope | None = None) -> str:
    incident = secrets.token_hex(4)
    request = f": {scope['method']} {scope['path']!r}" if scope else ""
    _logger.error("incident %s%s", incident, request, exc_info=error)
    return incident


def _answer(incident: str) -> JSONResponse:
    return JSONResponse({"detail": f"Request failed. Search the server log for {incident}."}, 400)
