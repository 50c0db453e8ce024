"""Results of labeling runs: summary of one run, and the labels of two runs compared: fixed, broken, moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from hart_studio.errors import InputError
from hart_studio.geometry import mean_pairwise_iou
from hart_studio.labeling.calibration import REASONS
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import EvidenceKind, Label
from hart_studio.progress import shorten_to_line
from hart_studio.records import Record

MAX_REASONS: Final = 5
"""Reasons of failures that are listed, the most frequent first. Project default."""

MOVED_BELOW: Final = 0.5
"""A mean IoU below this counts as moved. Project default."""

LabelChange = Literal["fixed", "broken", "moved", "same", "unclear"]
"""``fixed``: verified only after. ``broken``: verified only before. ``moved``: same verification, but other boxes.
``unclear``: one of the two failed."""

CHANGES: Final[tuple[LabelChange, ...]] = ("fixed", "broken", "moved", "same", "unclear")


class LabelingSummary(Record):
    """What a labeling run has done, and what its project holds now."""

    run: str
    """Id."""
    items: int
    """Items that the run labels."""
    done: int
    """Items that it has labeled or failed at."""
    proposed: int
    """Labels that wait for a review."""
    verified: int
    """Labels whose crop alone gave the expected answer."""
    auto_accepted: int
    """Labels that were accepted by their score."""
    failed: int
    """Items that it failed at."""
    without_box: int
    """Labels without a box."""
    kept: int
    """Failed items that keep the label they had."""
    failures: dict[str, int]
    """Reason -> failed items, the most frequent first; untrusted text."""
    statuses: dict[str, int]
    """Status -> items of the whole project."""
    uncalibrated: dict[str, int]
    """Reason -> labels of the whole project without a score."""

    @property
    def has_only_failures(self) -> bool:
        """Whether items were processed, and every one failed."""
        return bool(self.done) and self.done == self.failed

    def lines(self) -> list[str]:
        """Lines for a terminal."""
        lines = [
            f"this run: {self.done:,} of {self.items:,} items, {self.proposed:,} proposed, "
            f"{self.verified:,} with a sufficient crop, "
            f"{self.auto_accepted:,} auto-accepted, {self.failed:,} failed, {self.without_box:,} without a box"
        ]
        if self.kept:
            lines.append(
                f"  {self.kept:,} of the failed items keep their earlier label; name its status to label "
                "them again, such as --status proposed"
            )
        reasons = list(self.failures.items())
        lines += [f"  {count:,} failed: {shorten_to_line(reason)}" for reason, count in reasons[:MAX_REASONS]]
        if len(reasons) > MAX_REASONS:
            lines.append(f"  and {len(reasons) - MAX_REASONS:,} other reasons; the items have them as notes")
        lines.append("project: " + ", ".join(f"{count:,} {status}" for status, count in self.statuses.items()))
        texts = {str(reason): text for reason, text in REASONS.items()}
        for reason, count in self.uncalibrated.items():
            lines.append(f"{count:,} uncalibrated: {texts.get(reason, 'no score')}")
        return lines


def summarize_run(project: Project, run_id: str) -> LabelingSummary:
    """Count the items of a labeling run by what it made of them."""
    with project.database.reading() as connection:
        rows = connection.execute(
            """SELECT json_extract(label, '$.status') AS status, json_extract(label, '$.note') AS note,
            COUNT(*) AS count FROM predictions WHERE run = ? GROUP BY status, note ORDER BY count DESC""",
            (run_id,),
        ).fetchall()
        empty, verified = connection.execute(
            """SELECT TOTAL(json_array_length(label, '$.boxes') = 0 AND json_extract(label, '$.status') != 'failed'),
            TOTAL(json_extract(label, '$.check.crops_correct')) FROM predictions WHERE run = ?""",
            (run_id,),
        ).fetchone()
        (kept,) = connection.execute(
            """SELECT COUNT(*) FROM predictions JOIN items ON items.id = predictions.item WHERE predictions.run = ?
            AND json_extract(predictions.label, '$.status') = 'failed' AND items.status != 'failed'""",
            (run_id,),
        ).fetchone()
    counts: dict[str | None, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + row["count"]
    items = sum(counts.values())
    return LabelingSummary(
        run=run_id,
        items=items,
        done=items - counts.get(None, 0),
        proposed=counts.get("proposed", 0),
        verified=round(verified),
        auto_accepted=counts.get("auto_accepted", 0),
        failed=counts.get("failed", 0),
        without_box=round(empty),
        kept=kept,
        failures={str(row["note"]): row["count"] for row in rows if row["status"] == "failed"},
        statuses=project.count_by("status"),
        uncalibrated=project.count_uncalibrated(),
    )


class ItemChange(NamedTuple):
    """One item in two labeling runs."""

    item_id: str
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
    was, is_now = before.check.crops_correct is True, after.check.crops_correct is True
    if was != is_now:
        return "fixed" if is_now else "broken"
    has_moved = overlap is not None and overlap < MOVED_BELOW
    return "moved" if has_moved or bool(before.boxes) != bool(after.boxes) else "same"
