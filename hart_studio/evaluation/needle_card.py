"""Measure a model on needle questions: ``python -m hart_studio.evaluation.needle_card --model DIR --data DIR``.

The table says how well the model points, how well it reads when the crop is perfect, and what it can do without
looking closer. It is the table of the built-in model's card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from hart_studio.data.sources import load_needle
from hart_studio.errors import HartError
from hart_studio.evaluation.grounding_metrics import best_iou, is_found, share_found
from hart_studio.files import write_json
from hart_studio.geometry import area_share
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.chat import ChatModel
from hart_studio.models.loading import load_model
from hart_studio.pipeline.answering import crops_only_request, read_answer
from hart_studio.pipeline.closed_loop import View, answer, answer_directly, ground, open_views
from hart_studio.pipeline.cropping import cut_crops, plan_regions
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import GoldSample, Rollout


@dataclass
class Tally:
    """Per-question values, one list per figure; means are taken at the end."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float | None) -> None:
        """Count one question; None = does not apply."""
        if value is not None:
            self.values.setdefault(name, []).append(value)

    def figures(self) -> dict[str, dict[str, float]]:
        """Name -> mean, standard error of the mean, and count."""
        return {name: _summarise(values) for name, values in self.values.items()}


def _summarise(values: Sequence[float]) -> dict[str, float]:
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return {"mean": mean, "stderr": (variance / count) ** 0.5, "count": count}


def measure(model: ChatModel, samples: Sequence[GoldSample], batch: int = 16) -> dict[str, dict[str, float]]:
    """Run all protocols and the gold-crop probe over the samples.

    Args:
        model: The model.
        samples: Needle questions with gold boxes; the loop itself sees only their blind copies.
        batch: Questions in memory together.

    Returns:
        Figure -> mean, standard error, count. Shares are in [0, 1].
    """
    tally = Tally()
    settings = LoopSettings(max_new_tokens=96)
    for start in tqdm(range(0, len(samples), batch), unit="batch", desc="measure"):
        part = samples[start : start + batch]
        views = open_views(model, [sample.blind() for sample in part], settings)
        attempts = ground(model, views, settings)
        crops_only = answer(model, attempts, "crops_only", settings)
        both = answer(model, attempts, "full_and_crops", settings)
        direct = answer_directly(model, views, settings)
        probes = _probe_gold_crops(model, part, views, settings)
        for index, sample in enumerate(part):
            view = views[index]
            if not isinstance(view, View):
                raise HartError(f"the picture of {sample.id} cannot be read: {view.reason}")
            rollout = crops_only[index].rollouts[0]
            _count_grounding(tally, sample, rollout, view.image.wh)
            kind = sample.category
            for name, value in (
                ("crops_only", rollout.score.value),
                ("full_and_crops", both[index].rollouts[0].score.value),
                ("direct", direct[index].rollouts[0].score.value),
                ("gold crops", probes[index]),
            ):
                tally.add(f"accuracy, {name}, {kind}", value)
    return tally.figures()


def _count_grounding(tally: Tally, sample: GoldSample, rollout: Rollout, wh: tuple[int, int]) -> None:
    found = share_found(sample.gold_boxes, rollout.boxes)
    tally.add("grounding, IoG > 0.3", found)
    tally.add(f"grounding, IoG > 0.3, {sample.category}", found)
    tally.add(
        "grounding, mean IoU", sum(best_iou(gold, rollout.boxes) for gold in sample.gold_boxes) / len(sample.gold_boxes)
    )
    tally.add("grounding, mean area share", area_share(rollout.boxes, wh))
    tally.add("grounding, usable box", float(bool(rollout.boxes)))
    if rollout.score.value == 1.0:
        is_wrong = not all(is_found(gold, rollout.boxes) for gold in sample.gold_boxes)
        tally.add("wrong box given right crops-only answer", float(is_wrong))


def _probe_gold_crops(
    model: ChatModel, samples: Sequence[GoldSample], views: Sequence[object], settings: LoopSettings
) -> list[float | None]:
    """Crops-only accuracy when the crop IS the gold box: reading alone, without pointing."""
    requests = []
    for sample, view in zip(samples, views, strict=True):
        if not isinstance(view, View):
            raise HartError(f"the picture of {sample.id} cannot be read")
        plan = plan_regions(sample.gold_boxes, view.image.wh, model.family, settings)
        (crops,) = cut_crops(view.image, [plan], model, settings)
        view.image.close()
        requests.append(crops_only_request(sample, crops))
    completions = model.generate(requests, settings.sampling)
    return [
        read_answer(sample, request, completion).score.value
        for sample, request, (completion,) in zip(samples, requests, completions, strict=True)
    ]


def format_table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table, percent with standard errors."""
    lines = ["| figure | value | questions |", "| --- | --- | --- |"]
    for name in sorted(figures):
        row = figures[name]
        lines.append(f"| {name} | {100 * row['mean']:.1f} ± {100 * row['stderr']:.1f} % | {row['count']:.0f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the figures as JSON when asked; 2 = bad input."""
    parser = argparse.ArgumentParser(prog="python -m hart_studio.evaluation.needle_card", description=__doc__)
    parser.add_argument("--model", default=BUILT_IN_MODEL)
    parser.add_argument("--data", type=Path, required=True, help="folder written by python -m hart_studio.needle")
    parser.add_argument("--limit", type=int, default=None, help="first N questions only")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    options = parser.parse_args(argv)
    try:
        samples = load_needle(options.data).samples[: options.limit]
        figures = measure(load_model(options.model), samples)
    except HartError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        write_json(options.json, figures)
    print(format_table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
