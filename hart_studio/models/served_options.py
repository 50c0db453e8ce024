"""Command-line options of a served model, shared by all commands."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from hart_studio.errors import InputError
from hart_studio.models.families import FAMILIES
from hart_studio.models.served_settings import ServedSettings, ServerKind


def add_served_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; all others need ``--served``."""
    group = parser.add_argument_group("a served model", "use an OpenAI-compatible server instead of loading --model")
    group.add_argument("--served", metavar="URL", help="base URL of the API, such as http://127.0.0.1:8000/v1")
    group.add_argument("--served-family", choices=list(FAMILIES), help="family of the served model (required)")
    group.add_argument(
        "--served-model", metavar="NAME", help="name of the model on the server (default: the only model it lists)"
    )
    group.add_argument("--served-by", choices=get_args(ServerKind), help="software of the server (default: openai)")
    group.add_argument("--served-n", action="store_true", help="the server returns several completions per request")
    group.add_argument(
        "--served-concurrency", type=int, metavar="N", help="maximum number of concurrent requests (default: 16)"
    )
    group.add_argument("--served-timeout", type=float, metavar="SECONDS", help="timeout of one response (default: 120)")
    group.add_argument("--served-retries", type=int, metavar="N", help="retries after transient failures (default: 3)")
    group.add_argument("--served-jpeg", action="store_true", help="send images as JPEG: smaller, but lossy")
    group.add_argument(
        "--served-pixels",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="minimum and maximum image area of the server's processor",
    )
    group.add_argument(
        "--served-field", action="append", metavar="NAME=JSON", help="additional field of each request; repeatable"
    )
    group.add_argument(
        "--served-key-variable", metavar="NAME", help="environment variable with the key (default: OPENAI_API_KEY)"
    )


def read_served(options: argparse.Namespace) -> ServedSettings | None:
    """Read the settings from the options; None without ``--served``.

    Raises:
        InputError: If a value is invalid, or an option is given without ``--served``.
    """
    pixels = options.served_pixels or (None, None)
    given: dict[str, Any] = {
        "model": options.served_model,
        "family": options.served_family,
        "server": options.served_by,
        "supports_n": options.served_n or None,
        "concurrency": options.served_concurrency,
        "timeout_seconds": options.served_timeout,
        "retries": options.served_retries,
        "image_format": "jpeg" if options.served_jpeg else None,
        "processor_min_pixels": pixels[0],
        "processor_max_pixels": pixels[1],
        "extra_fields": _read_fields(options.served_field) if options.served_field else None,
        "api_key_variable": options.served_key_variable,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not options.served:
        if given:
            raise InputError(f"The options {', '.join(given)} need --served URL.")
        return None
    if not options.served_family:
        raise InputError(f"--served needs --served-family. Give one of {', '.join(FAMILIES)}.")
    try:
        return ServedSettings(url=options.served, **given)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the value may hold a password
        where = ".".join(map(str, first["loc"])) or "settings"
        raise InputError(f"the {where} of the served model: {first['msg']}") from None


def describe_endpoint(served: ServedSettings, environment: Mapping[str, str] = os.environ) -> str:
    """One line with the endpoint and the environment variable of its key, to print before the first request."""
    state = "set" if environment.get(served.api_key_variable, "").strip() else "not set, no key is sent"
    return (
        f"endpoint: {served.url} receives the images; key from environment variable {served.api_key_variable} ({state})"
    )


def _read_fields(pairs: list[str]) -> dict[str, Any]:
    fields = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        try:
            if not (sign and name.strip()):
                raise ValueError("there is no NAME=")
            fields[name.strip()] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f'expected a field such as mm_processor_kwargs={{"max_pixels": 1003520}}, got {pair!r}: {error}'
            ) from error
    return fields
