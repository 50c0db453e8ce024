"""Labels of a needle project beside the truth: ``python -m benchmarks.labeling_quality --data DIR --out FILE.md``.

DIR was written by ``python -m hart_studio.needle --split test``, whose scenes neither the models nor the
calibration have seen. The labels are made without gold boxes. Then the ten percent that the queue finds most
doubtful are reviewed by a stand-in for a careful person, who draws the gold boxes; the review itself is the
real one. Written are the precision and recall of accepting unseen, and the quality before and after that
review.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from hart_studio.data.rows import LoadedSamples
from hart_studio.data.sources import load_needle
from hart_studio.evaluation.statistics import Estimate
from hart_studio.geometry import iou
from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.calibration import Calibration
from hart_studio.labeling.calibration_lookup import get_calibration
from hart_studio.labeling.gold_metrics import GoldMetrics, GoldReport, measure_against_gold
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, prepare_run, run_labeling
from hart_studio.labeling.project import Project, ProjectSettings
from hart_studio.labeling.project_creation import create_project
from hart_studio.labeling.quality import measure_quality
from hart_studio.labeling.records import EvidenceKind
from hart_studio.labeling.report import draw_reliability
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART, resolve_model_name
from hart_studio.models.loading import load_model
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, GoldSample

REVIEWED_PART = 10


def label(folder: Path, samples: list[GoldSample], model: str, refinement: BoxRefinementSettings | None) -> Project:
    """A project with labels of a model; half of the questions lose their answers, for the other kind of evidence."""
    project = create_project(folder, settings=ProjectSettings(audit_share=0.1))
    rows = [s if n % 2 == 0 else s.model_copy(update={"answer": None}) for n, s in enumerate(samples)]
    import_samples(project, LoadedSamples("needle", tuple(rows)))
    loop = LoopSettings(temperature=1.0, max_new_tokens=128)
    proposals = ProposalSettings(rollouts=8, loop=loop, refinement=refinement)
    layout = prepare_run(project, LabelingConfig(model=model, proposals=proposals))
    run_labeling(layout, lambda name, device: load_model(name, device=device))
    return project


def review(project: Project, gold: dict[str, tuple[Box, ...]], count: int) -> int:
    """Review the most doubtful items as a careful person would; returns how many were changed."""
    desk, changed = ReviewQueue(project), 0
    for _ in range(count):
        item = desk.next_item("careful person")
        if item is None:
            break
        boxes = gold[item.sample.id]
        is_good = all(any(iou(box, own) >= 0.5 for own in item.label.boxes) for box in boxes)
        if is_good:
            desk.decide("careful person", item.id, item.label.revision, "accept")
        else:
            desk.decide("careful person", item.id, item.label.revision, "edit", boxes=boxes)
            changed += 1
    return changed


def main() -> int:
    """Label, review and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labeling_quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    samples = list(load_needle(options.data).samples)
    gold = {sample.id: sample.gold_boxes for sample in samples}
    lines = [
        "# Labels without annotators, beside the truth",
        "",
        "Made by the command below from the records of its runs; nothing in it is written by hand.",
        "",
        "```",
        f"python -m hart_studio.needle --split test --count {len(samples)} --out {options.data.name}",
        f"python -m benchmarks.labeling_quality --data {options.data.name} --out {_shown(options.out)}",
        "```",
        "",
        f"{len(samples)} questions of the test preset, an image of 4096 x 3072 each; half come without their answers.",
        "K 8, temperature 1. The thresholds come from the validation preset. No gold box was read before the labels",
        "were finished; the review is done by a stand-in for a careful person, who accepts a label with IoU of at",
        "least 0.5 and draws the gold boxes otherwise. Intervals are 95 % Wilson intervals.",
    ]
    first: dict[EvidenceKind, GoldReport] = {}
    for model in (BUILT_IN_HART, BUILT_IN):
        with tempfile.TemporaryDirectory() as name:
            project = label(Path(name) / "project", samples, model, None)
            calibration = get_calibration(resolve_model_name(model), project.folder)
            first = measure_against_gold(project)
            lines += ["", f"## {model}", "", *_tables(project, first, gold, len(samples) // REVIEWED_PART)]
            if calibration:
                lines += _reliability(calibration, options.out, model)
    with tempfile.TemporaryDirectory() as name:
        tight = measure_against_gold(label(Path(name) / "tight", samples, BUILT_IN, BoxRefinementSettings()))
        lines += ["", f"## Box refinement, {BUILT_IN}", "", *_refinement(first, tight)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(options.out)
    return 0


def _tables(
    project: Project, first: dict[EvidenceKind, GoldReport], gold: dict[str, tuple[Box, ...]], count: int
) -> list[str]:
    quality = measure_quality(project)
    statuses = project.count_by("status")
    changed = review(project, gold, count)
    second = measure_against_gold(project)
    lines = [
        f"{statuses.get('auto_accepted', 0)} of {sum(statuses.values())} labels were auto-accepted.",
        "",
        "| evidence | labels | verified by crops | full image right | IoG > 0.3 | accepted: precision | recall |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, report in first.items():
        found = quality.evidence[kind]
        unseen = report.auto_accepted
        lines.append(
            f"| {kind} | {found.labels} | {_share(found.verified)} | {_share(found.full_image)} | "
            f"{_share(report.all.found)} | {_share(unseen.found) if unseen else '-'} | {_share(report.recall)} |"
        )
    lines += [
        "",
        f"Review of the {count} most doubtful labels (10 %), of which {changed} were corrected:",
        "",
        "| evidence | labels | right before, % | right after, % | mean IoU before | mean IoU after | area, % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, report in first.items():
        then = second[kind].all
        shares = f"{_share(report.all.found)} | {_share(then.found)}"
        ious = f"{report.all.iou:.3f} | {then.iou:.3f}"
        lines.append(f"| {kind} | {report.all.labels} | {shares} | {ious} | {_area(then, 1)} |")
    return lines


def _refinement(before: dict[EvidenceKind, GoldReport], after: dict[EvidenceKind, GoldReport]) -> list[str]:
    lines = ["| evidence | | right, % | mean IoU | area, % |", "| --- | --- | --- | --- | --- |"]
    for kind, report in before.items():
        for name, figures in (("as proposed", report.all), ("refined", after[kind].all)):
            lines.append(_row(kind, name, figures))
    return lines


def _row(kind: str, name: str, figures: GoldMetrics) -> str:
    return f"| {kind} | {name} | {_share(figures.found)} | {figures.iou:.3f} | {_area(figures, 2)} |"


def _area(figures: GoldMetrics, digits: int) -> str:
    return "-" if figures.area_share is None else f"{100 * figures.area_share:.{digits}f}"


def _reliability(calibration: Calibration, out: Path, model: str) -> list[str]:
    lines = ["", "Reliability of the score on the validation preset, questions that it was not fitted on:", ""]
    for kind, curve in calibration.curves.items():
        name = f"{out.stem}_{model}_{kind}.svg".replace("-", "_")
        (out.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (out.parent / name).write_text(draw_reliability(calibration, kind), "utf-8")
        threshold = "none reaches it" if curve.threshold is None else f"{curve.threshold:.3f}"
        lines += [
            f"- {kind}: Brier {curve.brier:.3f}, calibration error {curve.calibration_error:.3f}, threshold for "
            f"{calibration.target_precision:.0%} precision: {threshold}",
            "",
            f"![{kind}]({name})",
            "",
        ]
    return lines


def _share(found: Estimate | None) -> str:
    return "-" if found is None else f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _shown(path: Path) -> str:
    return f"docs/results/{path.name}" if path.is_absolute() else str(path)


if __name__ == "__main__":
    sys.exit(main())
