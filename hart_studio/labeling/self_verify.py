"""Propose boxes for questions and collect evidence for them, without an annotator.

Per question: K rollouts, their consensus boxes, and three greedy answers about exactly these boxes: from their crops
alone (sufficiency), from the image without them (necessity), and from the full image (reference). The input is a
``Sample``, which has no gold boxes (docs/concept.md, Closed loop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from pydantic import Field

from hart_studio.errors import HartError
from hart_studio.geometry import WH, area_share, iou, mean_pairwise_iou
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.labeling.box_refinement import BoxRefinementSettings, refine_boxes
from hart_studio.labeling.records import BoxCheck, Caution
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline.closed_loop import (
    FailedSample,
    PreparedSample,
    ground_and_crop,
    prepare_samples,
    run_answering,
    run_direct,
)
from hart_studio.pipeline.given_boxes import answer_from_boxes, answer_with_boxes_masked
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.verification import (
    Verification,
    check_rollout_count,
    is_necessary,
    verify_rollouts,
)
from hart_studio.records import Box, Record, Rollout, Sample

SCATTERED_BELOW: Final = 0.3
"""Below this mean pairwise IoU, the K regions count as scattered. Project default."""
COVERS_HALF: Final = 0.5
"""From this area share, a label is too large to be informative. Project default."""
BORDER_PX: Final = 1.0
"""A box this close to the image's edge counts as touching it. Project default."""
MAX_CONSECUTIVE_FAILURES: Final = 16
"""Consecutive failing items after which a job ends: then the items are not the cause. Project default."""

_MAX_REASON_CHARS: Final = 500


SAME_IOU: Final = 0.5
"""Two boxes with at least this IoU count as the same region. Project default."""

MIN_VOTE_SHARE: Final = 0.5
"""Minimum share of voting rollouts per region. Project default."""


