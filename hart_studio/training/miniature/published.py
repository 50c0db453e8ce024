"""The paper's own figures, in percent unless said: reference columns, never inputs of a computation."""

from __future__ import annotations

from typing import Final

MODEL: Final = "Qwen2.5-VL-7B"
"""The model of every figure here."""

JOINT_VISUAL_COT: Final = {
    # right answer wrong box, right answer right box, wrong answer wrong box, wrong answer right box, share
    "without the loop": (1057, 1838, 466, 681, 36.5),
    "in the loop, crops only": (502, 1830, 1028, 682, 21.5),
}
"""Table 1: counts of 4,042 questions of Visual-CoT, and P(wrong box | right answer)."""

WRONG_BOX: Final = {("base", "direct"): 36.5, ("base", "crops_only"): 21.5}
"""Table 1: P(wrong box | right answer) on Visual-CoT, by cell and protocol."""

GROUNDING: Final = {
    "base": (50.2, 66.0),
    "grpo": (51.0, 66.1),
    "mgpo": (51.3, 66.3),
    "ap_grpo_060": (75.4, 77.7),
}
"""Table 6: TreeBench and Visual-CoT, IoG > 0.3. The paper does not say k; its default is 0.6."""

BENCHMARKS: Final = (
    "MME-RealWorld-Lite, perception / reasoning (Table 7)",
    "TreeBench, perception / reasoning (Table 7)",
    "MME-RealWorld-Lite, overall (Table 2)",
)
"""Columns of ``ACCURACY``."""

ACCURACY: Final = {
    "base": ("46.4 / 35.9", "43.6 / 33.2", "42.3"),
    "sft": ("–", "–", "54.0"),
    "grpo": ("52.1 / 49.1", "52.3 / 32.0", "51.3"),
    "grpo_sft": ("–", "–", "58.1"),
    "mgpo": ("58.0 / 50.5", "53.7 / 31.2", "55.1"),
    "mgpo_sft": ("–", "–", "60.5"),
    "ap_grpo_015": ("51.2 / 47.5", "51.0 / 32.4", "–"),
    "ap_grpo_015_sft": ("67.0 / 56.9", "56.4 / 31.6", "–"),
    "ap_grpo_030": ("53.6 / 49.9", "55.0 / 33.6", "–"),
    "ap_grpo_030_sft": ("64.1 / 56.0", "57.7 / 34.8", "–"),
    "ap_grpo_060": ("53.3 / 48.0", "52.3 / 33.6", "–"),
    "sft_ap_grpo_060": ("51.7 / 48.1", "55.0 / 32.4", "–"),
    "ap_grpo_060_sft": ("64.9 / 58.5", "57.0 / 35.9", "62.4"),
}
"""Accuracy by cell. The SFT, GRPO and MGPO rows of Table 2 are the MGPO paper's, from full fine-tuning."""

COST: Final = {"grpo": (21.0, 17422), "mgpo": (30.7, 19130), "ap_grpo_060": (46.0, 18770)}
"""Table 8: seconds per step and MiB of GPU memory."""
