"""The closed loop (paper, Fig. 2b): overview, grounding, crops from the ORIGINAL, answer, score.

    samples --prepare_samples--> views --ground_and_crop--> attempts (boxes, crops) --run_answering--> rollouts
                              `------------run_direct-----------------------^

Each stage takes the whole list and calls the model once, for all samples and all rollouts of their groups. The stages
are public: code that needs two protocols of one image (the Ask tab, verification) calls ``ground_and_crop`` once and
continues from its attempts. ``answer_grounded`` and ``answer_direct`` also return the model calls, for training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hart_studio.errors import ImageError
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.chat import ChatModel, ChatRequest, ImageInput
from hart_studio.pipeline.cropping import Crops, extract_crops, select_crop_regions
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import (
    AnswerResult,
    GroundingResult,
    answer_requests,
    crops_only_request,
    direct_request,
    full_and_crops_request,
    grounding_request,
    make_overview,
    parse_grounding,
    score_without_answer,
)
from hart_studio.records import Protocol, Rollout, RolloutGroup, Sample, Score, Turn


@dataclass(frozen=True, eq=False)
class PreparedSample:
    """A sample whose image is open. Samples of one image share ``image`` and ``overview``."""

    sample: Sample
    image: SourceImage
    overview: ImageInput


@dataclass(frozen=True, eq=False)
class GroundedSample:
    """A rollout between its two turns. ``crops`` is empty if no box was valid."""

    view: PreparedSample
    grounding: GroundingResult
    crops: Crops

    @property
    def sample(self) -> Sample:
        """The sample."""
        return self.view.sample


@dataclass(frozen=True, eq=False)
class FailedSample:
    """A sample whose image cannot be decoded, or whose grounding turn got no text. The other samples continue."""

    sample: Sample
    reason: str
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, eq=False)
class AnsweredSample:
    """A finished rollout with its model calls, whose sampled tokens a trainer computes log-probabilities of.

    Attributes:
        rollout: The record of the rollout.
        grounding: Turn 1; None for ``direct`` and for a failure.
        crops: The crops that turn 2 could show.
        answer: Turn 2; None if it did not run.
    """

    rollout: Rollout
    grounding: GroundingResult | None = None
    crops: Crops = field(default_factory=Crops)
    answer: AnswerResult | None = None


def run(
    model: ChatModel,
    samples: Sequence[Sample],
    protocol: Protocol,
    settings: LoopSettings,
    group_size: int = 1,
    open_image: ImageOpener = SourceImage,
) -> list[RolloutGroup]:
    """Run the loop on every sample, ``group_size`` times each.

    Args:
        model: The model for both turns.
        samples: All their overviews and crops must fit in memory; originals are decoded one at a time.
        protocol: Input of the answer turn.
        settings: Budgets, cropping, decoding, fallback.
        group_size: G, rollouts per sample; equal at temperature 0.
        open_image: Opens an image by its path; replaced in tests and by callers that keep images open.

    Returns:
        One group per sample, in order. An unreadable image gives rollouts with the outcome ``error``.
    """
    views = prepare_samples(model, samples, settings, open_image, will_crop=protocol != "direct")
    if protocol == "direct":
        return run_direct(model, views, settings, group_size)
    return run_answering(model, ground_and_crop(model, views, settings, group_size), protocol, settings)


def prepare_samples(
    model: ChatModel,
    samples: Sequence[Sample],
    settings: LoopSettings,
    open_image: ImageOpener = SourceImage,
    will_crop: bool = True,
) -> list[PreparedSample | FailedSample]:
    """Open each image and create its overview once, however many samples use it.

    Of several images, only the overviews stay in memory. A single image stays decoded for its crops; decoding starts
    in the background while the overview is processed.

    Args:
        model: The model.
        samples: Questions.
        settings: Budget of the overview.
        open_image: Opens an image by its path.
        will_crop: Whether crops will follow.
    """
    paths = dict.fromkeys(sample.image for sample in samples)
    opened: dict[str, tuple[SourceImage, ImageInput] | str] = {}
    for path in paths:
        try:
            image = open_image(path)
            if will_crop and len(paths) == 1:
                image.start_decoding()
            opened[path] = (image, make_overview(image, model, settings))
            if len(paths) > 1:
                image.close()
        except ImageError as error:
            opened[path] = str(error)
    return [
        FailedSample(sample, found)
        if isinstance(found := opened[sample.image], str)
        else PreparedSample(sample, *found)
        for sample in samples
    ]


def run_grounding(
    model: ChatModel, views: Sequence[PreparedSample | FailedSample], settings: LoopSettings, group_size: int = 1
) -> list[list[GroundingResult]]:
    """Run turn 1 without crops, in one model call; decodes no original.

    Returns:
        ``group_size`` groundings per view, none for a failure.
    """
    readable = [view for view in views if isinstance(view, PreparedSample)]
    requests = [grounding_request(view.overview, view.sample.question) for view in readable]
    completions = model.generate(requests, settings.grounding_sampling, group_size)
    groundings = {
        view: [parse_grounding(request, completion, model.family, view.image.wh) for completion in group]
        for view, request, group in zip(readable, requests, completions, strict=True)
    }
    return [groundings[view] if isinstance(view, PreparedSample) else [] for view in views]


def ground_and_crop(
    model: ChatModel, views: Sequence[PreparedSample | FailedSample], settings: LoopSettings, group_size: int = 1
) -> list[list[GroundedSample | FailedSample]]:
    """Run turn 1 and crop: ``group_size`` attempts per view, in one model call."""
    groups = run_grounding(model, views, settings, group_size)
    return [
        [view] * group_size
        if isinstance(view, FailedSample)
        else _extract_group_crops(model, view, groundings, settings)
        for view, groundings in zip(iterate_views(views), groups, strict=True)
    ]


def iterate_views(views: Sequence[PreparedSample | FailedSample]) -> Iterator[PreparedSample | FailedSample]:
    """Iterate over views; of several images, only one decoded original stays in memory."""
    last_views = {view.image: view for view in views if isinstance(view, PreparedSample)}
    for view in views:
        yield view
        if isinstance(view, PreparedSample) and len(last_views) > 1 and view is last_views[view.image]:
            view.image.close()


def run_answering(
    model: ChatModel,
    groups: Sequence[Sequence[GroundedSample | FailedSample]],
    protocol: Protocol,
    settings: LoopSettings,
) -> list[RolloutGroup]:
    """Run turn 2 (``answer_grounded``) and return the rollouts, one group per group of attempts."""
    return [group_rollouts(answers) for answers in answer_grounded(model, groups, protocol, settings)]


def run_direct(
    model: ChatModel, views: Sequence[PreparedSample | FailedSample], settings: LoopSettings, group_size: int = 1
) -> list[RolloutGroup]:
    """Run ``direct`` (``answer_direct``) and return the rollouts, one group per view."""
    return [group_rollouts(answers) for answers in answer_direct(model, views, settings, group_size)]


def answer_grounded(
    model: ChatModel,
    groups: Sequence[Sequence[GroundedSample | FailedSample]],
    protocol: Protocol,
    settings: LoopSettings,
) -> list[list[AnsweredSample]]:
    """Run turn 2 of every attempt with crops, in one model call.

    Args:
        model: The model.
        groups: From ``ground_and_crop``; the same attempts may be answered under several protocols.
        protocol: ``crops_only`` or ``full_and_crops``; ``direct`` has no turn 1, see ``answer_direct``.
        settings: Decoding and fallback.

    Returns:
        One answer per attempt, grouped as they are.
    """
    requests = {
        attempt: request
        for group in groups
        for attempt in group
        if isinstance(attempt, GroundedSample) and (request := _answer_request(attempt, protocol, settings))
    }
    asked = [(attempt.sample, request) for attempt, request in requests.items()]
    found = answer_requests(model, asked, settings.sampling)
    answers = {attempt: answer for attempt, (answer,) in zip(requests, found, strict=True)}
    return [
        [
            AnsweredSample(failed_rollout(attempt, protocol))
            if isinstance(attempt, FailedSample)
            else _finish_grounded(attempt, protocol, answers.get(attempt))
            for attempt in group
        ]
        for group in groups
    ]


def answer_direct(
    model: ChatModel, views: Sequence[PreparedSample | FailedSample], settings: LoopSettings, group_size: int = 1
) -> list[list[AnsweredSample]]:
    """Run ``direct``: the question with the full image, ``group_size`` times per view, in one model call."""
    asked = [
        (view.sample, direct_request(view.sample, view.overview)) for view in views if isinstance(view, PreparedSample)
    ]
    answers = iter(answer_requests(model, asked, settings.sampling, group_size))
    return [
        [AnsweredSample(failed_rollout(view, "direct"))] * group_size
        if isinstance(view, FailedSample)
        else [_finish_direct(view, answer) for answer in next(answers)]
        for view in views
    ]


def group_rollouts(answers: Sequence[AnsweredSample]) -> RolloutGroup:
    """The rollouts of one sample, at least one."""
    first = answers[0].rollout
    rollouts = tuple(answer.rollout for answer in answers)
    return RolloutGroup(sample_id=first.sample_id, protocol=first.protocol, rollouts=rollouts)


def _extract_group_crops(
    model: ChatModel, view: PreparedSample, groundings: Sequence[GroundingResult], settings: LoopSettings
) -> list[GroundedSample | FailedSample]:
    """Crop the boxes of the group of one view; all crops of an original are cut at once."""
    found = [grounding for grounding in groundings if not grounding.completion.missing_text]
    plans = [select_crop_regions(grounding.boxes, view.image.wh, model.family, settings) for grounding in found]
    try:
        crops = extract_crops(view.image, plans, model, settings)
    except ImageError as error:  # the overview of a damaged file may still decode
        return [FailedSample(view.sample, str(error), (grounding.turn,)) for grounding in groundings]
    cuts = iter(crops)
    return [
        FailedSample(view.sample, grounding.completion.missing_text, (grounding.turn,))
        if grounding.completion.missing_text
        else GroundedSample(view, grounding, next(cuts))
        for grounding in groundings
    ]


def _answer_request(attempt: GroundedSample, protocol: Protocol, settings: LoopSettings) -> ChatRequest | None:
    """Conversation of the answer turn; None = no valid box and no fallback, so there is no answer turn."""
    if not attempt.crops.boxes:
        return direct_request(attempt.sample, attempt.view.overview) if settings.fallback == "direct" else None
    if protocol == "crops_only":
        return crops_only_request(attempt.sample, attempt.crops)
    return full_and_crops_request(attempt.sample, attempt.grounding, attempt.crops)


def _finish_grounded(attempt: GroundedSample, protocol: Protocol, answer: AnswerResult | None) -> AnsweredSample:
    """Record a rollout of two turns, or of one if no box was valid and there is no fallback."""
    grounding, regions = attempt.grounding, attempt.crops.boxes
    rollout = Rollout(
        sample_id=attempt.sample.id,
        protocol=protocol,
        turns=(grounding.turn, answer.turn) if answer else (grounding.turn,),
        boxes=grounding.boxes,
        crops=regions,
        outcome=answer.outcome if answer and (regions or answer.outcome == "error") else grounding.outcome,
        used_fallback=answer is not None and not regions,
        score=answer.score if answer else score_without_answer(attempt.sample),
        error=answer.completion.missing_text if answer else "",
    )
    return AnsweredSample(rollout, grounding, attempt.crops, answer)


def _finish_direct(view: PreparedSample, answer: AnswerResult) -> AnsweredSample:
    """Record a rollout of ``direct``."""
    rollout = Rollout(
        sample_id=view.sample.id,
        protocol="direct",
        turns=(answer.turn,),
        outcome=answer.outcome,
        score=answer.score,
        error=answer.completion.missing_text,
    )
    return AnsweredSample(rollout, answer=answer)


def failed_rollout(failure: FailedSample, protocol: Protocol) -> Rollout:
    """Record a failed sample: not scored, which differs from wrong."""
    score = Score(value=None, extracted=None, expected=failure.sample.answer, rule="none")
    return Rollout(
        sample_id=failure.sample.id,
        protocol=protocol,
        turns=failure.turns,
        outcome="error",
        score=score,
        error=failure.reason,
    )
