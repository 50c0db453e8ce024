"""Summary of a labeling run, as lines for a terminal and as one JSON object."""

from __future__ import annotations

from typing import Final

from hart_studio.labeling.calibration_domain import REASONS
from hart_studio.labeling.project import Project
from hart_studio.progress import shorten_to_line
from hart_studio.records import Record

MAX_REASONS: Final = 5
"""Reasons of failures that are listed, the most frequent first. Project default."""


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
            f"this run: {self.done:,} of {self.items:,} items, {self.proposed:,} proposed, {self.verified:,} verified, "
            f"{self.auto_accepted:,} auto-accepted, {self.failed:,} failed, {self.without_box:,} without a box"
        ]
        if self.kept:
            lines.append(f"  {self.kept:,} of the failed items keep their earlier label; --status labels them again")
        reasons = list(self.failures.items())
        lines += [f"  {count:,} failed: {shorten_to_line(reason)}" for reason, count in reasons[:MAX_REASONS]]
        if len(reasons) > MAX_REASONS:
            lines.append(f"  and {len(reasons) - MAX_REASONS:,} other reasons; the items have them as notes")
        lines.append("project: " + ", ".join(f"{count:,} {status}" for status, count in self.statuses.items()))
        for reason, count in self.uncalibrated.items():
            lines.append(f"{count:,} uncalibrated: {REASONS.get(reason, 'no score')}")  # type: ignore[call-overload]
        return lines


def summarize_run(project: Project, run_id: str) -> LabelingSummary:
    """Count the items of a labeling run by what it made of them.

    Args:
        project: The project.
        run_id: A labeling run of it.
    """
    with project.database.reading() as connection:
        rows = connection.execute(
            """SELECT json_extract(label, '$.status') AS status, json_extract(label, '$.note') AS note,
            COUNT(*) AS count FROM predictions WHERE run = ? GROUP BY status, note ORDER BY count DESC""",
            (run_id,),
        ).fetchall()
        empty, verified = connection.execute(
            """SELECT TOTAL(json_array_length(label, '$.boxes') = 0 AND json_extract(label, '$.status') != 'failed'),
            TOTAL(json_extract(label, '$.check.crops_right')) FROM predictions WHERE run = ?""",
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
        uncalibrated={str(reason): count for reason, count in project.count_uncalibrated().items()},
    )
