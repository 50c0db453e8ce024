"""Metrics table of the built-in model's card: ``python -m hart_studio.evaluation.needle_card --model DIR --data DIR``.

Shows how well the model grounds, how well it reads a perfect crop, and how often it answers without the region.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hart_studio.data.sources import load_needle
from hart_studio.errors import DataError, HartError
from hart_studio.evaluation.grounding_metrics import list_area_shares
from hart_studio.evaluation.measurement import BATCH_SIZE, MEASURED_SETTINGS, measure
from hart_studio.evaluation.records import SampleResult
from hart_studio.files import write_json
from hart_studio.imaging import SourceImage
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.chat import ChatModel
from hart_studio.models.loading import load_model
from hart_studio.outputs import check_output
from hart_studio.pipeline.cropping import extract_crops, select_crop_regions
from hart_studio.pipeline.turns import crops_only_request, parse_answer
from hart_studio.records import GoldSample
from hart_studio.subcommands import CommandParser

Figures = dict[str, dict[str, float]]
"""Name -> mean, standard error, and count. Shares are in [0, 1]."""


def make_card(model: ChatModel, samples: Sequence[GoldSample], batch: int = BATCH_SIZE) -> Figures:
    """Measure a model under all protocols, and with the gold box as the crop.

    Raises:
        DataError: See ``measure``.
    """
    records = measure(model, samples, batch)
    parts = [samples[start : start + batch] for start in range(0, len(samples), batch)]
    return summarize(records, [value for part in parts for value in probe_gold_crops(model, part)])


def summarize(records: Sequence[SampleResult], probes: Sequence[float]) -> Figures:
    """Compute the metrics of the card from one record and one score of ``probe_gold_crops`` per question."""
    columns: dict[str, list[float]] = {}
    for record, probe in zip(records, probes, strict=True):
        row = {
            "grounding, IoG > 0.3": record.found_share,
            f"grounding, IoG > 0.3, {record.category}": record.found_share,
            "grounding, mean IoU": record.mean_iou,
            "grounding, valid box": float(bool(record.boxes)),
            f"accuracy, gold crops, {record.category}": probe,
        }
        row |= {f"accuracy, {protocol}, {record.category}": record.value(protocol) for protocol in record.answers}
        if record.value("crops_only") == 1.0:
            row["wrong box given right crops-only answer"] = float(not record.is_grounded)
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    if shares := list_area_shares(records):
        columns["grounding, mean area share"] = shares
    return {name: _summarize_column(values) for name, values in columns.items()}


def probe_gold_crops(model: ChatModel, samples: Sequence[GoldSample]) -> list[float]:
    """Crops-only scores with the gold box as the crop: reading without grounding.

    Raises:
        DataError: If an answer is unknown.
    """
    requests = []
    for sample in samples:
        image = SourceImage(sample.image)
        plan = select_crop_regions(sample.gold_boxes, image.wh, model.family, MEASURED_SETTINGS)
        (crops,) = extract_crops(image, [plan], model, MEASURED_SETTINGS)
        image.close()
        requests.append(crops_only_request(sample, crops))
    completions = model.generate(requests, MEASURED_SETTINGS.sampling)
    values = []
    for sample, request, (completion,) in zip(samples, requests, completions, strict=True):
        value = parse_answer(sample, request, completion).score.value
        if value is None:
            raise DataError(f"{sample.id} has no answer. Measure questions with answers.")
        values.append(value)
    return values


def format_table(figures: Figures) -> str:
    """Format metrics as a Markdown table, in percent with standard errors."""
    lines = ["| figure | value | questions |", "| --- | --- | --- |"]
    for name in sorted(figures):
        row = figures[name]
        lines.append(f"| {name} | {100 * row['mean']:.1f} ± {100 * row['stderr']:.1f} % | {row['count']:.0f} |")
    return "\n".join(lines)


def _summarize_column(values: Sequence[float]) -> dict[str, float]:
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return {"mean": mean, "stderr": (variance / count) ** 0.5, "count": count}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the figures as JSON when asked; 2 = bad input."""
    parser = CommandParser(
        prog="python -m hart_studio.evaluation.needle_card",
        description=__doc__,
        example="python -m hart_studio.evaluation.needle_card --data needle-test --limit 20",
    )
    parser.add_argument("--model", default=BUILT_IN_MODEL)
    parser.add_argument("--data", type=Path, required=True, help="folder written by python -m hart_studio.needle")
    parser.add_argument("--limit", type=int, default=None, help="measure only the first N questions")
    parser.add_argument("--json", type=Path, default=None, help="output file of the metrics as JSON")
    options = parser.parse_args(argv)
    try:
        if options.json:
            check_output(options.json, "a JSON file of figures", lambda head: b'"grounding, IoG > 0.3"' in head)
        samples = load_needle(options.data).samples[: options.limit]
        figures = make_card(load_model(options.model), samples)
    except HartError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        write_json(options.json, figures)
    print(format_table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
