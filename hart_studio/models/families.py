"""Table of model families: box frame, native box text, pixel budgets, limits.

A family is found by the ``model_type`` of a checkpoint's ``config.json``; the model size is irrelevant.
Imports no torch: the page, the parser and the served models use this table too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from hart_studio.geometry import BoxFrame
from hart_studio.parsing import BoxStyle


class PixelBudget(NamedTuple):
    """Minimum and maximum area in pixels of one image in the model input."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class Family:
    """One row of the table.

    All budgets are project defaults; the paper does not state them. A checkpoint whose processor allows less keeps
    its own limit (``inputs.default_budget``).
    """

    key: str
    """``model_type`` in ``config.json``."""
    title: str
    """Display name."""
    box_frame: BoxFrame
    """Frame of the coordinates that the model writes."""
    box_style: BoxStyle
    """Native box text, for ``parsing.format_boxes``."""
    budget_kind: Literal["area", "tiles", "anyres"]
    """How the processor receives a budget. ``area``: per call, in pixels. ``tiles``: per call, as a number of tiles.
    ``anyres``: not at all, so the image is first fitted to the best canvas of tiles within the budget."""
    overview_budget: PixelBudget
    """Default budget of the full image of turn 1, and of ``direct``."""
    crop_budget: PixelBudget
    """Default budget of one crop."""
    resize_factor: int
    """Sides of the model input are multiples of this many pixels (patch x merge, or the side of a tile)."""
    uses_mrope: bool
    """Whether rotary positions follow the patch grid of each image; plain text positions would then be silently
    wrong."""
    min_side: int = 28
    """Shortest side in pixels that is fed to the processor; a smaller image is enlarged first."""
    max_aspect: float = 50.0
    """Longest over shortest side that is fed to the processor; beyond it the short side is stretched."""
    max_crops: int | None = None
    """Maximum number of crops in one answer turn; None = no limit. With more boxes,
    crop the one region that encloses them."""
    box_tags: tuple[str, ...] = ()
    """Special tokens of the native box text. They stay in a decoded answer; every other special token is removed."""
    checkpoint: str = ""
    """A hub checkpoint that loads without remote code, for messages."""
    processing_classes: frozenset[str] = frozenset()
    """Transformers classes that the files of a checkpoint may name, without the suffixes Fast and Pil: processor, image
    processor, video processor and tokenizers."""


def with_tokenizers(*names: str) -> frozenset[str]:
    """The named classes and the tokenizers that any family may have."""
    return frozenset({*names, "PreTrainedTokenizer", "Qwen2Tokenizer", "TokenizersBackend"})


FAMILIES: dict[str, Family] = {
    # Boxes are pixels of the image AFTER the processor's resize: they mean nothing without the processed size.
    # Without mm_token_type_ids the model silently falls back to plain text positions.
    # The processor refuses side ratios above 200.
    "qwen2_5_vl": Family(
        key="qwen2_5_vl",
        title="Qwen2.5-VL",
        box_frame=BoxFrame.MODEL_PIXELS,
        box_style="qwen_json",
        budget_kind="area",
        overview_budget=PixelBudget(256 * 28 * 28, 1280 * 28 * 28),
        crop_budget=PixelBudget(128 * 28 * 28, 640 * 28 * 28),
        resize_factor=28,
        uses_mrope=True,
        checkpoint="Qwen/Qwen2.5-VL-7B-Instruct",
        processing_classes=with_tokenizers(
            "Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor", "Qwen2VLVideoProcessor"
        ),
    ),
    # Same processor as Qwen2.5-VL, other frame: thousandths. Its box text consists of special tokens.
    "qwen2_vl": Family(
        key="qwen2_vl",
        title="Qwen2-VL",
        box_frame=BoxFrame.NORMALIZED_1000,
        box_style="qwen2_special",
        budget_kind="area",
        overview_budget=PixelBudget(256 * 28 * 28, 1280 * 28 * 28),
        crop_budget=PixelBudget(128 * 28 * 28, 640 * 28 * 28),
        resize_factor=28,
        uses_mrope=True,
        box_tags=("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
        checkpoint="Qwen/Qwen2-VL-7B-Instruct",
        processing_classes=with_tokenizers("Qwen2VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
    ),
    # Patch 16, so one visual token is 32 x 32 pixels. The same JSON as Qwen2.5-VL, but in thousandths.
    # Its vision tower passes features to several layers of the language model (deepstack).
    "qwen3_vl": Family(
        key="qwen3_vl",
        title="Qwen3-VL",
        box_frame=BoxFrame.NORMALIZED_1000,
        box_style="qwen_json",
        budget_kind="area",
        overview_budget=PixelBudget(256 * 32 * 32, 1280 * 32 * 32),
        crop_budget=PixelBudget(128 * 32 * 32, 640 * 32 * 32),
        resize_factor=32,
        uses_mrope=True,
        min_side=32,
        checkpoint="Qwen/Qwen3-VL-8B-Instruct",
        processing_classes=with_tokenizers("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"),
    ),
    # Only the "-hf" checkpoints load without remote code. Boxes are thousandths of the ORIGINAL image, whatever
    # the tiling. An image is stretched onto a grid of 448-pixel tiles chosen by its aspect alone, plus a thumbnail:
    # a thin strip costs as many tiles as a large square.
    "internvl": Family(
        key="internvl",
        title="InternVL3",
        box_frame=BoxFrame.NORMALIZED_1000,
        box_style="internvl",
        budget_kind="tiles",
        overview_budget=PixelBudget(448 * 448, 6 * 448 * 448),
        crop_budget=PixelBudget(448 * 448, 4 * 448 * 448),
        resize_factor=448,
        uses_mrope=False,
        box_tags=("<ref>", "</ref>", "<box>", "</box>"),
        checkpoint="OpenGVLab/InternVL3-8B-hf",
        processing_classes=with_tokenizers(
            "InternVLProcessor", "GotOcr2ImageProcessor", "InternVLVideoProcessor", "LlamaTokenizer"
        ),
    ),
    # A single image in a conversation is split into tiles of 384. With two or more, the processor gives each
    # ONE padded 384 tile, which loses the resolution of a crop: hence a single enclosing crop. The chat template
    # puts the images of a message before its text. An unlimited 4K image costs over 7,000 visual tokens.
    # It is disputed whether its boxes refer to the image or to the padded square. Project default: the image.
    "llava_onevision": Family(
        key="llava_onevision",
        title="LLaVA-OneVision",
        box_frame=BoxFrame.NORMALIZED_1,
        box_style="unit_list",
        budget_kind="anyres",
        overview_budget=PixelBudget(384 * 384, 4 * 384 * 384),
        crop_budget=PixelBudget(384 * 384, 4 * 384 * 384),
        resize_factor=384,
        uses_mrope=False,
        max_crops=1,
        checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf",
        processing_classes=with_tokenizers(
            "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor"
        ),
    ),
}
"""The supported families by ``model_type``."""


def supported_families() -> str:
    """List the families with one checkpoint each, for error messages."""
    return ", ".join(f"{family.title} ({family.checkpoint})" for family in FAMILIES.values())
