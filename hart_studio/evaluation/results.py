"""Load evaluations from their run directories, without running a model, and summarize them for the command."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.evaluation.accuracy import count_accuracy
from hart_studio.evaluation.config import read_config
from hart_studio.evaluation.grounding_metrics import measure_grounding
from hart_studio.evaluation.job import DATASET_INFO_FILE, DatasetInfo
from hart_studio.evaluation.records import Evaluation, describe_rows
from hart_studio.evaluation.shards import ShardReader
from hart_studio.evaluation.statistics import Estimate, wilson
from hart_studio.files import read_regular_file
from hart_studio.formatting import format_percent, list_reasons
from hart_studio.progress import shorten_to_line
from hart_studio.records import Protocol, Record
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import RunSummary, list_runs

MAX_REASONS: Final = 5
"""Reasons that are listed, the most frequent first. Project default."""


class Interval(Record):
    """A share in [0, 1] with the ends of its 95 % interval."""

    value: float
    """The share."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class AccuracySummary(Record):
    """Accuracy under one protocol."""

    protocol: Protocol
    """Protocol of the answers."""
    accuracy: Interval | None
    """Wilson interval; None = no answer was scored."""
    scored: int
    """Answers that were scored."""
    unscored: int
    """Questions without a score: they could not be run, or have no known answer."""
    fallbacks: int
    """Answers that were given from the full image, without a valid box."""


class BoxSummary(Record):
    """Predicted boxes beside the gold boxes."""

    found: Interval
    """Share of the gold boxes with IoG > 0.3."""
    gold_boxes: int
    """Number of gold boxes."""
    iou: float | None
    """Mean best IoU of the gold boxes."""
    area_share: float | None
    """Mean share of the image under the boxes, over questions with a valid box."""
    valid_box_rate: float | None
    """Share of the questions with a valid box."""
    questions: int
    """Questions with gold boxes."""


class EvaluationSummary(Record):
    """What an evaluation has measured so far."""

    run: str
    """Id."""
    state: Literal["completed", "stopped"]
    """``stopped`` = questions are left; it can be resumed."""
    benchmark: str
    """Name of the benchmark."""
    model: str
    """Name of the model."""
    measured: int
    """Questions with a record, failed ones included."""
    total: int
    """Questions that are asked."""
    invalid_rows: int
    """Rows of the data that are no question and were dropped."""
    rows: int
    """Rows that were read."""
    published: int | None
    """Published number of questions; None for a part of the benchmark, or if it is not fixed."""
    accuracy: tuple[AccuracySummary, ...]
    """One per protocol."""
    boxes: BoxSummary | None
    """None without gold boxes."""
    failures: dict[str, int]
    """Reason -> failed questions, untrusted text."""
    unscored_reasons: dict[str, int] = Field(default_factory=dict)
    """Reason -> unscored answers of questions that ran, untrusted text."""
    invalid_reasons: dict[str, int]
    """Reason -> invalid rows, of the first ones."""

    def lines(self) -> list[str]:
        """Lines for a terminal."""
        failed = Counter(self.failures)
        lines = [
            f"questions: {self.measured:,} of {self.total:,} measured, {failed.total():,} failed, "
            f"{self.invalid_rows:,} invalid rows skipped"
        ]
        for found in self.accuracy:
            extra = [f"{found.unscored:,} unscored"] if found.unscored else []
            extra += [f"{found.fallbacks:,} answered from the full image"] if found.fallbacks else []
            text = _format_interval(found.accuracy) if found.accuracy else "not known"
            lines.append(", ".join([f"accuracy, {found.protocol}: {text}", f"n = {found.scored:,}", *extra]))
        if self.boxes is not None:
            lines.append(_describe_boxes(self.boxes))
        invalid = Counter(self.invalid_reasons)
        reasons = (
            *list_reasons(failed, MAX_REASONS, lambda reason, count: f"{count:,} failed: {shorten_to_line(reason)}"),
            *list_reasons(
                Counter(self.unscored_reasons),
                MAX_REASONS,
                lambda reason, count: f"{count:,} answers unscored: {shorten_to_line(reason)}",
            ),
            *list_reasons(invalid, MAX_REASONS, lambda reason, count: f"{count:,} skipped: {shorten_to_line(reason)}"),
        )
        data = describe_rows(self.total, self.invalid_rows, self.published)
        return lines + ([f"data: {data}"] if data else []) + [f"  {line}" for line in reasons]


