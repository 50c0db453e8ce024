"""Summary of a labeling run as text, printed at the end of the command."""

from __future__ import annotations

from typing import Final

from hart_studio.labeling.project import Project
from hart_studio.progress import shorten_to_line

MAX_REASONS: Final = 5
"""Number of failure reasons listed, most frequent first. Project default."""


def summarize_run(project: Project, run_id: str) -> list[str]:
    """Count the items of a run by status, and list why items failed.

    Args:
        project: The project.
        run_id: Id of the labeling run.

    Returns:
        Lines for a terminal.
    """
    with project.database.reading() as connection:
        rows = connection.execute(
            """SELECT json_extract(label, '$.status') AS status, json_extract(label, '$.note') AS note,
            COUNT(*) AS count FROM predictions WHERE run = ? GROUP BY status, note ORDER BY count DESC""",
            (run_id,),
        ).fetchall()
        empty = connection.execute(
            """SELECT COUNT(*) FROM predictions WHERE run = ? AND json_array_length(label, '$.boxes') = 0
            AND json_extract(label, '$.status') != 'failed'""",
            (run_id,),
        ).fetchone()[0]
        kept = connection.execute(
            """SELECT COUNT(*) FROM predictions JOIN items ON items.id = predictions.item WHERE predictions.run = ?
            AND json_extract(predictions.label, '$.status') = 'failed' AND items.status != 'failed'""",
            (run_id,),
        ).fetchone()[0]
    counts: dict[str | None, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + row["count"]
    left = counts.get(None, 0)
    lines = [
        f"this run: {sum(counts.values()) - left:,} of {sum(counts.values()):,} items, "
        f"{counts.get('proposed', 0):,} proposed, {counts.get('auto_accepted', 0):,} auto-accepted, "
        f"{counts.get('failed', 0):,} failed, {empty:,} without a box"
    ]
    if kept:
        lines.append(f"  {kept:,} of the failed items keep their earlier label; use --status to label them again")
    reasons = [(row["note"], row["count"]) for row in rows if row["status"] == "failed"]
    lines += [f"  {count:,} failed: {shorten_to_line(str(reason))}" for reason, count in reasons[:MAX_REASONS]]
    if len(reasons) > MAX_REASONS:
        lines.append(f"  and {len(reasons) - MAX_REASONS:,} other reasons; see the notes of the items")
    return lines


def has_only_failures(project: Project, run_id: str) -> bool:
    """Whether all processed items of a labeling run failed.

    Args:
        project: The project.
        run_id: Id of the labeling run.
    """
    query = """SELECT COUNT(label), TOTAL(json_extract(label, '$.status') = 'failed') FROM predictions
        WHERE run = ?"""
    with project.database.reading() as connection:
        done, failed = connection.execute(query, (run_id,)).fetchone()
    return bool(done) and done == failed
