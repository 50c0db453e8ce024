"""Rollouts for training: the one pipeline asks the policy, and what it said becomes items with rewards and credits.

    samples -> prepare_samples -> ground_and_crop -> run_answering | run_direct -> RolloutGroup
                                 `-> PolicyModel remembers the tokens -> Item per turn

A sample that cannot be run is a group of the outcome ``error`` without items. It is counted, and the step goes on.
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
from hart_studio.training.items import Item, Prompt, turn_item, two_turn_items
from hart_studio.training.policy import Exchange, PolicyModel
from hart_studio.training.rewards import Reward, judge_rollout


@dataclass(frozen=True, eq=False)
class RolledGroup:
    """G rollouts of one sample, ready to be scored.

    Attributes:
        sample: The question, without gold boxes.
        group: The rollouts with their credits.
        rewards: One per rollout.
        items: For each rollout, the sequences to train on; none when it could not be scored.
        image_wh: (width, height) of the original picture; None when it did not open.
        overview: The overview I_f; None when it did not open.
        crops: For each rollout, the pictures I_s that its answer turn saw.
    """

    sample: Sample
    group: RolloutGroup
    rewards: tuple[Reward, ...]
    items: tuple[tuple[Item, ...], ...]
    image_wh: tuple[int, int] | None = None
    overview: ImageInput | None = None
    crops: tuple[tuple[ImageInput, ...], ...] = ()


def loop_settings(config: RunConfig, max_new_tokens: int, seed: int | None) -> LoopSettings:
    """The pipeline's settings while training: warm sampling, and never a fallback to the full image."""
    rollout = config.rollout
    return LoopSettings(
        overview_max_pixels=rollout.overview_pixels,
        crop_max_pixels=rollout.crop_pixels,
        padding=rollout.padding,
        max_boxes=rollout.max_boxes,
        temperature=rollout.temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        fallback="none",
    )


def roll_out(
    policy: PolicyModel,
    samples: Sequence[Sample],
    method: Method,
    config: RunConfig,
    seed: int,
    open_image: ImageOpener = SourceImage,
) -> list[RolledGroup]:
    """Run the loop on every sample ``group_size`` times and give the rollouts their credits.

    Args:
        policy: The model in training.
        samples: Questions; sampled together, and one by one when one of them cannot be used.
        method: Decides the protocol and the credit.
        config: Settings of the run.
        seed: Fixes the samples, in [0, 2**32).
        open_image: Opens a picture by its path.

    Returns:
        One group per sample, in order.

    Raises:
        ModelError: If the memory does not suffice, or the weights give no numbers.
    """
    policy.take_exchanges()
    try:
        return _roll_out_together(policy, samples, method, config, seed, open_image)
    except (InputError, ImageError, ValueError) as error:
        policy.take_exchanges()
        if len(samples) == 1:
            return [_give_up(samples[0], method, config.rollout.group_size, str(error) or type(error).__name__)]
    return [roll_out(policy, [sample], method, config, seed, open_image)[0] for sample in samples]


def _roll_out_together(
    policy: PolicyModel,
    samples: Sequence[Sample],
    method: Method,
    config: RunConfig,
    seed: int,
    open_image: ImageOpener,
) -> list[RolledGroup]:
    size = config.rollout.group_size
    answering = loop_settings(config, config.rollout.max_answer_tokens, seed)
    views = closed_loop.prepare_samples(policy, samples, answering, open_image, will_crop=method.protocol != "direct")
    if method.protocol == "direct":
        groups = closed_loop.run_direct(policy, views, answering, size)
        (asked,) = policy.take_exchanges()
        items = _direct_items(policy, views, asked)
        crops: list[tuple[tuple[ImageInput, ...], ...]] = [((),) * size for _ in views]
    else:
        grounding = loop_settings(config, config.rollout.max_grounding_tokens, seed)
        attempts = closed_loop.ground_and_crop(policy, views, grounding, size)
        if method.protocol == "full_and_crops":
            attempts = [[_show_something(attempt) for attempt in group] for group in attempts]
        groups = closed_loop.run_answering(policy, attempts, method.protocol, answering)
        grounded, answered = policy.take_exchanges()
        items = _two_turn_items(policy, attempts, grounded, answered, method, config)
        crops = [
            tuple(attempt.crops.images if isinstance(attempt, GroundedSample) else () for attempt in group)
            for group in attempts
        ]
    return [
        _credit(view, group, parts, seen, method, config)
        for view, group, parts, seen in zip(views, groups, items, crops, strict=True)
    ]


