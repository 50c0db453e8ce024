"""Wrap functions that page scripts call: permissions, validation, path redaction, errors as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from hart_studio.errors import HartError, InputError
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.access import PermissionCheck, allow_all
from hart_studio.ui.security.path_redaction import redact_absolute_paths


def api_handler(answer: Any, admit: PermissionCheck = allow_all, *, redact_paths: bool = False) -> Any:
    """Wrap a page handler: check permissions, validate the request, redact paths, return errors as JSON.

    Args:
        answer: Handler; gets untrusted JSON from the page.
        admit: Permission check; raises ``InputError``.
        redact_paths: Whether to remove absolute paths from responses.

    Returns:
        A function of the same name. A ``HartError`` becomes ``{"error": text}``; for any other exception the text has
        only the incident number in the log.
    """

    def call(request: Any = None, user: gr.OAuthProfile | None = None) -> Any:
        try:
            admit(user)
            reply = answer(_check_request(request))
        except HartError as error:
            reply = {"error": str(error)}
        except Exception as error:
            reply = {"error": describe(error).message}
        return redact_absolute_paths(reply) if redact_paths else reply

    call.__name__ = answer.__name__
    return call


def _check_request(request: Any) -> Mapping[str, Any]:
    if request is None:
        return {}
    if not isinstance(request, dict):
        raise InputError(f"Invalid request: expected a JSON object, got {type(request).__name__}. Reload the page.")
    return request
