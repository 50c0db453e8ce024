"""Summary of a training run, as lines for a terminal and as one JSON object."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from hart_studio.data.run_samples import MANIFEST
from hart_studio.data.splits import read_manifest
from hart_studio.formatting import format_percent
from hart_studio.progress import format_duration, shorten_to_line
from hart_studio.records import Record
from hart_studio.runs.checkpoints import newest_checkpoint
from hart_studio.runs.events import Evaluated, Metrics, RunEvent, Started, StepDone, Warned
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import drop_superseded, read_all_events
from hart_studio.runs.status import State, read_status

MEAN_STEPS: Final = 10
"""Steps at either end of a stage that its first and last metrics are means of. Project default."""
MAX_WARNINGS: Final = 5
"""Maximum number of warnings that the summary prints, the newest. Project default."""

_SHARES: Final = ("valid_box_rate", "iog_above_0.3", "iou", "area_share", "accuracy", "failed_share")
_STEP_TITLES: Final = {"reward": "reward", "valid_box_rate": "valid boxes", "kl": "KL", "loss": "loss"}
_HELD_OUT_TITLES: Final = {
    "iog_above_0.3": "IoG > 0.3",
    "iou": "mean IoU",
    "area_share": "mean area share",
    "valid_box_rate": "valid boxes",
    "accuracy": "accuracy",
    "failed_share": "failed",
}


class Change(Record):
    """A metric at the beginning and at the end of a stage or of the run."""

    first: float | None
    """None = not measured, or not finite."""
    last: float | None
    """Equal to ``first`` where it was measured once."""


class StageSummary(Record):
    """Metrics of one stage."""

    stage: str
    """Such as ``ap_grpo``."""
    steps: int
    """Steps done."""
    mean_of: int
    """Steps that ``first`` and ``last`` are means of."""
    metrics: dict[str, Change]
    """Name -> change; a loss only where there is no reward."""
    failed_share: float
    """Mean share of samples that could not be run."""


class HeldOutSummary(Record):
    """Metrics on held-out questions."""

    questions: int
    """Questions of each evaluation."""
    first_step: int
    """Step of the first evaluation; 0 = before training."""
    last_step: int
    """Step of the last one."""
    metrics: dict[str, Change]
    """Name -> change, shares in [0, 1]."""


class TrainingSummary(Record):
    """What a training run has done."""

    run: str
    """Id."""
    state: State
    """As the run wrote it last."""
    step: int
    """Steps done."""
    total: int
    """Steps in all."""
    seconds: float
    """Time of all attempts, from their first to their last event."""
    peak_memory_mib: float | None
    """Peak memory of the first process; None = not measured."""
    stages: tuple[StageSummary, ...]
    """In their order."""
    held_out: HeldOutSummary | None
    """None = not evaluated."""
    checkpoint: str
    """Folder of the newest complete checkpoint; empty = none."""
    model: str
    """Folder of the trained model; empty while steps are left."""
    warnings: tuple[str, ...]
    """All of them, untrusted text."""
    dropped: str
    """Number and reasons of the invalid rows of the data, untrusted text; empty if there are none."""

    def lines(self) -> list[str]:
        """Lines for a terminal."""
        memory = "" if self.peak_memory_mib is None else f", peak memory {self.peak_memory_mib / 1024:.1f} GiB"
        lines = [f"steps: {self.step:,} of {self.total:,}, {format_duration(self.seconds)}{memory}"]
        lines += [_describe_stage(stage) for stage in self.stages]
        if self.held_out is not None:
            lines.append(_describe_held_out(self.held_out))
        if self.dropped:
            lines.append(f"data: {shorten_to_line(self.dropped)}")
        lines.append(f"checkpoint: {self.checkpoint or 'none'}")
        lines.append(f"warnings: {len(self.warnings):,}")
        return lines + [f"  {shorten_to_line(text)}" for text in list(dict.fromkeys(self.warnings))[-MAX_WARNINGS:]]


def summarize_training(layout: RunLayout, model: str = "") -> TrainingSummary:
    """Read a run that has ended.

    Args:
        layout: The run.
        model: Folder of the trained model; empty while steps are left.

    Raises:
        DataError: If the status or the manifest of the samples cannot be read.
    """
    status = read_status(layout)
    every = list(read_all_events(layout))
    events = drop_superseded(every)
    stages: dict[str, list[Metrics]] = {}
    for event in events:
        if isinstance(event.payload, StepDone):
            stages.setdefault(event.payload.stage, []).append(event.payload.metrics)
    memory = [value for steps in stages.values() for step in steps if (value := step.get("memory_mib")) is not None]
    checkpoint = newest_checkpoint(layout)
    manifest = layout.folder / MANIFEST
    return TrainingSummary(
        run=layout.run_id,
        state=status.state,
        step=status.step,
        total=status.total,
        seconds=_sum_seconds(every),
        peak_memory_mib=max(memory, default=None),
        stages=tuple(_summarize_stage(stage, steps) for stage, steps in stages.items()),
        held_out=_summarize_held_out(events),
        checkpoint=str(checkpoint.folder) if checkpoint else "",
        model=model,
        warnings=tuple(event.payload.message for event in events if isinstance(event.payload, Warned)),
        dropped=read_manifest(manifest).dropped if manifest.exists() else "",
    )


def suggest_commands(model: str, runs_root: str) -> list[str]:
    """Commands to try with a trained model: ask it, and evaluate it."""
    name = shlex.quote(model)
    return [
        f'ask:      python -m hart_studio.ask IMAGE "QUESTION" --model {name}',
        f"evaluate: python -m hart_studio.evaluation --model {name} --runs-root {shlex.quote(runs_root)}",
    ]


def _sum_seconds(events: Sequence[RunEvent]) -> float:
    attempts: list[list[RunEvent]] = []
    for event in events:
        if isinstance(event.payload, Started) or not attempts:
            attempts.append([])
        attempts[-1].append(event)
    return sum(max(0.0, (each[-1].at - each[0].at).total_seconds()) for each in attempts)


def _summarize_stage(stage: str, steps: Sequence[Metrics]) -> StageSummary:
    metrics: dict[str, Change] = {}
    mean_of = 1
    for name in _STEP_TITLES:
        values = [value for step in steps if (value := step.get(name)) is not None]
        if not values or (name == "loss" and "reward" in metrics):  # the loss of an RL stage does not measure progress
            continue
        count = min(MEAN_STEPS, max(1, len(values) // 2))
        mean_of = max(mean_of, count)
        metrics[name] = Change(first=fmean(values[:count]), last=fmean(values[-count:]))
    failed = [step.get("failed_share") or 0.0 for step in steps]
    return StageSummary(
        stage=stage, steps=len(steps), mean_of=mean_of, metrics=metrics, failed_share=fmean(failed) if failed else 0.0
    )


def _summarize_held_out(events: Sequence[RunEvent]) -> HeldOutSummary | None:
    found = [(event.step, event.payload) for event in events if isinstance(event.payload, Evaluated)]
    if not found:
        return None
    (first_step, first), (last_step, last) = found[0], found[-1]
    metrics = {}
    for name in _HELD_OUT_TITLES:
        before, after = first.metrics.get(name), last.metrics.get(name)
        if (before is None and after is None) or (name == "failed_share" and not (before or after)):
            continue
        metrics[name] = Change(first=before, last=after)
    return HeldOutSummary(questions=last.samples, first_step=first_step, last_step=last_step, metrics=metrics)


def _describe_stage(found: StageSummary) -> str:
    span = f"means of {found.mean_of} steps" if found.mean_of > 1 else "first and last step"
    parts: list[str] = []
    for name, change in found.metrics.items():
        text = f"{_STEP_TITLES[name]} {_show(name, change.first)} -> {_show(name, change.last)}"
        parts.append(text if parts else f"{text} ({span})")
    if found.failed_share:
        parts.append(f"failed samples {format_percent(found.failed_share)}")
    return f"{found.stage}: {', '.join(parts) or 'no metrics'}"


def _describe_held_out(found: HeldOutSummary) -> str:
    is_single = found.first_step == found.last_step
    parts = []
    for name, change in found.metrics.items():
        after = "" if is_single else f" -> {_show(name, change.last)}"
        parts.append(f"{_HELD_OUT_TITLES[name]} {_show(name, change.first)}{after}")
    when = f"step {found.first_step}" if is_single else f"step {found.first_step} -> {found.last_step}"
    return f"held-out, {found.questions:,} questions, {when}: {', '.join(parts)}"


def _show(name: str, value: float | None) -> str:
    if name in _SHARES:
        return format_percent(value)
    return "–" if value is None else f"{value:.3g}"
