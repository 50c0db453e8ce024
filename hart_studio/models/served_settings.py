"""Settings of a served model. Imports no torch and uses no network."""

from __future__ import annotations

from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from hart_studio.models.families import FAMILIES, Family, PixelBudget
from hart_studio.records import Record

ServerKind = Literal["openai", "transformers", "vllm", "sglang"]
"""Server software. ``openai``: any other software, which gets standard fields only."""

RESERVED_FIELDS: Final = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stream"}
)
"""Request fields that are set by this project."""


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
    requests share one random state. Project default."""
    timeout_seconds: float = Field(default=120.0, gt=0, le=3600)
    """Timeout of one response. Project default."""
    retries: int = Field(default=3, ge=0, le=20)
    """Retries after a transient failure: a lost connection, a timeout, HTTP 408, 425, 429, 5xx. Project default."""
    image_format: Literal["png", "jpeg"] = "png"
    """Format of the sent images. PNG is lossless; JPEG is smaller but lossy."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the token limit in the request."""
    processor_min_pixels: int | None = Field(default=None, ge=1)
    """Minimum area in pixels of the server's processor (``shortest_edge`` or ``min_pixels`` in the
    checkpoint's processor config). Give both or neither; without them, the processor is expected to keep our budgets,
    as those of the large checkpoints do."""
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
        if taken := RESERVED_FIELDS & value.keys():
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
