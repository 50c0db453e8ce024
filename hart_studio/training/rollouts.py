"""Rollouts for training: run the pipeline with the policy, and build sequences with rewards and credits.

    samples -> prepare_samples -> ground_and_crop -> run_answering | run_direct -> RolloutGroup
                                 `-> TrainableModel records the tokens -> TrainingSequence per turn

A sample that cannot be run becomes a group with the outcome ``error`` and no sequences. It is counted, and training
continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hart_studio.algorithms.credit import credit_group
from hart_studio.algorithms.methods import Method
from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.chat import ImageInput
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.closed_loop import FailedSample, GroundedSample, PreparedSample
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, Rollout, RolloutGroup, Sample, Score
from hart_studio.runs.config import RunConfig
from hart_studio.training.rewards import Reward, compute_reward
from hart_studio.training.sequences import Prompt, TrainingSequence, turn_sequence, two_turn_sequences
from hart_studio.training.trainable_model import Generation, TrainableModel


@dataclass(frozen=True, eq=False)
class TrainingGroup:
    """G rollouts of one sample, ready for scoring.

    Attributes:
        sample: The question, without gold boxes.
        group: The rollouts with their credits.
        rewards: One per rollout.
        sequences: For each rollout, the sequences to train on; none if it could not be scored.
        image_wh: (width, height) of the original image; None if it could not be opened.
        overview: The overview I_f; None if it could not be opened.
        crops: For each rollout, the crops I_s of its answer turn.
    """

    sample: Sample
    group: RolloutGroup
    rewards: tuple[Reward, ...]
    sequences: tuple[tuple[TrainingSequence, ...], ...]
    image_wh: tuple[int, int] | None = None
    overview: ImageInput | None = None
    crops: tuple[tuple[ImageInput, ...], ...] = ()


def loop_settings(config: RunConfig, max_new_tokens: int, seed: int | None) -> LoopSettings:
    """Pipeline settings for training: sampling with temperature, no fallback to the full image."""
    rollout = config.rollout
    return LoopSettings(
        overview_max_pixels=rollout.overview_max_pixels,
        crop_max_pixels=rollout.crop_max_pixels,
        padding=rollout.padding,
        max_boxes=rollout.max_boxes,
        temperature=rollout.temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        fallback="none",
    )


def roll_out(
    policy: TrainableModel,
    samples: Sequence[Sample],
    method: Method,
    config: RunConfig,
    seed: int,
    open_image: ImageOpener = SourceImage,
) -> list[TrainingGroup]:
    """Run the loop on every sample ``group_size`` times and assign credits.

    Args:
        policy: The model in training.
        samples: Questions; sampled together, or one by one if one of them fails.
        method: Defines the protocol and the credit.
        config: Settings of the run.
        seed: Fixes the samples, in [0, 2**32).
        open_image: Opens an image by its path.

    Returns:
        One group per sample, in order.

    Raises:
        ModelError: If memory runs out, or the logits are NaN.
    """
    policy.take_generations()
    try:
        return _roll_out_together(policy, samples, method, config, seed, open_image)
    except (InputError, ImageError, ValueError) as error:
        policy.take_generations()
        if len(samples) == 1:
            return [_failed_group(samples[0], method, config.rollout.group_size, str(error) or type(error).__name__)]
    return [roll_out(policy, [sample], method, config, seed, open_image)[0] for sample in samples]


def _roll_out_together(
    policy: TrainableModel,
    samples: Sequence[Sample],
    method: Method,
    config: RunConfig,
    seed: int,
    open_image: ImageOpener,
) -> list[TrainingGroup]:
    size = config.rollout.group_size
    answer_settings = loop_settings(config, config.rollout.max_answer_tokens, seed)
    views = closed_loop.prepare_samples(
        policy, samples, answer_settings, open_image, will_crop=method.protocol != "direct"
    )
    if method.protocol == "direct":
        groups = closed_loop.run_direct(policy, views, answer_settings, size)
        (asked,) = policy.take_generations()
        sequences = _direct_sequences(policy, views, asked)
        crops: list[tuple[tuple[ImageInput, ...], ...]] = [((),) * size for _ in views]
    else:
        grounding_settings = loop_settings(config, config.rollout.max_grounding_tokens, seed)
        attempts = closed_loop.ground_and_crop(policy, views, grounding_settings, size)
        if method.protocol == "full_and_crops":
            attempts = [[_fallback_to_full_image(attempt) for attempt in group] for group in attempts]
        groups = closed_loop.run_answering(policy, attempts, method.protocol, answer_settings)
        grounded, answered = policy.take_generations()
        sequences = _two_turn_sequences(policy, attempts, grounded, answered, method, config)
        crops = [
            tuple(attempt.crops.images if isinstance(attempt, GroundedSample) else () for attempt in group)
            for group in attempts
        ]
    return [
        _assign_credit(view, group, parts, seen, method, config)
        for view, group, parts, seen in zip(views, groups, sequences, crops, strict=True)
    ]


def _direct_sequences(
    policy: TrainableModel, views: Sequence[PreparedSample | FailedSample], asked: Sequence[Generation]
) -> list[list[tuple[TrainingSequence, ...]]]:
    """Sequences of rollouts with one turn, which is trained regardless of ``trained_turns``."""
    generations = iter(asked)
    sequences: list[list[tuple[TrainingSequence, ...]]] = []
    for view in views:
        if isinstance(view, FailedSample):
            sequences.append([])
            continue
        generation = next(generations)
        prompt = policy.read(generation.request)
        sequences.append([(turn_sequence(prompt, completion.token_ids),) for completion in generation.completions])
    return sequences


def _two_turn_sequences(
    policy: TrainableModel,
    attempts: Sequence[Sequence[GroundedSample | FailedSample]],
    grounded: Sequence[Generation],
    answered: Sequence[Generation],
    method: Method,
    config: RunConfig,
) -> list[list[tuple[TrainingSequence, ...]]]:
    by_request = {id(generation.request): generation for generation in grounded}
    answers = iter(answered)
    sequences: list[list[tuple[TrainingSequence, ...]]] = []
    for group in attempts:
        first: Prompt | None = None  # one object for the whole group, encoded once
        parts: list[tuple[TrainingSequence, ...]] = []
        for index, attempt in enumerate(group):
            if isinstance(attempt, FailedSample):
                continue
            generation = by_request[id(attempt.grounding.request)]
            first = first or policy.read(generation.request)
            completion_ids = generation.completions[index].token_ids
            answer = next(answers) if attempt.crops.boxes else None
            parts.append(tuple(_rollout_sequences(policy, first, completion_ids, answer, method, config)))
        sequences.append(parts)
    return sequences


def _rollout_sequences(
    policy: TrainableModel,
    first: Prompt,
    completion_ids: Sequence[int],
    answer: Generation | None,
    method: Method,
    config: RunConfig,
) -> Iterator[TrainingSequence]:
    """The sequences of a rollout of two turns; a rollout without a valid box has its grounding turn only."""
    turns = config.method.trained_turns
    if answer is not None and method.protocol == "full_and_crops":
        second = policy.read(answer.request)
        yield from two_turn_sequences(first, completion_ids, second, answer.completions[0].token_ids, turns)
        return
    if turns != "answer":
        yield turn_sequence(first, completion_ids)
    if turns != "grounding" and answer is not None:
        yield turn_sequence(policy.read(answer.request), answer.completions[0].token_ids)


def _fallback_to_full_image(attempt: GroundedSample | FailedSample) -> GroundedSample | FailedSample:
    """MGPO without a valid box: the full image is sent again instead of the crop, as in the original work."""
    if isinstance(attempt, FailedSample) or attempt.crops.boxes:
        return attempt
    width, height = attempt.view.image.wh
    whole = Box.from_xyxy((0.0, 0.0, float(width), float(height)))
    return replace(attempt, crops=Crops((whole,), (attempt.view.overview,)))


def _assign_credit(
    view: PreparedSample | FailedSample,
    group: RolloutGroup,
    sequences: Sequence[tuple[TrainingSequence, ...]],
    crops: tuple[tuple[ImageInput, ...], ...],
    method: Method,
    config: RunConfig,
) -> TrainingGroup:
    image_wh = view.image.wh if isinstance(view, PreparedSample) else (1, 1)
    rewards = tuple(compute_reward(rollout, image_wh, config.method) for rollout in group.rollouts)
    credits = credit_group(
        [reward.total for reward in rewards],
        method,
        preference_scale=config.method.preference_scale,
        beta=config.method.beta,
    )
    trained = tuple(
        parts if reward.total is not None else ()
        for parts, reward in zip(sequences or [()] * len(rewards), rewards, strict=True)
    )
    return TrainingGroup(
        sample=view.sample,
        group=group.model_copy(update={"credits": credits}),
        rewards=rewards,
        sequences=trained,
        image_wh=image_wh if isinstance(view, PreparedSample) else None,
        overview=view.overview if isinstance(view, PreparedSample) else None,
        crops=crops,
    )


def _failed_group(sample: Sample, method: Method, group_size: int, reason: str) -> TrainingGroup:
    """Group of a failed sample: not scored, which differs from wrong."""
    score = Score(value=None, extracted=None, expected=sample.answer, rule="none")
    rollout = Rollout(sample_id=sample.id, protocol=method.protocol, outcome="error", score=score, error=reason)
    rollouts = (rollout,) * group_size
    return TrainingGroup(
        sample=sample,
        group=RolloutGroup(sample_id=sample.id, protocol=method.protocol, rollouts=rollouts),
        rewards=(Reward(None, 0.0, 0.0),) * group_size,
        sequences=((),) * group_size,
    )
