"""Synthetic evaluations: records with given answers in real run folders, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import DATASET_INFO_FILE, DatasetInfo, compute_metrics, prepare_run
from hart_studio.evaluation.records import AnswerResult, SampleResult
from hart_studio.evaluation.results import load_evaluation
from hart_studio.evaluation.shards import append_records, shard_path
from hart_studio.files import write_json
from hart_studio.records import Box, Protocol, Score
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.writer import RunWriter

WH = (1600, 1200)
GOLD_XYXY = (400.0, 300.0, 600.0, 500.0)
FAR_XYXY = (1000.0, 800.0, 1200.0, 1000.0)

PROVENANCE = Provenance(
    git_commit=None, has_local_changes=None, versions={}, platform="test", argv=("python",), environment={},
    device="cpu", data_fingerprint="",
)  # fmt: skip


def draw_image(path: Path) -> Path:
    """An image with a magenta sign where the gold box is."""
    image = Image.new("RGB", WH, (40, 60, 80))
    ImageDraw.Draw(image).rectangle(GOLD_XYXY, fill=(255, 0, 200))
    image.save(path)
    return path


def make_judged(value: float | None, text: str = "It is \\boxed{A}", official: float | None = None) -> AnswerResult:
    """An answer extracted as A if right, as B if wrong."""
    extracted = None if value is None else "A" if value else "B"
    return AnswerResult(
        score=Score(value=value, extracted=extracted, expected="A", rule="boxed"),
        official=None if official is None else Score(value=official, extracted="A", expected="A", rule="vstar:letter"),
        outcome="ok",
        text=text,
        visual_tokens=1200,
        completion_tokens=8,
        seconds=0.5,
    )


def make_record(
    number: int,
    image: Path,
    right: float | None = 1.0,
    *,
    on_gold: bool = True,
    question: str = "Which number is on sign {n}?",
    category: str = "detail",
    **more: Any,
) -> SampleResult:
    """A question whose box is right or far off; ``direct`` is always wrong."""
    box = Box.from_xyxy(GOLD_XYXY if on_gold else FAR_XYXY, label="sign")
    answers: dict[Protocol, AnswerResult] = {
        "crops_only": make_judged(right),
        "direct": make_judged(0.0, "Perhaps \\boxed{B}"),
    }
    fields: dict[str, Any] = {
        "sample_id": f"q{number:03d}",
        "category": category,
        "image": str(image),
        "image_wh": WH,
        "question": question.format(n=number),
        "choices": ("five", "six", "seven"),
        "answers": answers,
        "boxes": (box,),
        "gold_boxes": (Box.from_xyxy(GOLD_XYXY),),
    }
    return SampleResult(**{**fields, **more})


def make_records(image: Path, count: int = 12) -> list[SampleResult]:
    """Every third answer wrong, every fourth box far off, the last one unscored."""
    records = [
        make_record(
            n, image, float(n % 3 != 0), on_gold=n % 4 != 0, category="detail/left" if n % 2 else "detail/right"
        )
        for n in range(count - 1)
    ]
    return [*records, make_record(count - 1, image, None)]


def write_evaluation(
    root: Path, records: Sequence[SampleResult], *, total: int | None = None, **config: Any
) -> RunLayout:
    """An evaluation with these records: complete, or stopped if ``total`` is larger."""
    settings = EvaluationConfig(**{"protocols": ("crops_only", "direct"), **config})
    layout = prepare_run(root, settings)
    asked = DatasetInfo(benchmark=settings.benchmark, samples=total or len(records), fingerprint="f" * 64)
    with RunWriter(layout, 0) as run:
        write_json(layout.folder / DATASET_INFO_FILE, asked.model_dump(mode="json"))
        run.set_total(asked.samples)
        run.start(PROVENANCE)
        half = len(records) // 2
        for done in (half, len(records)):
            append_records(shard_path(layout, 0), records[0 if done == half else half : done])
            run.log_step(done, "", compute_metrics(records[:done]))
        if asked.samples > len(records):
            run.warn("q999: the image is missing")
            layout.stop.touch()
            assert run.is_stop_requested
    return layout


def results_without_times(layout: RunLayout) -> list[dict[str, Any]]:
    """All measured values of a run except times and attempts."""
    records = [record.model_dump(mode="json") for record in load_evaluation(layout).records]
    for record in records:
        record.pop("attempt")
        for judged in record["answers"].values():
            judged.pop("seconds")
    return records