def list_evaluations(runs_root: Path) -> list[RunSummary]:
    """List the evaluations below a root, newest first, without other runs."""
    return [run for run in list_runs(runs_root) if is_evaluation(run)]


def is_evaluation(run: RunSummary) -> bool:
    """Whether a run is a readable evaluation."""
    return run.status is not None and run.status.job == "evaluation"


def is_unreadable(run: RunSummary) -> bool:
    """Whether a run is an evaluation by its id, but its status is unreadable."""
    return run.status is None and "-evaluation-" in run.layout.run_id


def load_evaluation(layout: RunLayout) -> Evaluation:
    """Load the records of an evaluation.

    Raises:
        InputError: If it is no evaluation, or has not started.
        DataError: If its records cannot be read.
    """
    config = read_config(layout)
    asked = read_dataset_info(layout)
    shards = ShardReader(layout)
    shards.poll()
    # The order does not depend on the processes.
    records = sorted(shards.found.values(), key=lambda record: record.sample_id)
    date = layout.run_id[:8]
    return Evaluation(
        run_id=layout.run_id,
        title=config.shown_title,
        model=config.served.title if config.served else config.model,
        benchmark=config.benchmark,
        protocols=config.protocols,
        date=f"{date[:4]}-{date[4:6]}-{date[6:]}",
        records=tuple(records),
        total=asked.samples,
        left_out=asked.invalid_count,
        published=asked.published,
    )


def read_dataset_info(layout: RunLayout) -> DatasetInfo:
    """Read the dataset information of an evaluation.

    Raises:
        InputError: If it has not read its questions yet.
    """
    try:
        return DatasetInfo.model_validate_json(read_regular_file(layout.folder / DATASET_INFO_FILE))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"The evaluation {layout.run_id} has not read its questions yet. Wait, or check its log."
        ) from error


def summarize_evaluation(evaluation: Evaluation, asked: DatasetInfo, *, is_done: bool = True) -> EvaluationSummary:
    """Count questions, accuracy by protocol, boxes, and what failed or was left out."""
    records = evaluation.records
    accuracy = []
    for protocol in evaluation.protocols:
        found = count_accuracy(records, protocol)
        accuracy.append(
            AccuracySummary(
                protocol=protocol,
                accuracy=_interval(wilson(round(found.right), found.scored)) if found.scored else None,
                scored=found.scored,
                unscored=found.unscored,
                fallbacks=found.fallbacks,
            )
        )
    boxes = measure_grounding(records)
    return EvaluationSummary(
        run=evaluation.run_id,
        state="completed" if is_done else "stopped",
        benchmark=evaluation.benchmark,
        model=evaluation.model,
        measured=len(records),
        total=evaluation.total,
        invalid_rows=asked.invalid_count,
        rows=evaluation.total + asked.invalid_count,
        published=asked.published,
        accuracy=tuple(accuracy),
        boxes=boxes
        and BoxSummary(
            found=_interval(boxes.found),
            gold_boxes=boxes.boxes,
            iou=boxes.iou,
            area_share=boxes.area_share,
            valid_box_rate=boxes.usable,
            questions=boxes.questions,
        ),
        failures=Counter(record.error for record in records if record.error),
        unscored_reasons=Counter(
            answer.error for record in records if not record.error for answer in record.answers.values() if answer.error
        ),
        invalid_reasons=Counter(reason for _, reason in asked.invalid_rows),
    )


def _interval(found: Estimate) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high)


def _format_interval(found: Interval) -> str:
    """``57.0 % [50.1, 63.7]``."""
    return f"{format_percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _describe_boxes(found: BoxSummary) -> str:
    return (
        f"boxes: IoG > 0.3 {_format_interval(found.found)}, n = {found.gold_boxes:,} gold boxes; mean IoU "
        f"{format_percent(found.iou)}, mean area share {format_percent(found.area_share)}, valid boxes "
        f"{format_percent(found.valid_box_rate)} of {found.questions:,} questions"
    )
