"""Exceptions turned into words for the person at the page; stack traces go to the log only."""

from __future__ import annotations

import errno
import logging
import secrets
from typing import Final

from hart_studio.errors import BoxError, BusyError, DataError, HartError, ImageError, InputError, ModelError
from hart_studio.ui.components.progress_status import Failed

_logger = logging.getLogger(__name__)

_TITLES: Final[dict[type[HartError], str]] = {
    ImageError: "This image cannot be used",
    InputError: "The question is not complete",
    ModelError: "The model cannot be used",
    BoxError: "The regions cannot be used",
    DataError: "The file cannot be read",
    BusyError: "Busy",
}

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write fails with when there is no room: on the disk, in a quota, in a limit of the process."""


def describe(error: Exception) -> Failed:
    """What to show for an exception.

    Args:
        error: A ``HartError`` carries text for people. Running out of memory is recognised by name, because the class
            belongs to a library that the page must not import. Anything else is our fault: it is logged with its
            stack under an incident number, and only that number is shown.
    """
    if isinstance(error, HartError):
        return Failed(_TITLES.get(type(error), "This did not work"), _sentence(str(error)))
    if isinstance(error, OSError) and error.errno in _FULL:
        _logger.error("the disk is full", exc_info=error)
        return Failed(
            "The disk is full",
            "There is no room left on the server. Nothing that was saved before is lost; free some space, and try "
            "again.",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failed(
            "Out of memory",
            "The model and this image need more memory than is free. Lower the overview budget in the settings, "
            "ask with one model at a time, or choose a smaller model.",
        )
    incident = secrets.token_hex(4)
    _logger.error("incident %s", incident, exc_info=error)
    return Failed(
        "Something went wrong", f"This is a fault of the program, not of your input. The log has it as {incident}."
    )


def _sentence(text: str) -> str:
    """Error texts start in lower case, as they may follow a prefix; shown alone they are sentences."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
