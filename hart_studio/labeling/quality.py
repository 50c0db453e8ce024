"""Label quality of a project, estimated without gold boxes, and compared with them where a source has some.

The audit measures the error rate of auto-accepted labels: reviewers decide a random sample individually. Known answers
and agreement of the rollouts' answers are two kinds of evidence with separate metrics.

This is the only module that reads the table of gold boxes. Labeling runs and the review cannot reach it: they do not
import it, which a test enforces.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Final, NamedTuple

from hart_studio.evaluation.grounding_metrics import best_iog, best_iou, is_found
from hart_studio.evaluation.statistics import Estimate, wilson
from hart_studio.geometry import area_share, mean_pairwise_iou
from hart_studio.labeling.importing import BOXES
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import REVIEWED_STATUSES, USABLE_STATUSES, BoxCheck, EvidenceKind, Item, Label
from hart_studio.records import Box

SCORE_BINS: Final = 10
"""Bins of the histogram of scores."""
AREA_EDGES: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bins of the histogram of area shares; most labels are small, so the bins are narrow."""


class EvidenceStats(NamedTuple):
    """Statistics of labels with one kind of evidence."""

    labels: int
    """Labels with evidence and a box."""
    uncalibrated: int
    """Uncalibrated ones among them."""
    verified: Estimate
    """Share of labels whose crops alone give the right answer (or the majority answer)."""
    full_image: Estimate
    """Share of labels for which the full image does."""
    needed: Estimate | None
    """Share of labels with a necessary region, among those where it could be measured."""

    @property
    def accuracy_gain(self) -> float:
        """Difference of the two shares."""
        return self.verified.value - self.full_image.value


class ReviewerStats(NamedTuple):
    """Statistics of one reviewer."""

    reviewer: str
    decisions: dict[str, int]
    """Kind of action -> count."""
    seconds: float | None
    """Median seconds per decision; None if not recorded."""


class ReviewerAgreement(NamedTuple):
    """Agreement on items that two reviewers decided independently."""

    items: int
    iou: float | None
    """Mean IoU of their boxes, if both kept some."""
    kappa: float | None
    """Cohen's kappa of keeping or rejecting the label; None if chance agreement is 1."""


class Quality(NamedTuple):
    """Quality metrics of the labels of a project."""

    statuses: dict[str, int]
    """Status -> number of items."""
    evidence: dict[EvidenceKind, EvidenceStats]
    """One entry per kind of evidence."""
    scores: dict[EvidenceKind, list[int]]
    """Labels per score bin; ten equal bins."""
    areas: list[int]
    """Labels between consecutive ``AREA_EDGES`` of the area share."""
    audit: Estimate | None
    """Share of audited labels that were accepted unchanged; None before the first audit."""
    audited: int
    """Auto-accepted labels with an individual decision."""
    reviewers: list[ReviewerStats]
    agreement: ReviewerAgreement
    """Agreement between reviewers."""


def measure_quality(project: Project) -> Quality:
    """Measure all labels in one pass.

    Raises:
        DataError: If the project cannot be read.
    """
    checks: dict[EvidenceKind, list[BoxCheck]] = defaultdict(list)
    scores: dict[EvidenceKind, list[int]] = defaultdict(lambda: [0] * SCORE_BINS)
    areas = [0] * (len(AREA_EDGES) - 1)
    uncalibrated: Counter[EvidenceKind] = Counter()
    for item in project.items():
        label = item.label
        if label.check is None or not label.boxes:
            continue
        checks[label.check.kind].append(label.check)
        uncalibrated[label.check.kind] += label.is_uncalibrated
        if label.score is not None:
            scores[label.check.kind][min(SCORE_BINS - 1, int(label.score * SCORE_BINS))] += 1
        areas[_get_bin(label.check.area_share)] += 1
    right, audited = count_audit(project)
    return Quality(
        statuses=project.count_by("status"),
        evidence={kind: _summarize(found, uncalibrated[kind]) for kind, found in sorted(checks.items())},
        scores=dict(scores),
        areas=areas,
        audit=wilson(right, audited) if audited else None,
        audited=audited,
        reviewers=list_reviewers(project),
        agreement=measure_reviewer_agreement(get_double_reviews(project)),
    )


