"""Scripted chat model that records requests, for tests without a network or weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hart_studio.geometry import fit_inside
from hart_studio.models.chat import ChatModel, ChatRequest, Completion, ImageInput, SamplingParams
from hart_studio.models.families import FAMILIES, PixelBudget
from hart_studio.prompts import CROPS_ONLY_BEFORE, FULL_AND_CROPS, GROUNDING_INSTRUCTION

OVERVIEW_BUDGET = PixelBudget(64 * 64, 256 * 256)
CROP_BUDGET = PixelBudget(32 * 32, 192 * 192)

TurnKind = Literal["grounding", "direct", "crops_only", "full_and_crops"]


@dataclass(frozen=True)
class Reply:
    """One scripted completion."""

    text: str
    finish_reason: Literal["stop", "length"] = "stop"


Script = str | Reply | Sequence[str | Reply] | Callable[[ChatRequest], str | Reply]
"""The same for every completion, one after another in order, or a function of the request."""


@dataclass(frozen=True)
class Call:
    """One call of ``generate``."""

    requests: list[ChatRequest]
    sampling: SamplingParams
    group_size: int


@dataclass
class ScriptedModel:
    """A ``ChatModel`` with scripted outputs per turn kind; a turn without a script fails the test.

    Like a real processor it fits each image into its budget and to multiples of the family's factor, so that the
    frame of the model differs from that of the overview.
    """

    grounding: Script | None = None
    direct: Script | None = None
    crops_only: Script | None = None
    full_and_crops: Script | None = None
    family_key: str = "qwen3_vl"
    overview_budget: PixelBudget = OVERVIEW_BUDGET
    crop_budget: PixelBudget = CROP_BUDGET
    name: str = "scripted"
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.family = FAMILIES[self.family_key]
        self._queues: dict[TurnKind, Iterator[str | Reply]] = {}

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        self.calls.append(Call(list(requests), sampling, group_size))
        return [[self._complete(request) for _ in range(group_size)] for request in requests]

    def requests(self, kind: TurnKind) -> list[ChatRequest]:
        """Every request of a kind of turn, in order."""
        return [request for call in self.calls for request in call.requests if turn_kind(request) == kind]

    def kinds(self) -> list[list[TurnKind]]:
        """Kinds of the requests of each call."""
        return [[turn_kind(request) for request in call.requests] for call in self.calls]

    def _complete(self, request: ChatRequest) -> Completion:
        reply = self._reply(request)
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        sizes = tuple(fed_wh(image, self.family.resize_factor) for image in images_in(request))
        visual_tokens = sum(width * height for width, height in sizes) // self.family.resize_factor**2
        words = sum(
            len(part.split()) for message in request.messages for part in message.parts if isinstance(part, str)
        )
        return Completion(
            text=reply.text,
            finish_reason=reply.finish_reason,
            prompt_tokens=words + visual_tokens,
            visual_tokens=visual_tokens,
            completion_tokens=max(1, len(reply.text.split())),
            image_sizes_wh=sizes,
            seconds=0.25,
        )

    def _reply(self, request: ChatRequest) -> str | Reply:
        kind = turn_kind(request)
        script: Script | None = getattr(self, kind)
        assert script is not None, f"the model was asked for a {kind} turn, which this test does not expect"
        if isinstance(script, (str, Reply)):
            return script
        if callable(script):
            return script(request)
        return next(self._queues.setdefault(kind, iter(script)))


@dataclass
class PointingModel:
    """A real model with scripted grounding text, because random weights do not write boxes."""

    real: ChatModel
    grounding: str
    last_requests: list[ChatRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.family = self.real.name, self.real.family
        self.overview_budget, self.crop_budget = self.real.overview_budget, self.real.crop_budget

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        self.last_requests = list(requests)
        answers = self.real.generate(requests, sampling, group_size)
        if requests and turn_kind(requests[0]) == "grounding":
            return [
                [Completion(self.grounding, "stop", 1, 1, 1, completion.image_sizes_wh, 0.0) for completion in group]
                for group in answers
            ]
        return answers


def turn_kind(request: ChatRequest) -> TurnKind:
    """Turn of a request, detected from its text."""
    text = text_of(request)
    if text.startswith(CROPS_ONLY_BEFORE):
        return "crops_only"
    if text.startswith(FULL_AND_CROPS):
        return "full_and_crops"
    return "grounding" if text.startswith(GROUNDING_INSTRUCTION) else "direct"


def text_of(request: ChatRequest) -> str:
    """Text of the last message."""
    return "".join(part for part in request.messages[-1].parts if isinstance(part, str))


def images_in(request: ChatRequest) -> list[ImageInput]:
    """The images of the whole conversation, in order of appearance."""
    return [part for message in request.messages for part in message.parts if isinstance(part, ImageInput)]


def fed_wh(image: ImageInput, factor: int) -> tuple[int, int]:
    """Image size reported by the scripted model: within its budget, multiples of ``factor``."""
    width, height = fit_inside(image.pixels.size, image.max_pixels)
    return max(factor, math.floor(width / factor) * factor), max(factor, math.floor(height / factor) * factor)
