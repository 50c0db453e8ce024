"""Measure a model: ``python -m hart_studio.evaluation.measurement --model DIR --data DIR --out FILE``.

One record per question. Tables, intervals and comparisons are all computed from these records, without the model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError
from tqdm import tqdm

from hart_studio.data.sources import load_needle
from hart_studio.errors import DataError, HartError
from hart_studio.evaluation.grounding_metrics import best_iog, best_iou, is_found
from hart_studio.files import read_jsonl, write_atomically
from hart_studio.geometry import area_share
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.chat import ChatModel
from hart_studio.models.loading import load_model
from hart_studio.pipeline.closed_loop import Attempt, answer, answer_directly, ground, open_views
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, GoldSample, Protocol, Record, RolloutGroup

MEASURED_SETTINGS: Final = LoopSettings(max_new_tokens=96)
"""Greedy decoding; the token limit is ours."""

BATCH: Final = 16
"""Questions whose pictures are in memory together, ours."""


class GoldMatch(Record):
    """How well the predicted boxes meet one gold box."""

    is_found: bool
    """Whether one predicted box alone has IoG > 0.3, strictly (paper, Sec. 4.1)."""
    iog: float
    """Best IoG of one predicted box; 0 without a usable box."""
    iou: float
    """Best IoU of one predicted box; 0 without a usable box."""


class Measured(Record):
    """One question under all protocols; the grounding turn is one and the same for all of them."""

    sample_id: str
    """The question."""
    category: str
    """Its kind."""
    answers: dict[Protocol, float]
    """Protocol -> score of the answer, 1.0 right or 0.0 wrong. Without a usable box there is no answer: 0.0."""
    golds: tuple[GoldMatch, ...] = Field(min_length=1)
    """One per gold box."""
    area_share: float
    """Share of the picture that the predicted boxes cover together."""
    boxes: int = Field(ge=0)
    """Number of usable predicted boxes."""

    @property
    def found_share(self) -> float:
        """Share of the gold boxes that are found."""
        return sum(gold.is_found for gold in self.golds) / len(self.golds)

    @property
    def is_grounded(self) -> bool:
        """Whether every gold box is found: L of Proposition 1."""
        return all(gold.is_found for gold in self.golds)

    @property
    def mean_iou(self) -> float:
        """Mean of the best IoU over the gold boxes."""
        return sum(gold.iou for gold in self.golds) / len(self.golds)


def measure(model: ChatModel, samples: Sequence[GoldSample], batch: int = BATCH) -> list[Measured]:
    """Point once and answer under every protocol, greedily.

    Args:
        model: The model.
        samples: Questions with gold boxes and known answers; the loop itself sees only their blind copies.
        batch: Questions in memory together.

    Returns:
        One record per question, in order.

    Raises:
        DataError: If a picture cannot be read, or an answer is not known: figures of several models are compared
            question by question, so none may be left out.
    """
    records: list[Measured] = []
    for start in tqdm(range(0, len(samples), batch), unit="batch", desc="measure", disable=None):
        records += _measure_batch(model, samples[start : start + batch])
    return records


def write_records(path: Path, records: Sequence[Measured]) -> None:
    """Write the records as JSONL: the whole file or none of it.

    Raises:
        OSError: If the folder is missing or full.
    """
    write_atomically(path, "".join(f"{record.model_dump_json()}\n" for record in records))


def read_records(path: Path) -> list[Measured]:
    """Read what ``write_records`` wrote.

    Raises:
        DataError: If the file cannot be read, or a line is no record.
    """
    records = []
    for number, value in read_jsonl(path):
        try:
            records.append(Measured.model_validate(value))
        except ValidationError as error:
            raise DataError(
                f"expected the record of a question in {path} line {number}, got: {error.errors()[0]['msg']}; "
                "remove the file and measure again"
            ) from error
    return records


def _measure_batch(model: ChatModel, samples: Sequence[GoldSample]) -> list[Measured]:
    views = open_views(model, [sample.blind() for sample in samples], MEASURED_SETTINGS)
    attempts = ground(model, views, MEASURED_SETTINGS)
    groups: dict[Protocol, list[RolloutGroup]] = {
        "direct": answer_directly(model, views, MEASURED_SETTINGS),
        "crops_only": answer(model, attempts, "crops_only", MEASURED_SETTINGS),
        "full_and_crops": answer(model, attempts, "full_and_crops", MEASURED_SETTINGS),
    }
    records = []
    for index, (sample, (attempt,)) in enumerate(zip(samples, attempts, strict=True)):
        if not isinstance(attempt, Attempt):
            raise DataError(f"expected a readable picture of {sample.id}, got: {attempt.reason}; draw it again")
        boxes = attempt.grounding.boxes
        records.append(
            Measured(
                sample_id=sample.id,
                category=sample.category,
                answers={protocol: _read_score(rolled[index]) for protocol, rolled in groups.items()},
                golds=tuple(_match(gold, boxes) for gold in sample.gold_boxes),
                area_share=area_share(boxes, attempt.view.image.wh),
                boxes=len(boxes),
            )
        )
    return records


def _match(gold: Box, boxes: Sequence[Box]) -> GoldMatch:
    return GoldMatch(is_found=is_found(gold, boxes), iog=best_iog(gold, boxes), iou=best_iou(gold, boxes))


def _read_score(group: RolloutGroup) -> float:
    value = group.rollouts[0].score.value
    if value is None:
        raise DataError(f"expected a known answer of {group.sample_id}, got none; measure questions with answers")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the records; 2 = bad input."""
    parser = argparse.ArgumentParser(prog="python -m hart_studio.evaluation.measurement", description=__doc__)
    parser.add_argument("--model", default=BUILT_IN_MODEL)
    parser.add_argument("--data", type=Path, required=True, help="folder written by python -m hart_studio.needle")
    parser.add_argument("--out", type=Path, required=True, help="file of records, one JSON object per question")
    options = parser.parse_args(argv)
    try:
        samples = load_needle(options.data).samples
        write_records(options.out, measure(load_model(options.model), samples))
    except HartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
