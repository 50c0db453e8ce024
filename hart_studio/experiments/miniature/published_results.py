"""Published results for each variant of the study: the corresponding rows of the paper."""

from __future__ import annotations

from typing import Final

from hart_studio.evaluation import published

WRONG_BOX: Final = {
    ("base", "crops_only" if row.is_looped else "direct"): row.wrong_box
    for row in published.TABLE_1
    if row.model == published.MODEL
}
"""Table 1: P(wrong box | right answer) on Visual-CoT, by variant and protocol."""

GROUNDING: Final = {
    "base": published.TABLE_6[published.MODEL],
    "grpo": published.TABLE_6["GRPO"],
    "mgpo": published.TABLE_6["MGPO"],
    "ap_grpo_060": published.TABLE_6["AP-GRPO"],
}
"""Table 6: TreeBench and Visual-CoT, IoG > 0.3."""

BENCHMARKS: Final = (
    "MME-RealWorld-Lite, perception / reasoning (Table 7)",
    "TreeBench, perception / reasoning (Table 7)",
    "MME-RealWorld-Lite, overall (Table 2)",
)
"""Columns of ``ACCURACY``."""

COST: Final = {
    "grpo": published.TABLE_8["GRPO"],
    "mgpo": published.TABLE_8["MGPO"],
    "ap_grpo_060": published.TABLE_8["HART"],
}
"""Table 8: seconds per step and MiB of GPU memory."""

_ROWS: Final = {
    # Variant -> its row of Table 7 and of Table 2.
    "base": (published.MODEL, published.MODEL),
    "sft": ("", "SFT"),
    "grpo": ("GRPO", "GRPO"),
    "grpo_sft": ("", "GRPO + SFT"),
    "mgpo": ("MGPO", "MGPO"),
    "mgpo_sft": ("", "MGPO + SFT"),
    "ap_grpo_015": ("AP-GRPO, k 0.15", ""),
    "ap_grpo_015_sft": ("AP-GRPO + SFT, k 0.15", ""),
    "ap_grpo_030": ("AP-GRPO, k 0.30", ""),
    "ap_grpo_030_sft": ("AP-GRPO + SFT, k 0.30", ""),
    "ap_grpo_060": ("AP-GRPO, k 0.60", ""),
    "sft_ap_grpo_060": ("SFT + AP-GRPO, k 0.60", ""),
    "ap_grpo_060_sft": ("AP-GRPO + SFT, k 0.60", published.HART),
}


def _show_row(levels: str, overall: str) -> tuple[str, str, str]:
    both = next((row for row in published.TABLE_7 if row.method == levels), None)
    whole = next((row for row in published.TABLE_2 if row.method == overall), None)
    shown = ["–", "–"] if both is None else [f"{a} / {b}" for a, b in (both.mme_realworld_lite, both.treebench)]
    return shown[0], shown[1], "–" if whole is None else f"{whole.overall}"


ACCURACY: Final = {variant: _show_row(*rows) for variant, rows in _ROWS.items()}
"""Accuracy by variant. The SFT, GRPO and MGPO rows of Table 2 are from the MGPO paper, with full fine-tuning."""
