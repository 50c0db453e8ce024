"""Redact secrets in the recorded command, environment and errors of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

HIDDEN: Final = "***"
"""Replacement of a secret."""

_SECRET_NAME: Final = re.compile(
    r"token|key|secret|pass|cred|webhook|cookie|bearer|signature|database_url|connection_string"
    r"|(?<![a-z])(?:pat|auth|dsn|sas)(?![a-z])|(?<=_)(?:pwd|pw)(?![a-z])",
    re.IGNORECASE,
)
_NO_SECRET_OPTION: Final = re.compile(r"tokens|loss_aggregation|tokenizer", re.IGNORECASE)
"""Words in setting names that are not access tokens, such as ``rollout.max_answer_tokens``."""
_SECRET_TEXT: Final = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"  # GitHub
    r"|\bsk-[\w-]{16,}"  # OpenAI-compatible servers
    r"|\bAKIA[0-9A-Z]{16}\b"  # AWS
    r"|(?<=://)[^\s/@]+(?=@)"  # user and password in a URL
    r"|(?<=hooks\.slack\.com/services/)[\w/]+|(?<=/api/webhooks/)[\w/-]+"  # webhook URLs
    r"|(?i:(?<=bearer )|(?<=authorization: basic ))[A-Za-z0-9+/=._~-]{12,}"  # headers
)
_SHORTEST_SECRET: Final = 8
"""Minimum length of a secret value; shorter values would match ordinary text."""
_SHORTEST_PART: Final = 4
"""Minimum length of a secret prefix that is held back."""
_KEPT_VARIABLES: Final = ("ACCELERATE_", "CUDA_", "NCCL_", "OMP_", "PYTORCH_", "TRANSFORMERS_")
_KEPT_NAMES: Final = frozenset({
    "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ENABLE_HF_TRANSFER", "HF_HUB_OFFLINE",
})  # fmt: skip
"""Other variables with this prefix may hold anything, so these are listed explicitly."""


def has_secret(text: str) -> bool:
    """Whether a text contains an access token, or a password in a URL."""
    return _SECRET_TEXT.search(text) is not None


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Remove access tokens and values of secret variables from a text.

    Args:
        text: Text to be written.
        environment: Variables whose values are removed if their names indicate a secret.
    """
    for name, value in environment.items():
        if _is_secret_value(name, value):
            text = text.replace(value, HIDDEN)
    return _SECRET_TEXT.sub(HIDDEN, text)


def redact_command(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Redact a command line: the X of ``--token X``, ``--api-key=X`` and ``WANDB_API_KEY=X``."""
    written: list[str] = []
    is_value_of_secret = False
    for argument in argv:
        name, sign, _ = argument.partition("=")
        if is_value_of_secret and not argument.startswith("--"):
            written.append(HIDDEN)
        elif sign and _is_secret_option(name):
            written.append(f"{name}={HIDDEN}")
        else:
            written.append(redact(argument, environment))
        is_value_of_secret = argument.startswith("--") and not sign and _is_secret_option(name)
    return written


def hide_cut_secrets(text: str, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Redact a part of a text, such as a log that is read in chunks.

    Args:
        text: The part; it may begin or end within a secret.
        environment: Variables whose secret values are removed.

    Returns:
        The redacted text without the beginning of a secret at its end, and the number of characters of ``text`` that
        were left
        out: read those again with the next part.
    """
    values = [value for name, value in environment.items() if _is_secret_value(name, value)]
    held = max((_overlap(text, value) for value in values), default=0)
    known = text[: len(text) - held]
    cut = max((_overlap(known[::-1], value[::-1]) for value in values), default=0)
    return redact(f"{HIDDEN}{known[cut:]}" if cut else known, environment), held


def _overlap(text: str, value: str) -> int:
    """Length of a proper prefix of a value at the end of a text; 0 if it is short."""
    sizes = range(min(len(text), len(value) - 1), _SHORTEST_PART - 1, -1)
    return next((size for size in sizes if text.endswith(value[:size])), 0)


def _is_secret_option(name: str) -> bool:
    return _SECRET_NAME.search(_NO_SECRET_OPTION.sub("", name)) is not None


def _is_secret_value(name: str, value: str) -> bool:
    return len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) is not None


def keep_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that affect the computation, without secrets."""
    return {
        name: redact(value, environment)
        for name, value in sorted(environment.items())
        if (name in _KEPT_NAMES or name.startswith(_KEPT_VARIABLES)) and not _SECRET_NAME.search(name)
    }
