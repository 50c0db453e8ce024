"""Records of evaluated questions, sufficient for all tables, intervals and figures without the model.

``SampleResult`` is a question; ``Evaluation`` has the questions of one model on one benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from pydantic import Field, ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.grounding_metrics import GoldMatch, match_gold
from hart_studio.files import read_jsonl, write_atomically
from hart_studio.geometry import area_share
from hart_studio.records import Box, Outcome, Protocol, Record, Score


class AnswerResult(Record):
    """Answer to a question under one protocol."""

    score: Score
    """Score by the project's strict extractor; value None if the question could not be scored."""
    official: Score | None = None
    """Score by the benchmark's own extractor, whose name is the prefix of ``rule``; None if there is none."""
    outcome: Outcome
    """Outcome of the rollout."""
    used_fallback: bool = False
    """Whether the answer came from the full image because no box was valid and the fallback was enabled."""
    error: str = ""
    """Why the answer is unscored although the question ran, such as a server that returned no text; empty without a
    reason."""
    text: str = ""
    """Raw output of the answer turn; empty without one. Untrusted, never HTML."""
    visual_tokens: int = Field(default=0, ge=0)
    """Visual tokens of all turns."""
    completion_tokens: int = Field(default=0, ge=0)
    """Generated tokens of all turns."""
    seconds: float = Field(default=0.0, ge=0)
    """Wall time of all turns, each with its share of the batch."""


class SampleResult(Record):
    """Results of one question under all protocols; protocols with crops share one grounding turn."""

    sample_id: str
    """Id, unique in the benchmark."""
    category: str
    """Category, from coarse to fine, joined by ``/``."""
    image: str = ""
    """Path of the image."""
    image_wh: tuple[int, int] | None = None
    """Upright (width, height) of the original; None if unreadable."""
    question: str = ""
    """Question without choices."""
    choices: tuple[str, ...] = ()
    """Option texts without letters."""
    answers: dict[Protocol, AnswerResult]
    """Protocol -> answer. A rollout without a valid box has no answer turn and is wrong."""
    boxes: tuple[Box, ...] = ()
    """Valid predicted boxes, original pixels; empty if no protocol has a grounding turn."""
    has_grounding_turn: bool = True
    """Whether there was a grounding turn: without one, missing boxes are not wrong."""
    gold_boxes: tuple[Box, ...] = ()
    """Gold boxes, original pixels; empty if the benchmark has none."""
    error: str = ""
    """Why the question could not be run; it counts as unscored, never as wrong."""
    is_model_error: bool = False
    """Whether the model caused the error; the question is retried when the evaluation is resumed."""
    attempt: int = Field(default=0, ge=0)
    """Attempt of the evaluation; see ``shards.Shard``."""

    @cached_property
    def gold_matches(self) -> tuple[GoldMatch, ...]:
        """One match per gold box; empty without a grounding turn."""
        if not self.has_grounding_turn or self.error:
            return ()
        return tuple(match_gold(gold, self.boxes) for gold in self.gold_boxes)

    @property
    def area_share(self) -> float:
        """Share of the image covered by the predicted boxes together; 0 without boxes: see ``list_area_shares``."""
        return area_share(self.boxes, self.image_wh) if self.image_wh and self.boxes else 0.0

    @property
    def found_share(self) -> float:
        """Share of gold boxes that are found.

        Raises:
            DataError: Without gold boxes or a grounding turn.
        """
        return self._mean([float(gold.is_found) for gold in self.gold_matches])

    @property
    def is_grounded(self) -> bool:
        """Whether all gold boxes are found: L of Proposition 1. False without gold boxes."""
        return bool(self.gold_matches) and all(gold.is_found for gold in self.gold_matches)

    @property
    def mean_iou(self) -> float:
        """Mean best IoU over the gold boxes.

        Raises:
            DataError: Without gold boxes or a grounding turn.
        """
        return self._mean([gold.iou for gold in self.gold_matches])

    def value(self, protocol: Protocol) -> float:
        """Score of the answer under a protocol: 1.0 right, 0.0 wrong.

        Raises:
            DataError: If the protocol was not asked, or the answer could not be scored.
        """
        answer_result = self.answers.get(protocol)
        if answer_result is None or answer_result.score.value is None:
            reason = self.error or ("no known answer" if answer_result else f"not asked under {protocol}")
            raise DataError(f"{self.sample_id} has no scored answer: {reason}. Exclude it.")
        return answer_result.score.value

    def _mean(self, values: list[float]) -> float:
        if not values:
            raise DataError(f"{self.sample_id} has no gold boxes or no grounding turn. Exclude it.")
        return sum(values) / len(values)


