from __future__ import annotations

import pytest

from hart_studio.runs.devices import describe_device


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1 x cpu", "CPU"),
        ("cpu", "CPU"),
        ("2 x cpu", "CPU, 2 processes"),
        ("cuda", "1 GPU"),
        ("1 x cuda: NVIDIA A100", "1 GPU: NVIDIA A100"),
        ("4 x cuda: NVIDIA A100-SXM4-80GB", "4 GPUs: NVIDIA A100-SXM4-80GB"),
        ("1 x mps", "Apple GPU (MPS)"),
        ("2 x tpu", "2 x tpu"),
        ("", ""),
    ],
)
def test_a_device_is_reported_in_one_spelling(written: str, shown: str) -> None:
    assert describe_device(written) == shown
