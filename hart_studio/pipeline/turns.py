"""The two turns of the loop: ask for the key region on the overview, then ask the question (docs/concept.md).

Turn 1 returns boxes in original pixels. Turn 2 runs under one of the three protocols and is scored. Its request of
``crops_only`` is built without access to the overview: the signature guarantees that the image is withheld.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ChatModel, ChatRequest, Completion, ImageInput, Message, SamplingParams
from hart_studio.models.families import Family, PixelBudget
from hart_studio.parsing import convert_to_original, parse_boxes
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.prompts import (
    IMAGE,
    PromptPart,
    as_text,
    crops_only_prompt,
    direct_prompt,
    full_and_crops_prompt,
    grounding_prompt,
)
from hart_studio.records import Box, Outcome, Sample, Score, Turn
from hart_studio.scoring import score_answer


def compose_message(prompt: Sequence[PromptPart], images: Sequence[ImageInput]) -> Message:
    """Insert the images into the placeholders of a prompt.

    Args:
        prompt: Texts and image placeholders, from ``hart_studio.prompts``.
        images: One image per placeholder, in order of appearance.

    Returns:
        The user message.

    Raises:
        ValueError: If the numbers of placeholders and images differ.
    """
    slots = sum(not isinstance(part, str) for part in prompt)
    if slots != len(images):
        raise ValueError(f"expected one image per placeholder, got {len(images)} images for {slots} placeholders")
    waiting = iter(images)
    return Message("user", tuple(part if isinstance(part, str) else next(waiting) for part in prompt))


def record_turn(kind: Literal["grounding", "answer"], request: ChatRequest, completion: Completion) -> Turn:
    """Record one model call.

    Args:
        kind: Step of the closed loop.
        request: The conversation; its last message becomes ``prompt``. Earlier messages are separate turns.
        completion: Output of the model. Its image sizes and token counts cover the WHOLE conversation, so the answer
            turn of ``full_and_crops`` lists and counts the overview again: the model processes it twice.

    Returns:
        The turn.
    """
    return Turn(
        kind=kind,
        prompt=as_text([part if isinstance(part, str) else IMAGE for part in request.messages[-1].parts]),
        image_sizes_wh=completion.image_sizes_wh,
        text=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        visual_tokens=completion.visual_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=completion.seconds,
    )


@dataclass(frozen=True)
class GroundingResult:
    """Result of the grounding turn.

    Attributes:
        request: The conversation of turn 1, which ``full_and_crops`` continues.
        completion: Output of the model; a trainer computes the log-probabilities of its tokens.
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


@dataclass(frozen=True)
class AnswerResult:
    """Result of the answer turn.

    Attributes:
        request: The conversation up to the answer.
        completion: Output of the model; a trainer computes the log-probabilities of its tokens.
        score: r in {0, 1}, or None when the answer is unknown.
        outcome: ``truncated`` if the token limit cut the text off before an answer could be extracted, ``error`` if the
            server returned no text, otherwise ``ok``: text without an extractable answer is an ``ok`` turn with a wrong
            answer.
    """

    request: ChatRequest
    completion: Completion
    score: Score
    outcome: Outcome

    @property
    def turn(self) -> Turn:
        """The turn as it is recorded."""
        return record_turn("answer", self.request, self.completion)


def direct_request(sample: Sample, overview: ImageInput) -> ChatRequest:
    """``direct``: one turn over the full image."""
    return ChatRequest((compose_message(direct_prompt(sample.question, sample.choices), [overview]),))


def crops_only_request(sample: Sample, crops: Crops) -> ChatRequest:
    """``crops_only`` (HART): a NEW conversation; the full image is withheld.

    Raises:
        ValueError: If there is no crop.
    """
    prompt = crops_only_prompt(sample.question, sample.choices, len(crops.images))
    return ChatRequest((compose_message(prompt, crops.images),))


def full_and_crops_request(sample: Sample, grounding: GroundingResult, crops: Crops) -> ChatRequest:
    """``full_and_crops`` (MGPO): the conversation of turn 1, with its own overview object, continues with the crops."""
    prompt = full_and_crops_prompt(sample.question, sample.choices, len(crops.images))
    grounding_message = Message("assistant", (grounding.completion.text,))
    return ChatRequest((*grounding.request.messages, grounding_message, compose_message(prompt, crops.images)))


def parse_answer(sample: Sample, request: ChatRequest, completion: Completion) -> AnswerResult:
    """Score the text of an answer turn; never raises on model text. Without any text it is unscored, not wrong."""
    if completion.missing_text:
        score = Score(value=None, extracted=None, expected=sample.answer, rule="none")
        return AnswerResult(request, completion, score, "error")
    score = score_answer(completion.text, sample.choices, sample.answer)
    is_cut_off = completion.finish_reason == "length" and score.extracted is None
    return AnswerResult(request, completion, score, "truncated" if is_cut_off else "ok")


def answer_requests(
    model: ChatModel, asked: Sequence[tuple[Sample, ChatRequest]], sampling: SamplingParams, group_size: int = 1
) -> list[list[AnswerResult]]:
    """Run the answer turns of several samples, ``group_size`` times each, in one model call."""
    completions = model.generate([request for _, request in asked], sampling, group_size)
    return [
        [parse_answer(sample, request, completion) for completion in group]
        for (sample, request), group in zip(asked, completions, strict=True)
    ]


def score_without_answer(sample: Sample) -> Score:
    """Score of a rollout without a valid box and therefore without an answer turn: r = 0 if the answer is known."""
    value = None if sample.answer is None else 0.0
    return Score(value=value, extracted=None, expected=sample.answer, rule="no_answer_turn")
