"""Out-of-memory errors become one clear message; other errors pass."""

from __future__ import annotations

import pytest
import torch

from hart_studio.errors import ModelError
from hart_studio.models.memory import memory_errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_names_what_to_turn_down(error: Exception) -> None:
    message = r"Out of memory on cpu.*max_pixels.*group_size.*max_new_tokens.*batch_tokens"
    with pytest.raises(ModelError, match=message), memory_errors(torch.device("cpu")):
        raise error


def test_a_real_failed_allocation_on_the_cpu_is_recognized() -> None:
    with pytest.raises(ModelError, match="Out of memory"), memory_errors(torch.device("cpu")):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), memory_errors(torch.device("cpu")):
        raise RuntimeError("size mismatch")
