"""Turn exceptions into messages for the user; stack traces go to the log only."""

from __future__ import annotations

import errno
import logging
import secrets
from typing import Final

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

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, a quota, or a file size limit."""


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
            "Out of memory",
            "The model and this image need more memory than is available. Choose a smaller model or a smaller image.",
        )
    incident = secrets.token_hex(4)
    _logger.error("incident %s", incident, exc_info=error)
    return Failed("Internal error", f"This is a bug, not a problem with your input. Search the log for {incident}.")


def _sentence(text: str) -> str:
    """Capitalize a message and end it with a period."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
