"""Rollouts for training: run the pipeline with the policy, and build sequences with rewards and credits.

    samples -> prepare_samples -> ground_and_crop -> answer_grounded | answer_direct -> RolloutGroup
                                                                     `-> sampled tokens -> TrainingSequence per turn

The reward is the correctness of the answer, with two optional terms that are off in the paper. A sample that cannot be
run becomes a group with the outcome ``error`` and no sequences. It is counted, and training continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from hart_studio.algorithms.credit import credit_group, reward_deviations
from hart_studio.algorithms.methods import Method
from hart_studio.errors import ImageError, InputError
from hart_studio.geometry import area_share
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.chat import ChatRequest, ImageInput
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.closed_loop import AnsweredSample, FailedSample, GroundedSample, PreparedSample
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import AnswerResult, GroundingResult
from hart_studio.records import Box, Rollout, RolloutGroup, Sample
from hart_studio.runs.config import MethodConfig, RunConfig
from hart_studio.training.sequences import Prompt, TrainingSequence, turn_sequence, two_turn_sequences
from hart_studio.training.trainable_model import TrainableModel


@dataclass(frozen=True)
class Reward:
    """Terms of the reward of a rollout, logged separately."""

    correct: float | None
    """r in {0, 1} of the strict extractor; None = could not be scored."""
    format: float
    """Bonus for valid boxes; 0 if off."""
    area: float
    """Penalty for the share of the image that the boxes cover, 0 or more; 0 if off."""

    @property
    def total(self) -> float | None:
        """Total reward; None = the rollout is excluded."""
        return None if self.correct is None else self.correct + self.format - self.area


def compute_reward(rollout: Rollout, image_wh: tuple[int, int], settings: MethodConfig) -> Reward:
    """Compute the reward of one rollout.

    Args:
        rollout: The rollout; its score is that of the strict extractor, 0 if there was no valid box.
        image_wh: (width, height) of the original image.
        settings: ``format_reward_weight`` and ``area_penalty_weight``; both are 0 without a grounding turn.
    """
    return Reward(
        correct=rollout.score.value,
        format=settings.format_reward_weight * bool(rollout.boxes),
        area=settings.area_penalty_weight * area_share(rollout.boxes, image_wh)
        if settings.area_penalty_weight
        else 0.0,
    )


def check_reward_range(method: Method, settings: MethodConfig, group_size: int) -> None:
    """Refuse optional terms that could make a weight of Eq. 5 or 6 negative.

    Raises:
        InputError: If the terms are too large; checked before training.
    """
    if not (method.is_rl and method.has_preference_weights):
        return
    best, worst = 1.0 + settings.format_reward_weight, -settings.area_penalty_weight
    extremes: list[Sequence[float]] = [[best] + [worst] * (group_size - 1), [worst] + [best] * (group_size - 1)]
    largest = max(abs(deviation or 0.0) for rewards in extremes for deviation in reward_deviations(rewards))
    if settings.preference_scale * largest >= 1:
        raise InputError(
            f"expected preference_scale x the maximum deviation of a reward below 1, got "
            f"{settings.preference_scale:g} x {largest:g}; lower method.format_reward_weight, "
            f"method.area_penalty_weight or "
            "method.preference_scale"
        )


@dataclass(frozen=True, eq=False)
class TrainingGroup:
    """G rollouts of one sample with their rewards, ready for training.

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


def has_reward_differences(group: TrainingGroup) -> bool:
    """Whether the rollouts of a group have different rewards, without which the policy term is zero."""
    return len({reward.total for reward in group.rewards if reward.total is not None}) > 1


