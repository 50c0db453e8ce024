"""Running out of memory, said once in words that name what to turn down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hart_studio.errors import ModelError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on the CPU torch says so with a plain ``RuntimeError``."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def memory_errors(device: torch.device, release: Callable[[], None] | None = None) -> Iterator[None]:
    """Turn an out-of-memory failure inside the block into a ``ModelError``; other errors pass.

    Args:
        device: Where the block runs, for the message.
        release: Called when memory ran out, to give back what was kept for later.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if release is not None:
            release()
        raise ModelError(
            f"expected the model and its batch to fit the memory of {device}, it ran out; lower the overview or crop "
            "budget (max_pixels), group_size, max_new_tokens or batch_tokens, or load a smaller model"
        ) from error
