"""Turn 2: ask the question under one of the three protocols and score the answer (docs/concept.md, Closed loop).

The request of ``crops_only`` is built without access to the overview: the signature guarantees that the image is
withheld.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hart_studio.models.chat import ChatModel, ChatRequest, Completion, ImageInput, Message, SamplingParams
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.grounding import GroundingResult
from hart_studio.pipeline.turns import compose_message, record_turn
from hart_studio.prompts import crops_only_prompt, direct_prompt, full_and_crops_prompt
from hart_studio.records import Outcome, Sample, Score, Turn
from hart_studio.scoring import score_answer


@dataclass(frozen=True)
class AnswerResult:
    """Result of the answer turn.

    Attributes:
        request: The conversation up to the answer.
        completion: Output of the model; a trainer scores its token ids.
        score: r in {0, 1}, or None when the answer is unknown.
        outcome: ``truncated`` if the token limit cut the text off before an answer could be extracted, otherwise
            ``ok``: text without an extractable answer is an ``ok`` turn with a wrong answer.
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
    grounding_message = Message("assistant", (grounding.turn.text,))
    return ChatRequest((*grounding.request.messages, grounding_message, compose_message(prompt, crops.images)))


def parse_answer(sample: Sample, request: ChatRequest, completion: Completion) -> AnswerResult:
    """Score the text of an answer turn; never raises on model text."""
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