def loop_settings(config: RunConfig, max_new_tokens: int, seed: int | None) -> LoopSettings:
    """Pipeline settings for training: sampling with temperature, no fallback to the full image.

    MGPO without a valid box shows the full image as its crop (``_fallback_to_full_image``).
    """
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
    try:
        return _roll_out_together(policy, samples, method, config, seed, open_image)
    except (InputError, ImageError, ValueError) as error:
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
    settings = loop_settings(config, config.rollout.max_answer_tokens, seed)
    views = closed_loop.prepare_samples(policy, samples, settings, open_image, will_crop=method.has_grounding_turn)
    if method.has_grounding_turn:
        grounding_settings = loop_settings(config, config.rollout.max_grounding_tokens, seed)
        attempts = closed_loop.ground_and_crop(policy, views, grounding_settings, size)
        if method.protocol == "full_and_crops":
            attempts = [[_fallback_to_full_image(attempt) for attempt in group] for group in attempts]
        answered = closed_loop.answer_grounded(policy, attempts, method.protocol, settings)
    else:
        answered = closed_loop.answer_direct(policy, views, settings, size)
    read = cache(policy.read)  # the rollouts of a group share the prompt of their first turn
    return [
        _assign_credit(view, answers, [tuple(_sequences(read, answer, config)) for answer in answers], method, config)
        for view, answers in zip(views, answered, strict=True)
    ]


def _sequences(
    read: Callable[[ChatRequest], Prompt], answered: AnsweredSample, config: RunConfig
) -> Iterator[TrainingSequence]:
    """The sequences of a rollout; its one turn is trained regardless of ``trained_turns`` if it has no other."""
    grounding, answer, turns = answered.grounding, answered.answer, config.method.trained_turns
    if grounding is None:
        if answer is not None:
            yield _turn(read, answer)
        return
    if answer is not None and answered.rollout.protocol == "full_and_crops":
        pointed, said = grounding.completion, answer.completion
        yield from two_turn_sequences(
            read(grounding.request),
            pointed.token_ids,
            read(answer.request),
            said.token_ids,
            turns,
            first_logps=pointed.token_logps,
            second_logps=said.token_logps,
        )
        return
    if turns != "answer":
        yield _turn(read, grounding)
    if turns != "grounding" and answer is not None:
        yield _turn(read, answer)


def _turn(read: Callable[[ChatRequest], Prompt], turn: GroundingResult | AnswerResult) -> TrainingSequence:
    return turn_sequence(read(turn.request), turn.completion.token_ids, turn.completion.token_logps)


def _fallback_to_full_image(attempt: GroundedSample | FailedSample) -> GroundedSample | FailedSample:
    """MGPO without a valid box: the full image is sent again instead of the crop, as in the original work."""
    if isinstance(attempt, FailedSample) or attempt.crops.boxes:
        return attempt
    width, height = attempt.view.image.wh
    whole = Box.from_xyxy((0.0, 0.0, float(width), float(height)))
    return replace(attempt, crops=Crops((whole,), (attempt.view.overview,)))


def _assign_credit(
    view: PreparedSample | FailedSample,
    answers: Sequence[AnsweredSample],
    sequences: Sequence[tuple[TrainingSequence, ...]],
    method: Method,
    config: RunConfig,
) -> TrainingGroup:
    image_wh = view.image.wh if isinstance(view, PreparedSample) else (1, 1)
    group = closed_loop.group_rollouts(answers)
    rewards = tuple(compute_reward(rollout, image_wh, config.method) for rollout in group.rollouts)
    credits = credit_group(
        [reward.total for reward in rewards],
        method,
        preference_scale=config.method.preference_scale,
        beta=config.method.beta,
        scale_rewards=config.method.scale_rewards,
    )
    trained = tuple(parts if reward.total is not None else () for parts, reward in zip(sequences, rewards, strict=True))
    return TrainingGroup(
        sample=view.sample,
        group=group.model_copy(update={"credits": credits}),
        rewards=rewards,
        sequences=trained,
        image_wh=image_wh if isinstance(view, PreparedSample) else None,
        overview=view.overview if isinstance(view, PreparedSample) else None,
        crops=tuple(answer.crops.images for answer in answers),
    )


def _failed_group(sample: Sample, method: Method, group_size: int, reason: str) -> TrainingGroup:
    """Group of a failed sample: not scored, which differs from wrong."""
    rollout = closed_loop.failed_rollout(FailedSample(sample, reason), method.protocol)
    return TrainingGroup(
        sample=sample,
        group=closed_loop.group_rollouts([AnsweredSample(rollout)] * group_size),
        rewards=(Reward(None, 0.0, 0.0),) * group_size,
        sequences=((),) * group_size,
    )
