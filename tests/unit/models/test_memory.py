"""Memory by precision and for one question, by hand-computed numbers."""

from __future__ import annotations

import pytest

from hart_studio.models.memory import Architecture, estimate_inference_memory, estimate_weight_bytes

SMALL = Architecture("qwen2_5_vl", 1000, 2, 4, 1, 8, 32, 64, 16, 48)


def test_quantized_weights_are_attention_and_mlp_matrices() -> None:
    # per layer: query and output 2 * 32 * 32, key and value 2 * 32 * 8, MLP 3 * 32 * 64
    assert SMALL.quantized_parameters == 2 * (2048 + 512 + 6144)


@pytest.mark.parametrize(
    ("quantization", "float_bytes", "expected"),
    [("none", 4, 40_000), ("none", 2, 20_000), ("8bit", 2, 2 * 1808 + 8192), ("4bit", 2, 3616 + 4226)],
)
def test_weights_by_precision(quantization: str, float_bytes: int, expected: int) -> None:
    # 4 bits: 8192 / 2, 128 scales of 1 byte, and 2 bytes (8192 * 4 / 16384) of the scales' scales
    assert estimate_weight_bytes(10_000, 8192, quantization, float_bytes) == expected


def test_working_set_of_one_question() -> None:
    found = estimate_inference_memory(SMALL, "bfloat16")
    tokens = 4 * 640 + 512 + 512  # four crops have more tokens than the overview of 1280
    assert found.kv_cache == 2 * 2 * 1 * 8 * tokens * 2
    assert found.activations == 4 * 2560 * (6 * 16 + 3 * 48) * 2
    assert found.total == 2000 + found.kv_cache + found.activations
    assert estimate_inference_memory(SMALL, "float32").working_set == 2 * found.working_set


def test_families_with_tiles_count_whole_tiles() -> None:
    by_family = {
        key: estimate_inference_memory(Architecture(key, 1, 1, 1, 1, 1, 0, 0, 0, 0), "bfloat16").kv_cache // 4 - 1024
        for key in ("internvl", "llava_onevision", "qwen3_vl")
    }
    # four crops of 4 tiles and a thumbnail; one crop or overview of 4 tiles and a base image; four crops of 640
    assert by_family == {"internvl": 4 * 5 * 256, "llava_onevision": 5 * 729, "qwen3_vl": 2560}
