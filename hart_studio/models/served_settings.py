"""Settings of a served model and their command-line options. Imports no torch and uses no network."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from hart_studio.errors import InputError
from hart_studio.models.families import FAMILIES, Family, PixelBudget
from hart_studio.records import Record

ServerKind = Literal["openai", "transformers", "vllm", "sglang"]
"""Server software. ``openai``: any other software, which gets standard fields only."""

_RESERVED_FIELDS: Final = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stream"}
)


class ServedSettings(Record):
    """A model behind an OpenAI-compatible chat endpoint: vLLM, SGLang, ``transformers serve`` and others.

    Required server configuration: as many images per request as an answer turn has (five), and a
    processor that allows our budgets (``processor_min_pixels``). Generation settings of its checkpoint affect the
    sampling unless ``server`` names software that can disable them.
    """

    url: str
    """Base URL of the API, such as ``http://127.0.0.1:8000/v1``, without a password, a query or a fragment."""
    model: str = ""
    """Name of the model on the server; empty = the only model that it lists."""
    family: str
    """Key of ``FAMILIES``: an endpoint does not report the family of its model."""
    server: ServerKind = "openai"
    """Server software. If it is known, settings of the checkpoint such as ``repetition_penalty`` and ``top_k``
    are disabled in each request, and box text made of special tokens is kept. ``transformers serve`` decodes
    greedily at any temperature if its checkpoint says so and ``server`` does not name it."""
    supports_n: bool = False
    """Whether the server returns several completions per request; otherwise one request is sent for each."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Maximum number of concurrent requests. Only 1 makes sampling with ``transformers serve`` reproducible: its
    requests share one random state."""
    timeout_seconds: float = Field(default=120.0, gt=0, le=3600)
    """Timeout of one response."""
    retries: int = Field(default=3, ge=0, le=20)
    """Retries after a transient failure: a lost connection, a timeout, HTTP 408, 425, 429, 5xx."""
    image_format: Literal["png", "jpeg"] = "png"
    """Format of the sent images. PNG is lossless; JPEG is smaller but lossy."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the token limit in the request."""
    processor_min_pixels: int | None = Field(default=None, ge=1)
    """Minimum area in pixels of the server's processor (``shortest_edge`` or ``min_pixels`` in the
    checkpoint's processor config). Give both or neither. Without them, the processor is assumed to leave images within
    the family's budgets unchanged, as that of the released checkpoints does."""
    processor_max_pixels: int | None = Field(default=None, ge=1)
    """Maximum area in pixels of the server's processor."""
    extra_fields: dict[str, JsonValue] = Field(default_factory=dict)
    """Additional fields of each request, such as ``{"mm_processor_kwargs": {"max_pixels": 1003520}}`` for vLLM."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset or empty = no key is sent. The key itself is never stored."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        # The value stays out of the messages: it may hold a password.
        try:
            parts = urlsplit(value)
        except ValueError:
            raise ValueError("expected a URL such as http://127.0.0.1:8000/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable() or " " in value:
            raise ValueError("expected a URL such as http://127.0.0.1:8000/v1")
        if "@" in parts.netloc:
            raise ValueError("expected a URL without user and password; put the key into an environment variable")
        if parts.query or parts.fragment:
            raise ValueError("expected a URL without ? and #")
        if parts.port == 0:  # a port that is not a number raises by itself
            raise ValueError("expected a port from 1 to 65535")
        return value.rstrip("/")

    @field_validator("family")
    @classmethod
    def _check_family(cls, value: str) -> str:
        if value not in FAMILIES:
            raise ValueError(f"expected one of {', '.join(FAMILIES)}")
        return value

    @field_validator("extra_fields")
    @classmethod
    def _check_extra(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := _RESERVED_FIELDS & value.keys():
            raise ValueError(f"These fields are set by other settings: {', '.join(sorted(taken))}")
        return value

    @model_validator(mode="after")
    def _check_pixels(self) -> Self:
        least, most = self.processor_min_pixels, self.processor_max_pixels
        if (least is None) != (most is None):
            raise ValueError("expected processor_min_pixels and processor_max_pixels together, got one of them")
        if least is not None and most is not None and least > most:
            raise ValueError(f"expected processor_min_pixels <= processor_max_pixels, got {least} and {most}")
        return self

    @property
    def family_row(self) -> Family:
        """Row of the family table."""
        return FAMILIES[self.family]

    @property
    def processor_budget(self) -> PixelBudget | None:
        """Budget of the server's processor; None if unknown."""
        if self.processor_min_pixels is None or self.processor_max_pixels is None:
            return None
        return PixelBudget(self.processor_min_pixels, self.processor_max_pixels)

    @property
    def title(self) -> str:
        """Display name, also in records; never that of a folder or of a built-in model."""
        return f"{self.model or 'model'} at {self.url}"


def add_served_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; all others need ``--served``."""
    add = parser.add_argument_group(
        "a served model", "use an OpenAI-compatible server instead of loading --model"
    ).add_argument
    add("--served", metavar="URL", help="base URL of the API, such as http://127.0.0.1:8000/v1")
    add("--served-family", choices=list(FAMILIES), help="family of the served model (required)")
    add("--served-model", metavar="NAME", help="name of the model on the server (default: the only model it lists)")
    add("--served-server", choices=get_args(ServerKind), help="software of the server (default: openai)")
    add("--served-supports-n", action="store_true", help="the server returns several completions per request")
    add("--served-concurrency", type=int, metavar="N", help="maximum number of concurrent requests (default: 16)")
    add("--served-timeout", type=float, metavar="SECONDS", help="timeout of one response (default: 120)")
    add("--served-retries", type=int, metavar="N", help="retries after transient failures (default: 3)")
    add("--served-jpeg", action="store_true", help="send images as JPEG: smaller, but lossy")
    add(
        "--served-pixels",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="minimum and maximum image area of the server's processor",
    )
    add("--served-field", action="append", metavar="NAME=JSON", help="additional field of each request; repeatable")
    add("--served-key-variable", metavar="NAME", help="environment variable with the key (default: OPENAI_API_KEY)")


def read_served(options: argparse.Namespace) -> ServedSettings | None:
    """Read the settings from the options; None without ``--served``.

    Raises:
        InputError: If a value is invalid, or an option is given without ``--served``.
    """
    pixels = options.served_pixels or (None, None)
    given: dict[str, Any] = {
        "model": options.served_model,
        "family": options.served_family,
        "server": options.served_server,
        "supports_n": options.served_supports_n or None,
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
    if getattr(options, "quantization", "none") != "none":
        raise InputError("--quantization does not apply to a served model. Quantize it in its server.")
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
