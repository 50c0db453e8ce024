"""The family table: facts that the parser and the pipeline rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hart_studio.geometry import BoxFrame
from hart_studio.models.families import FAMILIES, supported_families


@pytest.mark.parametrize(
    ("key", "frame", "style", "factor"),
    [
        ("qwen2_5_vl", BoxFrame.MODEL_PIXELS, "qwen_json", 28),
        ("qwen2_vl", BoxFrame.NORMALIZED_1000, "qwen2_special", 28),
        ("qwen3_vl", BoxFrame.NORMALIZED_1000, "qwen_json", 32),
        ("internvl", BoxFrame.NORMALIZED_1000, "internvl", 448),
        ("llava_onevision", BoxFrame.NORMALIZED_1, "unit_list", 384),
    ],
)
def test_boxes_of_each_family(key: str, frame: BoxFrame, style: str, factor: int) -> None:
    family = FAMILIES[key]
    assert (family.box_frame, family.box_style, family.resize_factor) == (frame, style, factor)


def test_the_table_is_consistent() -> None:
    for key, family in FAMILIES.items():
        assert family.key == key
        for budget in (family.overview_budget, family.crop_budget):
            assert family.resize_factor**2 <= budget.min_pixels <= budget.max_pixels
        assert family.crop_budget.max_pixels <= family.overview_budget.max_pixels
        assert family.title in supported_families()
        assert family.checkpoint in supported_families()


def test_only_llava_is_limited_to_one_crop() -> None:
    assert {key: family.max_crops for key, family in FAMILIES.items() if family.max_crops is not None} == {
        "llava_onevision": 1
    }


def test_qwen_budgets_are_whole_visual_tokens() -> None:
    # 1280 tokens of 28 x 28 pixels are the 1,003,520 pixels that Qwen2.5-VL's own default allows.
    assert FAMILIES["qwen2_5_vl"].overview_budget == (200_704, 1_003_520)
    assert FAMILIES["qwen3_vl"].overview_budget.max_pixels // 32**2 == 1280


def test_the_table_needs_no_torch() -> None:
    code = "import sys, hart_studio.models.families; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
