"""Choice of device and precision. Apple's MPS is a stand-in: no test here runs on a Mac."""

import pytest
import torch

from hart_studio.errors import ModelError
from hart_studio.models import devices
from hart_studio.models.devices import LARGE_WEIGHT_BYTES, has_cpu_bfloat16, resolve_device, resolve_dtype

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def set_machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_cuda_then_mps_then_the_cpu(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto").type == expected


def test_a_named_device_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, mps=True)
    assert resolve_device("mps") == MPS and resolve_device("cpu") == CPU
    with pytest.raises(ModelError, match="0 CUDA devices"):
        resolve_device("cuda:0")
    set_machine(monkeypatch, cuda=True)
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ModelError, match="Device 'mps' is not available: it needs a Mac"):
        resolve_device("mps")
    for name in ("mps:1", "tpu", "cuda:", ""):
        with pytest.raises(ModelError, match="use auto, cpu, cuda, cuda:N or mps"):
            resolve_device(name)


@pytest.mark.parametrize(("is_new", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_on_a_gpu(is_new: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda major, minor: is_new and (major, minor) >= (14, 0)
    )
    assert resolve_dtype("auto", CUDA) == torch.bfloat16
    assert resolve_dtype("auto", MPS) == expected
    assert resolve_dtype("float16", MPS) == torch.float16


@pytest.mark.parametrize(
    ("has_it", "size", "expected"),
    [
        (True, LARGE_WEIGHT_BYTES, torch.bfloat16),
        (True, LARGE_WEIGHT_BYTES - 1, torch.float32),
        (False, 100 * LARGE_WEIGHT_BYTES, torch.float32),
    ],
)
def test_auto_precision_on_the_cpu(
    has_it: bool, size: int, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_cpu_bfloat16", lambda: has_it)
    assert resolve_dtype("auto", CPU, size) == expected


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_either_instruction_set_is_enough(
    avx512: bool, amx: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_cpu_bfloat16() is expected
