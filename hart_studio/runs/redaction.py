"""Secrets stay out of files: what a run writes down about its command, its environment and its errors passes here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

HIDDEN: Final = "***"
"""What stands in place of a secret."""

_SECRET_NAME: Final = re.compile(r"(token|key|secret|password|passwd)$", re.IGNORECASE)
_SECRET_TEXT: Final = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"  # GitHub
    r"|\bsk-[\w-]{16,}"  # servers with OpenAI's interface
    r"|\bAKIA[0-9A-Z]{16}\b"  # AWS
    r"|(?<=://)[^\s/@]+(?=@)"  # user and password in a URL
)
_SHORTEST_SECRET: Final = 8
"""A shorter value of a secret variable would be found in innocent text."""
_KEPT_VARIABLES: Final = ("ACCELERATE_", "CUDA_", "HF_", "NCCL_", "OMP_", "PYTORCH_", "TRANSFORMERS_")


def has_secret(text: str) -> bool:
    """Whether a text holds what looks like an access token, or a password in a URL."""
    return _SECRET_TEXT.search(text) is not None


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without what looks like an access token and without the values of secret variables.

    Args:
        text: Any text that is about to be written.
        environment: Variables whose values are looked for when their names say that they are secret.
    """
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    return _SECRET_TEXT.sub(HIDDEN, text)


def redact_command(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """A command line fit to be written: ``--token X``, ``--api-key=X`` and ``WANDB_API_KEY=X`` lose their X."""
    written: list[str] = []
    is_value_of_secret = False
    for argument in argv:
        name, sign, _ = argument.partition("=")
        if is_value_of_secret and not argument.startswith("--"):
            written.append(HIDDEN)
        elif sign and _SECRET_NAME.search(name):
            written.append(f"{name}={HIDDEN}")
        else:
            written.append(redact(argument, environment))
        is_value_of_secret = argument.startswith("--") and not sign and bool(_SECRET_NAME.search(name))
    return written


def keep_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that change what a run computes, without secrets; every other variable is left out."""
    return {
        name: redact(value, environment)
        for name, value in sorted(environment.items())
        if name.startswith(_KEPT_VARIABLES) and not _SECRET_NAME.search(name)
    }
