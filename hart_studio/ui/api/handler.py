"""Wrap functions that page scripts call: permissions, validation, path redaction, errors as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

import gradio as gr
from pydantic import BaseModel, ValidationError, model_validator

from hart_studio.errors import HartError, InputError
from hart_studio.records import Record
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.path_redaction import redact_absolute_paths
from hart_studio.ui.security.permissions import PermissionCheck, allow_all

Handler = Callable[..., Any]
"""Method of an API: takes nothing, or a typed ``request``; returns data that can be sent as JSON."""

OpenApi = Callable[[Handler, Mapping[str, Any]], AbstractContextManager[Any]]
"""Finds the API whose method answers a request, and holds it during the call."""

_Model = TypeVar("_Model", bound=BaseModel)


class Request(Record, extra="ignore"):
    """Base of requests of page scripts; ``null`` counts as missing, except in classes with ``extra="forbid"``.

    Attributes:
        messages: Field -> error message, where that of pydantic does not say what to do.
    """

    messages: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, value: Any) -> Any:
        if not isinstance(value, dict) or cls.model_config.get("extra") == "forbid":
            return value
        return {name: each for name, each in value.items() if each is not None}


class PollRequest(Request):
    """Poll of a state."""

    signature: str = ""
    """Signature of the last response; empty at first."""


def parse_request(kind: type[_Model], request: object) -> _Model:
    """Validate untrusted JSON.

    Raises:
        InputError: If it is no object, or a field is invalid.
    """
    try:
        return kind.model_validate(_check_object(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ": ".join(map(str, first["loc"]))[:100]
        known = kind.messages.get(field.partition(":")[0]) if issubclass(kind, Request) else None
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(
            known or f"Invalid request: {field or 'object'}: {reason}. Change it, or reload the page."
        ) from error


def call_handler(handler: Handler, request: object = None, *owner: object) -> Any:
    """Validate a request as the type in the signature of its handler, and call the handler.

    Args:
        handler: A method.
        request: Untrusted JSON from the page; None = no fields.
        *owner: The API, if the method is not bound.

    Raises:
        InputError: If the request is invalid.
    """
    kind = _request_type(getattr(handler, "__func__", handler))
    fields = _check_object(request)
    return handler(*owner) if kind is None else handler(*owner, parse_request(kind, fields))


def api_handler(
    handler: Handler,
    admit: PermissionCheck = allow_all,
    *,
    redact_paths: bool = False,
    open_api: OpenApi | None = None,
) -> Any:
    """Wrap a page handler: check permissions, validate the request, redact paths, return errors as JSON.

    Args:
        handler: The handler; not bound if ``open_api`` is given.
        admit: Permission check; raises ``InputError``.
        redact_paths: Whether to remove absolute paths from responses.
        open_api: Finds the API of the visitor.

    Returns:
        A function of the same name. A ``HartError`` becomes ``{"error": text}``; for any other exception the text has
        only the incident number in the log.
    """

    def call(request: Any = None, user: gr.OAuthProfile | None = None) -> Any:
        try:
            admit(user)
            fields = _check_object(request)
            with open_api(handler, fields) if open_api else nullcontext() as api:
                reply = call_handler(handler, fields, *(() if api is None else (api,)))
        except HartError as error:
            reply = {"error": str(error)}
        except Exception as error:
            reply = {"error": describe(error).message}
        return redact_absolute_paths(reply) if redact_paths else reply

    call.__name__ = handler.__name__
    return call


@cache
def _request_type(function: Handler) -> type[BaseModel] | None:
    """Type of the argument ``request``; None if the function has none."""
    return get_type_hints(function).get("request")


def _check_object(request: object) -> Mapping[str, Any]:
    if request is None:
        return {}
    if not isinstance(request, dict):
        raise InputError(f"Invalid request: expected a JSON object, got {type(request).__name__}. Reload the page.")
    return request
