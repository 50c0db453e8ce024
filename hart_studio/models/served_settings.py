"""How to reach a model that another process serves. No torch and no network here: settings are read everywhere."""

from __future__ import annotations

from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from hart_studio.models.families import FAMILIES, Family, PixelBudget
from hart_studio.records import Record

ServerKind = Literal["openai", "transformers", "vllm", "sglang"]
"""Which software answers. ``openai``: any other one, which is sent standard fields only."""

RESERVED_FIELDS: Final = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stream"}
)
"""Fields of a request that this project fills in itself."""


class ServedSettings(Record):
    """A model behind an endpoint with OpenAI's chat interface: vLLM, SGLang, ``transformers serve`` and others.

    What the server itself must be set to: room for as many images in a request as an answer turn shows (five), and a
    processor that allows our budgets (``processor_min_pixels``). Its checkpoint's generation settings leak into the
    sampling unless ``server`` names a kind that can be told otherwise.
    """

    url: str
    """Where the interface begins: ``http://127.0.0.1:8000/v1``. Without a password, a query or a fragment."""
    model: str = ""
    """What the server calls the model; empty = the only one that it lists."""
    family: str
    """Key of ``FAMILIES``: an endpoint does not tell what it serves."""
    server: ServerKind = "openai"
    """Which software answers. With a known one, settings of the checkpoint such as ``repetition_penalty`` and ``top_k``
    are switched off in each request, and box text made of special tokens is kept. ``transformers serve`` answers
    greedily at any temperature when its checkpoint says so and ``server`` does not name it."""
    supports_n: bool = False
    """Whether the server gives several completions of one request; otherwise it is asked once for each."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Most requests at a time (project default). With ``transformers serve`` only 1 makes sampling repeatable: its requests share
    one random state."""
    timeout_seconds: float = Field(default=120.0, gt=0, le=3600)
    """Longest wait for one answer (project default)."""
    retries: int = Field(default=3, ge=0, le=20)
    """Further attempts after a failure that may pass (project default): a lost connection, a timeout, HTTP 408, 425, 429, 5xx."""
    image_format: Literal["png", "jpeg"] = "png"
    """How images travel. PNG keeps every pixel; JPEG is smaller, and the model sees something else."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the token limit."""
    processor_min_pixels: int | None = Field(default=None, ge=1)
    """Least area in pixels that the server's processor is set to (``shortest_edge`` or ``min_pixels`` in the
    checkpoint's processor config). Give both or none; none means that it leaves our budgets as they are, as those of
    the large checkpoints do."""
    processor_max_pixels: int | None = Field(default=None, ge=1)
    """Greatest area in pixels of the same."""
    extra_fields: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields of each request, such as ``{"mm_processor_kwargs": {"max_pixels": 1003520}}`` for vLLM."""
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
        if parts.port == 0:  # a port that is no number raises by itself
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
            raise ValueError(f"expected fields that no other setting fills in, got {', '.join(sorted(taken))}")
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
        """The family's line of the table."""
        return FAMILIES[self.family]

    @property
    def processor_budget(self) -> PixelBudget | None:
        """What the server's processor is set to; None when that is not known."""
        if self.processor_min_pixels is None or self.processor_max_pixels is None:
            return None
        return PixelBudget(self.processor_min_pixels, self.processor_max_pixels)

    @property
    def title(self) -> str:
        """Name for people and records; never that of a folder or of a built-in model."""
        return f"{self.model or 'model'} at {self.url}"