def describe_rows(questions: int, dropped: int, published: int | None) -> str:
    """Compare the number of questions with the rows in the file and with the published number.

    Args:
        questions: Valid rows.
        dropped: Invalid rows.
        published: Published number of questions; None = unknown.

    Returns:
        Text such as ``n = 3 of 12 rows in the file, 405 published``; empty if there is no difference.
    """
    if not dropped and published in (None, questions):
        return ""
    text = f"n = {questions:,} of {questions + dropped:,} rows in the file"
    return text if published is None else f"{text}, {published:,} published"


@dataclass(frozen=True)
class Evaluation:
    """Records of one model on one benchmark, complete or partial."""

    run_id: str
    """Id of the run."""
    title: str
    """Short name for tables, such as the model's name."""
    model: str
    """Loaded model: a folder, hub id, or built-in name."""
    benchmark: str
    """Name of the benchmark, such as ``treebench``."""
    protocols: tuple[Protocol, ...]
    """Protocols of all questions."""
    date: str
    """Date of the measurement, ``YYYY-MM-DD``."""
    records: tuple[SampleResult, ...]
    """One record per measured question."""
    total: int
    """Number of questions of the evaluation."""
    left_out: int = 0
    """Number of invalid rows of the benchmark; not asked, and in no metric."""
    published: int | None = None
    """Published number of questions; None for a part of the benchmark, or if it is not fixed."""

    @property
    def rows_text(self) -> str:
        """``n = 3 of 12 rows in the file, 405 published`` if the questions are not all rows, or not as published."""
        return describe_rows(self.total, self.left_out, self.published)

    @property
    def is_complete(self) -> bool:
        """Whether all questions are measured."""
        return len(self.records) >= self.total

    @property
    def name(self) -> str:
        """Name in tables: the title, with the model unless the title contains it. Paths are shortened to their end."""
        model = self.model.rstrip("/\\")
        shown = PurePath(model).name if PurePath(model).is_absolute() or "\\" in model else model
        short = shown.rpartition("/")[2]
        if short in self.title or (self.title and self.title in short):
            return self.title or shown
        return f"{self.title} ({shown})"

    def label(self, among: Iterable[Evaluation]) -> str:
        """Title; with the end of the run id if another of the evaluations shown together has the same title."""
        is_alone = sum(other.title == self.title for other in among) < 2
        return self.title if is_alone else f"{self.title} {self.run_id[-6:]}"


def write_records(path: Path, records: Iterable[SampleResult]) -> None:
    """Write records as JSONL, atomically.

    Raises:
        OSError: If the folder is missing or full.
    """
    write_atomically(path, "".join(f"{record.model_dump_json()}\n" for record in records))


def is_record(content: bytes) -> bool:
    """Whether the first line of a file is a record."""
    try:
        SampleResult.model_validate_json(content.split(b"\n", 1)[0])
    except ValidationError:
        return False
    return True


def read_records(path: Path) -> list[SampleResult]:
    """Read records from ``write_records``.

    Raises:
        DataError: If the file cannot be read, or a line is no record.
    """
    records = []
    for number, value in read_jsonl(path, reject_symlinks=True):
        try:
            records.append(SampleResult.model_validate(value))
        except ValidationError as error:
            raise DataError(
                f"Invalid record in {path}, line {number}: {error.errors()[0]['msg']}. "
                "Remove the file and measure again."
            ) from error
    return records
