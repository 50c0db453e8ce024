"""Text summary of a training run, printed at the end of the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Final

from hart_studio.formatting import format_percent
from hart_studio.progress import shorten_to_line
from hart_studio.runs.checkpoints import newest_checkpoint
from hart_studio.runs.events import Evaluated, Metrics, RunEvent, StepDone, Warned
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import drop_superseded, read_events
from hart_studio.runs.status import read_status

MEAN_STEPS: Final = 10
"""Number of steps at the start and the end of a stage in the means of its first and last metrics. Project default."""
MAX_WARNINGS: Final = 5
"""Number of newest warnings to print. Project default."""

_HELD_OUT: Final = (
    ("iog_above_0.3", "IoG > 0.3"),
    ("iou", "mean IoU"),
    ("area_share", "mean area share"),
    ("valid_box_rate", "valid boxes"),
    ("accuracy", "accuracy"),
    ("failed_share", "failed"),
)


def summarize_training(layout: RunLayout) -> list[str]:
    """Summarize steps, reward or loss by stage, held-out metrics before and after, checkpoint and warnings.

    Args:
        layout: A run that has ended.

    Returns:
        Lines for a terminal.

    Raises:
        DataError: If the status cannot be read.
    """
    status = read_status(layout)
    events = drop_superseded(_read_all(layout))
    lines = [f"steps: {status.step:,} of {status.total:,}"]
    stages: dict[str, list[Metrics]] = {}
    for event in events:
        if isinstance(event.payload, StepDone):
            stages.setdefault(event.payload.stage, []).append(event.payload.metrics)
    lines += [_describe_stage(stage, steps) for stage, steps in stages.items()]
    lines += _describe_held_out(events)
    checkpoint = newest_checkpoint(layout)
    lines.append(f"checkpoint: {checkpoint.folder if checkpoint else 'none'}")
    warnings = [event.payload.message for event in events if isinstance(event.payload, Warned)]
    lines.append(f"warnings: {len(warnings):,}")
    lines += [f"  {shorten_to_line(text)}" for text in list(dict.fromkeys(warnings))[-MAX_WARNINGS:]]
    return lines


def _read_all(layout: RunLayout) -> Iterator[RunEvent]:
    offset = 0
    while (batch := read_events(layout, offset)).offset > offset:
        yield from batch.events
        offset = batch.offset


def _describe_stage(stage: str, steps: Sequence[Metrics]) -> str:
    parts: list[str] = []
    for name, title in (("reward", "reward"), ("valid_box_rate", "valid boxes"), ("loss", "loss")):
        values = [value for step in steps if (value := step.get(name)) is not None]
        if not values or (name == "loss" and parts):  # the loss of an RL stage is less informative than the reward
            continue
        count = min(MEAN_STEPS, max(1, len(values) // 2))
        ends = (fmean(values[:count]), fmean(values[-count:]))
        show = format_percent if name == "valid_box_rate" else _show_number
        span = f"means of {count} steps" if count > 1 else "first and last step"
        parts.append(f"{title} {show(ends[0])} -> {show(ends[1])}" + (f" ({span})" if not parts else ""))
    failed = [value for step in steps if (value := step.get("failed_share"))]
    if failed:
        parts.append(f"failed samples {format_percent(sum(failed) / len(steps))}")
    return f"{stage}: {', '.join(parts) or 'no metrics'}"


def _describe_held_out(events: Sequence[RunEvent]) -> list[str]:
    found = [(event.step, event.payload) for event in events if isinstance(event.payload, Evaluated)]
    if not found:
        return []
    (first_step, first), (last_step, last) = found[0], found[-1]
    parts = []
    for name, title in _HELD_OUT:
        before, after = first.metrics.get(name), last.metrics.get(name)
        if (before is None and after is None) or (name == "failed_share" and not (before or after)):
            continue
        values_text = (
            format_percent(before) if len(found) == 1 else f"{format_percent(before)} -> {format_percent(after)}"
        )
        parts.append(f"{title} {values_text}")
    when = f"step {first_step}" if len(found) == 1 else f"step {first_step} -> {last_step}"
    return [f"held-out, {last.samples:,} questions, {when}: {', '.join(parts)}"]


def _show_number(value: float) -> str:
    return f"{value:.3g}"
