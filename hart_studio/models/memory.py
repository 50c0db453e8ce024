"""Convert out-of-memory errors to a ``ModelError`` that names the settings to lower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hart_studio.errors import ModelError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory; on the CPU torch raises a plain ``RuntimeError``."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def memory_errors(device: torch.device, release: Callable[[], None] | None = None) -> Iterator[None]:
    """Turn an out-of-memory failure inside the block into a ``ModelError``; other errors pass.

    Args:
        device: Where the block runs, for the message.
        release: Called on out of memory, to free caches.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if release is not None:
            release()
        raise ModelError(
            f"Out of memory on {device}. Lower the overview or crop "
            "budget (max_pixels), group_size, max_new_tokens or batch_tokens, or load a smaller model."
        ) from error
