"""Measure a model on needle scenes, all protocols: ``python -m hart_studio.evaluation.measurement --model DIR ...``.

For benchmarks: ``python -m hart_studio.evaluation``. One record per question. Tables, intervals and comparisons are
computed from the records, without the model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hart_studio.data.sources import load_needle
from hart_studio.errors import DataError, HartError
from hart_studio.evaluation.extractors import score_with_official_extractor
from hart_studio.evaluation.records import AnswerResult, SampleResult, is_record, write_records
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.chat import ChatModel
from hart_studio.models.model_loading import load_chat_model
from hart_studio.outputs import check_output
from hart_studio.pipeline.closed_loop import (
    FailedSample,
    GroundedSample,
    PreparedSample,
    ground_and_crop,
    prepare_samples,
    run_answering,
    run_direct,
)
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.progress import ProgressReporter
from hart_studio.records import PROTOCOLS, GoldSample, Protocol, Rollout, RolloutGroup, Sample, Score
from hart_studio.subcommands import CommandParser

MEASURED_SETTINGS: Final = LoopSettings(max_new_tokens=96)
"""Greedy decoding. The token limit is a project default."""

BATCH_SIZE: Final = 16
"""Questions per batch, whose images are in memory together. Project default."""


def measure(model: ChatModel, samples: Sequence[GoldSample], batch: int = BATCH_SIZE) -> list[SampleResult]:
    """Measure questions greedily under every protocol; all must succeed.

    Args:
        model: The model.
        samples: Questions with gold boxes and known answers; the inference loop gets copies without gold boxes.
        batch: Questions per batch.

    Returns:
        One record per question, in order.

    Raises:
        DataError: If an image is unreadable, an answer is unknown, or gold boxes are missing: models are compared
            question by question, so none may be excluded.
    """
    records: list[SampleResult] = []
    with ProgressReporter("question", len(samples)) as progress:
        for start in range(0, len(samples), batch):
            records += measure_batch(model, samples[start : start + batch], PROTOCOLS, MEASURED_SETTINGS)
            progress.update(len(records))
    for record in records:
        if record.error:
            raise DataError(f"Cannot read the image of {record.sample_id}: {record.error}. Create it again.")
        if not record.gold_matches:
            raise DataError(f"{record.sample_id} has no gold boxes. Measure questions with gold boxes.")
        record.value("direct")
    return records


def measure_batch(
    model: ChatModel,
    samples: Sequence[GoldSample],
    protocols: Sequence[Protocol],
    settings: LoopSettings,
    official: str = "",
    open_image: ImageOpener = SourceImage,
) -> list[SampleResult]:
    """Measure a batch of questions; protocols with crops share one grounding turn.

    Args:
        model: The model.
        samples: Questions; the inference loop gets copies without gold boxes. An unreadable image gives a record with
            an error and no score.
        protocols: At least one. ``direct`` alone needs no grounding turn.
        settings: Image budgets, cropping, decoding and fallback.
        official: Name of the benchmark's own extractor; empty = none.
        open_image: Opens an image by its path.

    Returns:
        One record per question, in order.
    """
    has_grounding_turn = any(protocol != "direct" for protocol in protocols)
    views = prepare_samples(
        model, [sample.without_gold_boxes() for sample in samples], settings, open_image, will_crop=has_grounding_turn
    )
    attempts = ground_and_crop(model, views, settings) if has_grounding_turn else []
    groups: dict[Protocol, list[RolloutGroup]] = {
        protocol: run_direct(model, views, settings)
        if protocol == "direct"
        else run_answering(model, attempts, protocol, settings)
        for protocol in protocols
    }
    records = []
    for index, sample in enumerate(samples):
        found = attempts[index][0] if has_grounding_turn else views[index]
        rollouts = {protocol: rolled[index].rollouts[0] for protocol, rolled in groups.items()}
        answers = {protocol: _score_answer(sample, rollout, official) for protocol, rollout in rollouts.items()}
        records.append(_record(sample, found, answers))
    return records


def record_model_error(sample: GoldSample, protocols: Sequence[Protocol], reason: str) -> SampleResult:
    """Create the record of a question on which the model failed: unscored, not wrong."""
    score = Score(value=None, extracted=None, expected=sample.answer, rule="none")
    answers = {protocol: AnswerResult(score=score, outcome="error") for protocol in protocols}
    record = _record(sample, FailedSample(sample.without_gold_boxes(), reason), answers)
    return record.model_copy(update={"is_model_error": True})


def _record(
    sample: GoldSample,
    found: GroundedSample | PreparedSample | FailedSample,
    answers: dict[Protocol, AnswerResult],
) -> SampleResult:
    view = found.view if isinstance(found, GroundedSample) else found
    return SampleResult(
        sample_id=sample.id,
        category=sample.category,
        image=sample.image,
        image_wh=view.image.wh if isinstance(view, PreparedSample) else None,
        question=sample.question,
        choices=sample.choices,
        answers=answers,
        boxes=found.grounding.boxes if isinstance(found, GroundedSample) else (),
        has_grounding_turn=any(protocol != "direct" for protocol in answers),
        gold_boxes=sample.gold_boxes,
        error=found.reason if isinstance(found, FailedSample) else "",
    )


def _score_answer(sample: Sample, rollout: Rollout, official: str) -> AnswerResult:
    turn = rollout.answer_turn
    return AnswerResult(
        score=rollout.score,
        official=score_with_official_extractor(official, turn.text if turn else "", sample)
        if official and rollout.outcome != "error"
        else None,
        outcome=rollout.outcome,
        used_fallback=rollout.used_fallback,
        error=rollout.error,
        text=turn.text if turn else "",
        visual_tokens=rollout.visual_tokens,
        completion_tokens=sum(turn.completion_tokens for turn in rollout.turns),
        seconds=rollout.seconds,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the records; 2 = bad input."""
    parser = CommandParser(
        prog="python -m hart_studio.evaluation.measurement",
        description=__doc__,
        example="python -m hart_studio.evaluation.measurement --data needle-test --out records.jsonl",
    )
    parser.add_argument("--model", default=BUILT_IN_MODEL)
    parser.add_argument("--data", type=Path, required=True, help="folder written by python -m hart_studio.needle")
    parser.add_argument("--out", type=Path, required=True, help="output file of records, JSON Lines")
    options = parser.parse_args(argv)
    try:
        check_output(options.out, "a file of evaluation records", is_record)
        samples = load_needle(options.data).samples
        write_records(options.out, measure(load_chat_model(options.model), samples))
    except HartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
