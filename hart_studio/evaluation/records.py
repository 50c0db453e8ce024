"""Records of evaluated questions, sufficient for all tables, intervals and figures without the model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.grounding_metrics import best_iog, best_iou, is_found
from hart_studio.files import read_jsonl, write_atomically
from hart_studio.geometry import area_share
from hart_studio.records import Box, Outcome, Protocol, Record, Score


class GoldMatch(Record):
    """Overlap of the predicted boxes with one gold box."""

    is_found: bool
    """Whether one predicted box has IoG strictly above 0.3 (paper, Sec. 4.1)."""
    iog: float
    """Best IoG of one predicted box; 0 without a valid box."""
    iou: float
    """Best IoU of one predicted box; 0 without a valid box."""


class AnswerResult(Record):
    """Answer to a question under one protocol."""

    score: Score
    """Score by the project's strict extractor; value None if the question could not be scored."""
    official: Score | None = None
    """Score by the benchmark's own extractor, whose name is the prefix of ``rule``; None if there is none."""
    outcome: Outcome
    """Outcome of the rollout."""
    used_fallback: bool = False
    """Whether the answer came from the full image because no box was usable and the fallback was enabled."""
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
    """Whether the model failed rather than the question: a later attempt retries it."""
    attempt: int = Field(default=0, ge=0)
    """Attempt of the evaluation; see ``shards.Shard``."""

    @cached_property
    def gold_matches(self) -> tuple[GoldMatch, ...]:
        """One match per gold box; empty without a grounding turn."""
        if not self.has_grounding_turn or self.error:
            return ()
        return tuple(
            GoldMatch(
                is_found=is_found(gold, self.boxes), iog=best_iog(gold, self.boxes), iou=best_iou(gold, self.boxes)
            )
            for gold in self.gold_boxes
        )

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


def list_area_shares(records: Iterable[SampleResult]) -> list[float]:
    """Area shares of the questions with a valid box, in order: the values of every mean area share.

    Questions without boxes are excluded, because an area of 0 would lower the mean.
    """
    return [record.area_share for record in records if record.boxes and record.image_wh]


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
