"""Functions as scripts of a page call them: who asks, what is sent, and what leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from hart_studio.errors import HartError, InputError
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.path_redaction import redact_absolute_paths
from hart_studio.ui.security.permissions import PermissionCheck, allow_all


def api_handler(answer: Any, admit: PermissionCheck = allow_all, *, redact_paths: bool = False) -> Any:
    """A function as a page calls it: the one door through which answers to its scripts leave.

    Who asks is looked at, an error that is meant for people comes back, and of any other only its number in the log.

    Args:
        answer: Gets the object that the page sent, and nothing in it is trusted.
        admit: Refuses who may not call it.
        redact_paths: Whether folders of this machine are no one's business here.

    Returns:
        A function of the same name, whose answer is ``{"error": text}`` when it refuses.
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
        raise InputError(f"expected an object from the page, got {type(request).__name__}; reload the page")
    return request