def count_audit(project: Project) -> tuple[int, int]:
    """Count audited labels: (accepted unchanged, decided).

    Only individual decisions about the auto-accepted revision count. A bulk accept reviews no label, and a decision
    about a later proposal is not about the auto-accepted one. The sample depends only on the item id, so the share is
    an unbiased estimate for all auto-accepted labels.
    """
    with project.database.reading() as connection:
        # Undone decisions do not count; the last one that is not undone counts.
        rows = connection.execute(
            """SELECT actions.kind, items.status, MAX(actions.id) FROM labels
            CROSS JOIN items ON items.id = labels.item
            CROSS JOIN actions INDEXED BY actions_by_item ON actions.item = labels.item
            WHERE labels.status = 'auto_accepted' AND items.audit_hash < ? AND actions.before = labels.revision
            AND actions.undone = 0 AND actions.bulk IS NULL AND actions.kind != 'skip' GROUP BY actions.item""",
            (project.get_audit_threshold(),),
        ).fetchall()
    kept = sum(row["kind"] == "accept" and row["status"] == "accepted" for row in rows)
    return kept, len(rows)


def list_reviewers(project: Project) -> list[ReviewerStats]:
    """Statistics per reviewer, by name, without undone actions."""
    with project.database.reading() as connection:
        rows = connection.execute(
            "SELECT reviewer, kind, seconds FROM actions WHERE undone = 0 ORDER BY reviewer"
        ).fetchall()
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        counts[row["reviewer"]][row["kind"]] += 1
        if row["seconds"] is not None:
            seconds[row["reviewer"]].append(row["seconds"])
    return [
        ReviewerStats(name, dict(kinds), median(seconds[name]) if seconds[name] else None)
        for name, kinds in counts.items()
    ]


def get_double_reviews(project: Project) -> list[tuple[Label, Label]]:
    """Last decisions of two reviewers about each item in the double-review sample."""
    with project.database.reading() as connection:
        rows = connection.execute(
            """SELECT item FROM actions JOIN items ON items.id = actions.item WHERE undone = 0 AND kind != 'skip'
            AND items.required_reviews > 1 GROUP BY item HAVING COUNT(DISTINCT actions.reviewer) > 1"""
        ).fetchall()
    pairs = []
    for row in rows:
        item: Item = project.item(row["item"], with_history=True)
        last = {label.reviewer: label for label in (*item.history, item.label) if label.status in REVIEWED_STATUSES}
        if len(last) >= 2:
            first, second = list(last.values())[-2:]
            pairs.append((first, second))
    return pairs


def measure_reviewer_agreement(pairs: Sequence[tuple[Label, Label]]) -> ReviewerAgreement:
    """Measure the agreement of two reviewers (kappa: Cohen, 1960).

    Args:
        pairs: Two decisions per item.
    """
    overlaps = [
        overlap
        for first, second in pairs
        if _is_kept(first) and _is_kept(second) and first.boxes and second.boxes
        if (overlap := mean_pairwise_iou([first.boxes, second.boxes])) is not None
    ]
    return ReviewerAgreement(len(pairs), fmean(overlaps) if overlaps else None, _compute_kappa(pairs))


def _compute_kappa(pairs: Sequence[tuple[Label, Label]]) -> float | None:
    if not pairs:
        return None
    votes = [(_is_kept(first), _is_kept(second)) for first, second in pairs]
    observed = fmean(float(first == second) for first, second in votes)
    keeping = [fmean(float(vote[side]) for vote in votes) for side in (0, 1)]
    by_chance = keeping[0] * keeping[1] + (1 - keeping[0]) * (1 - keeping[1])
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def _is_kept(label: Label) -> bool:
    return label.status in {"accepted", "edited"}