def describe_failure(error: Exception) -> str:
    """Text of an error for the user of this computer."""
    return str(error) if isinstance(error, HartError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Proposal:
    """Proposed boxes for one question, with their evidence.

    Attributes:
        sample_id: Id of the question.
        boxes: Boxes in original pixels; empty without a valid box or after a failure.
        check: Evidence; None after a failure.
        failure: Reason of the failure; empty without one.
        is_unexpected: Whether the failure was unexpected, rather than an unreadable image.
        is_given: Whether given boxes were verified or refined instead of proposed ones.
    """

    sample_id: str
    boxes: tuple[Box, ...]
    check: BoxCheck | None
    failure: str = ""
    is_unexpected: bool = False
    is_given: bool = False


class ProposalSettings(Record):
    """How boxes are proposed: rollouts per question, their settings, box refinement."""

    rollouts: int = Field(default=8, ge=1)
    """Rollouts per question (K). Not from the paper."""
    loop: LoopSettings = LoopSettings(temperature=1.0)
    """Settings of the rollouts. The answers that verify a box use the same settings at temperature 0."""
    refinement: BoxRefinementSettings | None = None
    """Settings of the box refinement before the verification; None = no refinement."""


def propose_safely(
    model: ChatModel,
    samples: Sequence[Sample],
    settings: ProposalSettings,
    given: Sequence[tuple[Box, ...]] = (),
    open_image: ImageOpener = SourceImage,
    describe: Callable[[Exception], str] = describe_failure,
) -> list[Proposal]:
    """Propose for a batch; if it fails as a whole, for its halves, so that one question cannot fail others."""
    try:
        return propose(model, samples, settings, given, open_image)
    except Exception as error:  # a library may raise anything for one question; the others continue
        if len(samples) == 1:
            return [Proposal(samples[0].id, (), None, describe(error)[:_MAX_REASON_CHARS], is_unexpected=True)]
        half = len(samples) // 2
        return [
            proposal
            for part in (slice(half), slice(half, None))
            for proposal in propose_safely(model, samples[part], settings, given[part], open_image, describe)
        ]


def propose(
    model: ChatModel,
    samples: Sequence[Sample],
    settings: ProposalSettings,
    given: Sequence[tuple[Box, ...]] = (),
    open_image: ImageOpener = SourceImage,
) -> list[Proposal]:
    """Propose and verify boxes, with one model call per kind of turn.

    Args:
        model: The model.
        samples: Samples of one batch; their overviews and crops are in memory together.
        settings: Settings of the proposals.
        given: Per sample, existing boxes to verify instead of proposing new ones, in original pixels; empty for a
            sample without. An empty sequence: no sample has any.
        open_image: Opens an image by its path.

    Returns:
        One proposal per sample, in order.

    Raises:
        InputError: If several rollouts are requested at temperature 0.
    """
    loop, rollouts = settings.loop, settings.rollouts
    check_rollout_count(rollouts, loop)
    greedy = loop.model_copy(update={"temperature": 0.0})
    known = list(given) or [()] * len(samples)
    opened = prepare_samples(model, samples, loop, open_image)
    attempts = ground_and_crop(model, opened, loop, rollouts)
    # An image may open but fail when it is cropped.
    views = [
        next((attempt for attempt in group if isinstance(attempt, FailedSample)), view)
        for view, group in zip(opened, attempts, strict=True)
    ]
    groups = [list(group.rollouts) for group in run_answering(model, attempts, "crops_only", loop)]
    predicted = [tuple(rollout.boxes for rollout in group) for group in groups]
    for index, rolled in _answer_from_given(model, views, known, loop, rollouts).items():
        groups[index] = rolled
    verified = [_verify(view, group, sets) for view, group, sets in zip(views, groups, predicted, strict=True)]
    boxes = [own or _majority_boxes(check, sets) for own, check, sets in zip(known, verified, predicted, strict=True)]
    if settings.refinement:
        wanted = [_is_target_answer(check) for check in verified]
        boxes = refine_boxes(model, views, boxes, predicted, wanted, loop, settings.refinement)
    from_crops = answer_from_boxes(model, views, boxes, greedy)
    full = run_direct(model, views, greedy)
    masked = answer_with_boxes_masked(model, views, boxes, greedy)
    proposals = []
    for view, check, sets, own, (crops,), whole, without, there in zip(
        views, verified, predicted, boxes, from_crops, full, masked, known, strict=True
    ):
        if isinstance(view, FailedSample) or crops.outcome == "error":
            reason = view.reason if isinstance(view, FailedSample) else crops.error
            proposals.append(Proposal(check.sample_id, (), None, reason))
            continue
        support = compute_support(sets, own)
        evidence = _Evidence(
            check, crops if own else None, whole.rollouts[0], without, support, check.majority_answer, any(sets)
        )
        judged = evidence.judge(own, view.image.wh, rollouts)
        proposals.append(Proposal(check.sample_id, own, judged, is_given=bool(there)))
    return proposals


def verify_drawn_boxes(
    model: ChatModel,
    sample: Sample,
    boxes: Sequence[Box],
    settings: LoopSettings,
    before: BoxCheck | None = None,
    open_image: ImageOpener = SourceImage,
) -> tuple[BoxCheck, str]:
    """Verify drawn boxes with two or three greedy answers, without rollouts.

    Args:
        model: The model.
        sample: The question.
        boxes: Boxes in original pixels; may be empty.
        settings: Settings of the turns; the temperature is always 0.
        before: Evidence of the proposed boxes. Its majority answer, the reference of the agreement, and its answer
            from the full image are reused.
        open_image: Opens an image by its path.

    Returns:
        The evidence, and why the image is unreadable; empty if it is readable.
    """
    greedy = settings.model_copy(update={"temperature": 0.0})
    (view,) = prepare_samples(model, [sample], greedy, open_image)
    empty = BoxCheck(kind="agreement" if sample.answer is None else "known_answer", rollouts=0)
    if isinstance(view, FailedSample):
        return empty, view.reason
    ((crops,),) = answer_from_boxes(model, [view], [boxes], greedy)
    if crops.outcome == "error":
        return empty, crops.error
    full = run_direct(model, [view], greedy)[0].rollouts[0]
    (masked,) = answer_with_boxes_masked(model, [view], [boxes], greedy)
    judged = verify_rollouts([crops], full, masked, view.image.wh)
    # Without a known answer, agreement needs the rollouts of a proposal.
    majority = before.majority_answer if before else None
    evidence = _Evidence(judged, crops if boxes else None, full, masked, None, majority)
    check = evidence.judge(boxes, view.image.wh, 0)
    return check.model_copy(update={"sufficiency": None, "consensus": None}), ""


@dataclass(frozen=True)
class _Evidence:
    """Answers collected for one question."""

    verification: Verification
    crops: Rollout | None
    full: Rollout
    masked: Rollout | None
    support: float | None
    majority: str | None
    has_prediction: bool = True
    """Whether any rollout predicted a box."""

    def judge(self, boxes: Sequence[Box], wh: WH, rollouts: int) -> BoxCheck:
        """Compute the evidence."""
        check = self.verification
        share = area_share(boxes, wh)
        return BoxCheck(
            kind=check.evidence,
            rollouts=rollouts,
            sufficiency=check.sufficiency,
            consensus=check.consensus,
            support=self.support,
            majority_answer=self.majority,
            crops_answer=self.crops.score.extracted if self.crops else None,
            crops_correct=self._is_right(self.crops),
            full_answer=self.full.score.extracted,
            full_correct=self._is_right(self.full),
            masked_answer=self.masked.score.extracted if self.masked else None,
            necessity=is_necessary(self.full, self.masked),
            area_share=min(1.0, share),
            cautions=_find_cautions(boxes, wh, check.consensus, share, has_prediction=self.has_prediction),
        )

    def _is_right(self, rollout: Rollout | None) -> bool | None:
        if rollout is None or rollout.outcome == "error":
            return None
        if rollout.score.expected is not None:
            return rollout.score.value == 1.0
        return None if self.majority is None else rollout.score.extracted == self.majority


def _answer_from_given(
    model: ChatModel,
    views: Sequence[PreparedSample | FailedSample],
    given: Sequence[tuple[Box, ...]],
    settings: LoopSettings,
    rollouts: int,
) -> dict[int, list[Rollout]]:
    """Sample K answers from the crops of given boxes, so that the evidence is about these boxes."""
    places = [place for place, boxes in enumerate(given) if boxes]
    answered = answer_from_boxes(
        model, [views[place] for place in places], [given[place] for place in places], settings, rollouts
    )
    return dict(zip(places, answered, strict=True))


def _verify(
    view: PreparedSample | FailedSample, rollouts: Sequence[Rollout], predicted: Sequence[tuple[Box, ...]]
) -> Verification:
    """Evaluate the answers; the consensus is that of the regions that the model predicted."""
    check = verify_rollouts(rollouts, None, None, view.image.wh if isinstance(view, PreparedSample) else None)
    return check.model_copy(update={"consensus": mean_pairwise_iou(predicted)})


def _majority_boxes(check: Verification, predicted: Sequence[tuple[Box, ...]]) -> tuple[Box, ...]:
    """Consensus boxes of the rollouts whose answer is right, or the majority answer."""
    is_wanted = _is_target_answer(check)
    return compute_consensus(predicted, [is_wanted(rollout) for rollout in check.rollouts])


def _is_target_answer(check: Verification) -> Callable[[Rollout], bool]:
    """Whether an answer is the known one, or, without one, the majority answer."""
    if check.evidence == "known_answer":
        return lambda rollout: rollout.score.value == 1.0
    return lambda rollout: rollout.score.extracted is not None and rollout.score.extracted == check.majority_answer


def _find_cautions(
    boxes: Sequence[Box], wh: WH, consensus: float | None, share: float, *, has_prediction: bool
) -> tuple[Caution, ...]:
    cautions: list[Caution] = []
    if any(
        box.x_min < BORDER_PX or box.y_min < BORDER_PX or box.x_max > wh[0] - BORDER_PX or box.y_max > wh[1] - BORDER_PX
        for box in boxes
    ):
        cautions.append("touches_border")
    if share > COVERS_HALF:
        cautions.append("covers_half")
    if consensus is not None and consensus < SCATTERED_BELOW:
        cautions.append("scattered" if has_prediction else "no_box")
    return tuple(cautions)


def compute_consensus(box_sets: Sequence[Sequence[Box]], is_voter: Sequence[bool]) -> tuple[Box, ...]:
    """Compute the regions that at least half of the voters predict, each the median of their boxes.

    Greedy clustering: the box with the most neighbors (at most one per rollout) forms a region, then the next one of
    the rest. So the result does not depend on the order of the rollouts, except for exact ties. The voters determine
    where the region is; all rollouts determine its support (``compute_support``).

    Args:
        box_sets: Boxes per rollout, original pixels.
        is_voter: Whether each rollout votes, for instance because its answer was right. If no voter has a box, all
            rollouts vote.

    Returns:
        Regions in original pixels, most votes first. At least one if any rollout has a box: without a majority, the
        region with the most votes.
    """
    voters = [tuple(boxes) for boxes, votes in zip(box_sets, is_voter, strict=True) if votes and boxes]
    voters = voters or [tuple(boxes) for boxes in box_sets if boxes]
    left = [(index, box) for index, boxes in enumerate(voters) for box in boxes]
    found: list[Box] = []
    while left:
        cluster = max((_cluster_around(box, left) for _, box in left), key=_cluster_rank)
        if found and len(cluster) < MIN_VOTE_SHARE * len(voters):
            break
        found.append(_median([left[index][1] for index in cluster]))
        members = set(cluster)
        # Boxes that overlap a found region are duplicates of it.
        left = [
            item
            for index, item in enumerate(left)
            if index not in members and all(iou(item[1], box) < SAME_IOU for box in found)
        ]
        if len(cluster) < MIN_VOTE_SHARE * len(voters):
            break
    return tuple(found)


def compute_support(box_sets: Sequence[Sequence[Box]], target: Sequence[Box]) -> float | None:
    """Share of rollouts that predict all of the target boxes, in [0, 1]; None without boxes or rollouts."""
    if not box_sets or not target:
        return None
    supporters = sum(all(any(iou(box, each) >= SAME_IOU for box in boxes) for each in target) for boxes in box_sets)
    return supporters / len(box_sets)


def _cluster_around(center: Box, items: Sequence[tuple[int, Box]]) -> dict[int, float]:
    """Index -> IoU of the boxes of the same region, the nearest one per rollout."""
    nearest: dict[int, tuple[float, int]] = {}
    for index, (rollout, box) in enumerate(items):
        overlap = iou(center, box)
        if overlap >= SAME_IOU and overlap > nearest.get(rollout, (0.0, -1))[0]:
            nearest[rollout] = (overlap, index)
    return {index: overlap for overlap, index in nearest.values()}


def _cluster_rank(cluster: dict[int, float]) -> tuple[int, float]:
    return len(cluster), sum(cluster.values())


def _median(boxes: Sequence[Box]) -> Box:
    """Box of the median edges. The order of the edges is kept, so it is a valid box."""
    edges = [median(values) for values in zip(*(box.xyxy for box in boxes), strict=True)]
    return Box.from_xyxy((edges[0], edges[1], edges[2], edges[3]), label=boxes[0].label)
