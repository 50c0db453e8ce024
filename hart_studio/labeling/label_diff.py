"""Compare the labels of two runs on the same items: fixed, broken, moved. Used after retraining on the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from hart_studio.errors import InputError
from hart_studio.geometry import mean_pairwise_iou
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import EvidenceKind, Label

MOVED_BELOW: Final = 0.5
"""A mean IoU below this counts as moved. Project default."""

LabelChange = Literal["fixed", "broken", "moved", "same", "unclear"]
"""``fixed``: verified only after. ``broken``: verified only before. ``moved``: same verification, but other boxes.
``unclear``: one of the two failed."""

CHANGES: Final[tuple[LabelChange, ...]] = ("fixed", "broken", "moved", "same", "unclear")


class ItemChange(NamedTuple):
    """One item in two labeling runs."""

    item_id: str
    """Id of the item."""
    kind: EvidenceKind
    """Kind of evidence."""
    change: LabelChange
    """Change between the runs."""
    iou: float | None
    """Mean IoU of the two labels; None if one has no boxes."""
    before: Label
    """Label of the earlier run."""
    after: Label
    """Label of the later run."""


class LabelDiff(NamedTuple):
    """Comparison of two labeling runs of one project."""

    counts: dict[EvidenceKind, dict[LabelChange, int]]
    """Kind of evidence -> change -> number of items."""
    changes: list[ItemChange]
    """All items that both runs have processed, in import order."""


def compare_runs(project: Project, before: str, after: str) -> LabelDiff:
    """Compare the predictions of two runs, ignoring later reviews.

    Args:
        project: The project.
        before: Id of the earlier run.
        after: Id of the later run.

    Raises:
        InputError: If a run does not belong to this project, or the runs have no item in common.
    """
    with project.database.reading() as connection:
        known = {row["id"] for row in connection.execute("SELECT id FROM runs")}
    for run in (before, after):
        if run not in known:
            raise InputError(f"This project has no labeling run {run[:60]!r}. Choose one from the list.")
    changes = list(_compare(project, before, after))
    if not changes:
        raise InputError("The two runs have no items in common. Label the same items with both models.")
    counts: dict[EvidenceKind, dict[LabelChange, int]] = {}
    for kind in sorted({change.kind for change in changes}):
        found = Counter(change.change for change in changes if change.kind == kind)
        counts[kind] = {name: found[name] for name in CHANGES}
    return LabelDiff(counts, changes)


def _compare(project: Project, before: str, after: str) -> Iterator[ItemChange]:
    with project.database.reading() as connection:
        rows = connection.execute(
            """SELECT items.id, items.evidence, old.label AS old, new.label AS new FROM items
            JOIN predictions AS old ON old.item = items.id AND old.run = ? AND old.label IS NOT NULL
            JOIN predictions AS new ON new.item = items.id AND new.run = ? AND new.label IS NOT NULL
            ORDER BY items.number""",
            (before, after),
        ).fetchall()
    for row in rows:
        old, new = Label.model_validate_json(row["old"]), Label.model_validate_json(row["new"])
        overlap = mean_pairwise_iou([old.boxes, new.boxes]) if old.boxes and new.boxes else None
        yield ItemChange(row["id"], row["evidence"], _classify_change(old, new, overlap), overlap, old, new)


def _classify_change(before: Label, after: Label, overlap: float | None) -> LabelChange:
    if before.check is None or after.check is None:
        return "unclear"
    was, is_now = before.check.crops_right is True, after.check.crops_right is True
    if was != is_now:
        return "fixed" if is_now else "broken"
    has_moved = overlap is not None and overlap < MOVED_BELOW
    return "moved" if has_moved or bool(before.boxes) != bool(after.boxes) else "same"