def _summarize(checks: Sequence[BoxCheck], uncalibrated: int) -> EvidenceStats:
    needed = [check.necessity for check in checks if check.necessity is not None]
    return EvidenceStats(
        labels=len(checks),
        uncalibrated=uncalibrated,
        verified=_share(check.crops_correct is True for check in checks),
        full_image=_share(check.full_correct is True for check in checks),
        needed=_share(needed) if needed else None,
    )


def _share(values: Iterable[bool]) -> Estimate:
    found = list(values)
    return wilson(sum(found), len(found))


def _get_bin(area: float) -> int:
    return next((index for index, edge in enumerate(AREA_EDGES[1:]) if area <= edge), len(AREA_EDGES) - 2)


class GoldMetrics(NamedTuple):
    """Metrics of labels against the gold boxes of their questions."""

    labels: int
    found: Estimate
    """Share of labels that find all gold boxes, IoG > 0.3 (paper, Sec. 4.1)."""
    iog: float
    """Best IoG per gold box, averaged per question, then over questions."""
    iou: float
    """Best IoU per gold box, averaged per question, then over questions."""
    area_share: float | None
    """Mean share of the image covered by the boxes of a label; None if no label has a box."""


class GoldReport(NamedTuple):
    """Gold metrics of one kind of evidence."""

    all: GoldMetrics
    """Newest labels of all items with gold boxes and a label of a model, reviewed ones as reviewed."""
    usable: GoldMetrics | None
    """Auto-accepted, accepted and edited labels."""
    auto_accepted: GoldMetrics | None
    """Auto-accepted labels before any review; ``found`` is the precision."""
    recall: Estimate | None
    """Share of right proposals that were auto-accepted."""


def measure_against_gold(project: Project) -> dict[EvidenceKind, GoldReport]:
    """Compare the labels of all items that have gold boxes; one report per kind of evidence."""
    with project.database.reading() as connection:
        rows = connection.execute("SELECT item, boxes FROM gold_boxes").fetchall()
    groups: dict[EvidenceKind, list[_Compared]] = {}
    for row in rows:
        item = project.item(row["item"], with_history=True)
        proposal = next((each for each in reversed((*item.history, item.label)) if not each.reviewer), None)
        if item.label.status == "new" or proposal is None or item.label.status == "bad_question":
            continue
        kind: EvidenceKind = "agreement" if item.sample.answer is None else "known_answer"
        gold = BOXES.validate_json(row["boxes"])
        wh = (item.image.width, item.image.height)
        groups.setdefault(kind, []).append(_Compared(item.label, proposal, gold, wh))
    return {kind: _report_gold(found) for kind, found in sorted(groups.items())}


class _Compared(NamedTuple):
    label: Label
    proposal: Label
    gold: tuple[Box, ...]
    wh: tuple[int, int]


def _report_gold(found: list[_Compared]) -> GoldReport:
    auto_accepted = [each._replace(label=each.proposal) for each in found if each.proposal.status == "auto_accepted"]
    right = [each for each in found if _is_right(each.proposal, each)]
    accepted = sum(each.proposal.status == "auto_accepted" for each in right)
    everything = _measure(found)
    if everything is None:
        raise ValueError("expected at least one label")
    return GoldReport(
        all=everything,
        usable=_measure(each for each in found if each.label.status in USABLE_STATUSES),
        auto_accepted=_measure(auto_accepted),
        recall=wilson(accepted, len(right)) if right else None,
    )


def _is_right(label: Label, compared: _Compared) -> bool:
    return all(is_found(box, label.boxes) for box in compared.gold)


def _measure(compared: Iterable[_Compared]) -> GoldMetrics | None:
    found = list(compared)
    if not found:
        return None
    areas = [area_share(each.label.boxes, each.wh) for each in found if each.label.boxes]
    return GoldMetrics(
        labels=len(found),
        found=wilson(sum(_is_right(each.label, each) for each in found), len(found)),
        iog=fmean(fmean(best_iog(box, each.label.boxes) for box in each.gold) for each in found),
        iou=fmean(fmean(best_iou(box, each.label.boxes) for box in each.gold) for each in found),
        area_share=fmean(areas) if areas else None,
    )