def _direct_items(
    policy: PolicyModel, views: Sequence[PreparedSample | FailedSample], asked: Sequence[Exchange]
) -> list[list[tuple[Item, ...]]]:
    """The one turn of each rollout. It is trained whatever ``trained_turns`` says: there is no other."""
    exchanges = iter(asked)
    items: list[list[tuple[Item, ...]]] = []
    for view in views:
        if isinstance(view, FailedSample):
            items.append([])
            continue
        exchange = next(exchanges)
        prompt = policy.read(exchange.request)
        items.append([(turn_item(prompt, completion.token_ids),) for completion in exchange.completions])
    return items


def _two_turn_items(
    policy: PolicyModel,
    attempts: Sequence[Sequence[GroundedSample | FailedSample]],
    grounded: Sequence[Exchange],
    answered: Sequence[Exchange],
    method: Method,
    config: RunConfig,
) -> list[list[tuple[Item, ...]]]:
    by_request = {id(exchange.request): exchange for exchange in grounded}
    answers = iter(answered)
    items: list[list[tuple[Item, ...]]] = []
    for group in attempts:
        first: Prompt | None = None  # one object for the whole group, read once
        parts: list[tuple[Item, ...]] = []
        for index, attempt in enumerate(group):
            if isinstance(attempt, FailedSample):
                continue
            exchange = by_request[id(attempt.grounding.request)]
            first = first or policy.read(exchange.request)
            said = exchange.completions[index].token_ids
            answer = next(answers) if attempt.crops.boxes else None
            parts.append(tuple(_rollout_items(policy, first, said, answer, method, config)))
        items.append(parts)
    return items


def _rollout_items(
    policy: PolicyModel,
    first: Prompt,
    said: Sequence[int],
    answer: Exchange | None,
    method: Method,
    config: RunConfig,
) -> Iterator[Item]:
    """The items of a rollout of two turns; one that ended without a usable box has its grounding turn only."""
    turns = config.method.trained_turns
    if answer is not None and method.protocol == "full_and_crops":
        second = policy.read(answer.request)
        yield from two_turn_items(first, said, second, answer.completions[0].token_ids, turns)
        return
    if turns != "answer":
        yield turn_item(first, said)
    if turns != "grounding" and answer is not None:
        yield turn_item(policy.read(answer.request), answer.completions[0].token_ids)


def _show_something(attempt: GroundedSample | FailedSample) -> GroundedSample | FailedSample:
    """MGPO without a usable box: the full image is sent again in place of the crop, as its authors do."""
    if isinstance(attempt, FailedSample) or attempt.crops.boxes:
        return attempt
    width, height = attempt.view.image.wh
    whole = Box.from_xyxy((0.0, 0.0, float(width), float(height)))
    return replace(attempt, crops=Crops((whole,), (attempt.view.overview,)))


def _credit(
    view: PreparedSample | FailedSample,
    group: RolloutGroup,
    items: Sequence[tuple[Item, ...]],
    crops: tuple[tuple[ImageInput, ...], ...],
    method: Method,
    config: RunConfig,
) -> RolledGroup:
    image_wh = view.image.wh if isinstance(view, PreparedSample) else (1, 1)
    rewards = tuple(judge_rollout(rollout, image_wh, config.method) for rollout in group.rollouts)
    credits = credit_group(
        [reward.total for reward in rewards],
        method,
        preference_scale=config.method.preference_scale,
        beta=config.method.beta,
    )
    trained = tuple(
        parts if reward.total is not None else ()
        for parts, reward in zip(items or [()] * len(rewards), rewards, strict=True)
    )
    return RolledGroup(
        sample=view.sample,
        group=group.model_copy(update={"credits": credits}),
        rewards=rewards,
        items=trained,
        image_wh=image_wh if isinstance(view, PreparedSample) else None,
        overview=view.overview if isinstance(view, PreparedSample) else None,
        crops=crops,
    )


def _give_up(sample: Sample, method: Method, group_size: int, reason: str) -> RolledGroup:
    """A sample that the loop refuses: not scored, which is not the same as wrong."""
    score = Score(value=None, extracted=None, expected=sample.answer, rule="none")
    rollout = Rollout(sample_id=sample.id, protocol=method.protocol, outcome="error", score=score, error=reason)
    rollouts = (rollout,) * group_size
    return RolledGroup(
        sample=sample,
        group=RolloutGroup(sample_id=sample.id, protocol=method.protocol, rollouts=rollouts),
        rewards=(Reward(None, 0.0, 0.0),) * group_size,
        items=((),) * group_size,
    )
