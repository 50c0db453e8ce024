"""Turn 1: ask for the key region on the overview; convert its boxes to original pixels (docs/concept.md)."""

from __future__ import annotations

from dataclasses import dataclass

from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ChatModel, ChatRequest, Completion, ImageInput
from hart_studio.models.families import Family, PixelBudget
from hart_studio.parsing import convert_to_original, parse_boxes
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import compose_message, record_turn
from hart_studio.prompts import grounding_prompt
from hart_studio.records import Box, Outcome, Turn


@dataclass(frozen=True)
class GroundingResult:
    """Result of the grounding turn.

    Attributes:
        request: The conversation of turn 1, which ``full_and_crops`` continues.
        completion: Output of the model; a trainer scores its token ids.
        boxes: Valid regions in original pixels, clipped to the image, in the order of the output.
        outcome: ``ok`` if there is at least one valid box, whether or not the text was cut off. Otherwise
            ``truncated`` if the token limit cut the text off, ``bad_box`` if it contains coordinates,
            otherwise ``no_box``.
    """

    request: ChatRequest
    completion: Completion
    boxes: tuple[Box, ...]
    outcome: Outcome

    @property
    def turn(self) -> Turn:
        """The turn as it is recorded."""
        return record_turn("grounding", self.request, self.completion)


def overview_budget(model: ChatModel, settings: LoopSettings) -> PixelBudget:
    """Minimum and maximum area of the overview in the model input, pixels."""
    max_pixels = settings.overview_max_pixels or model.overview_budget.max_pixels
    return PixelBudget(min(model.overview_budget.min_pixels, max_pixels), max_pixels)


def make_overview(image: SourceImage, model: ChatModel, settings: LoopSettings) -> ImageInput:
    """Create the overview I_f: the whole image, downscaled to the pixel budget.

    Args:
        image: The original.
        model: Its budget applies if the settings set none.
        settings: Only ``overview_max_pixels`` is used.

    Returns:
        One image object; share it between all requests about this image, so that it is encoded once.
    """
    budget = overview_budget(model, settings)
    return ImageInput(image.overview(max_pixels=budget.max_pixels), budget.min_pixels, budget.max_pixels)


def grounding_request(overview: ImageInput, question: str) -> ChatRequest:
    """The conversation of turn 1: the overview, the paper's instruction and the question without its choices."""
    return ChatRequest((compose_message(grounding_prompt(question), [overview]),))


def parse_grounding(
    request: ChatRequest, completion: Completion, family: Family, original_wh: tuple[int, int]
) -> GroundingResult:
    """Parse the boxes of turn 1.

    Args:
        request: The conversation of turn 1.
        completion: Raw output. The size of the overview in the model input is taken from here, that is from the
            output of the processor, because some families write boxes in that frame.
        family: Defines the frame of the coordinates.
        original_wh: Width and height of the original image in pixels.

    Returns:
        Boxes in original pixels and how the turn ended; never raises on model text.
    """
    parsed = parse_boxes(completion.text)
    boxes, status = convert_to_original(parsed, family.box_frame, original_wh, completion.image_sizes_wh[0])
    if boxes:
        outcome: Outcome = "ok"
    elif completion.finish_reason == "length":
        outcome = "truncated"
    else:
        outcome = "no_box" if status == "none" else "bad_box"
    return GroundingResult(request, completion, boxes, outcome)
