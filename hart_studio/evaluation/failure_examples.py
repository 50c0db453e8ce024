"""Select the questions drawn in a report, with the answer of each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image

from hart_studio.errors import ImageError
from hart_studio.evaluation.charts import SERIES_STYLES
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.failures import VERDICTS, sort_records
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.sample_drawing import ModelAnswer
from hart_studio.evaluation.tables.rows import label_of
from hart_studio.imaging import ImageOpener
from hart_studio.records import PROTOCOLS, Protocol

_FINE: Final = ("right answer", "right answer, right box")
"""Verdicts that are no failures."""

_NO_IMAGE: Final = "The image can no longer be read."


def default_protocol(evaluation: Evaluation) -> Protocol:
    """Protocol of the failures: crops_only if it was asked."""
    return next(protocol for protocol in PROTOCOLS if protocol in evaluation.protocols)


def select_failures(evaluations: Sequence[Evaluation], most: int) -> list[list[ModelAnswer]]:
    """Select the worst failures of evaluations of one benchmark, with the answers of all of them.

    Args:
        evaluations: Evaluations of one benchmark. At most six are shown, because more colors are hard to distinguish.
        most: Number of questions.

    Returns:
        Questions, worst first. The models alternate, so that one with many failures does not fill the list.
    """
    included = [evaluation for evaluation in evaluations if evaluation.protocols][: len(SERIES_STYLES)]
    by_id = [{record.sample_id: record for record in evaluation.records} for evaluation in included]
    queues = [
        [record.sample_id for record in sort_records(found.records, default_protocol(found))] for found in included
    ]
    chosen: dict[str, list[ModelAnswer]] = {}
    for place in range(max((len(queue) for queue in queues), default=0)):
        for queue, evaluation, records in zip(queues, included, by_id, strict=True):
            if place >= len(queue) or len(chosen) >= most or queue[place] in chosen:
                continue
            if _show(evaluation, included, records[queue[place]]).verdict in _FINE:
                continue
            chosen[queue[place]] = [
                _show(other, included, found[queue[place]])
                for other, found in zip(included, by_id, strict=True)
                if queue[place] in found
            ]
    return sorted(chosen.values(), key=lambda shown: min(VERDICTS.index(each.verdict) for each in shown))


def select_contrast(failures: Sequence[list[ModelAnswer]]) -> list[ModelAnswer] | None:
    """Question for Fig. 4: the one with the greatest difference between models; None without failures."""
    return max(failures, key=lambda shown: len({each.verdict for each in shown}), default=None)


def open_report_image(path: str, max_side: int, opener: ImageOpener) -> tuple[Image.Image | None, str]:
    """Open the upright image, downscaled, or return why that fails.

    Args:
        path: Path of the image; not part of the report.
        max_side: Maximum width and height, pixels.
        opener: Opens it.
    """
    if not path:
        return None, _NO_IMAGE
    try:
        source = opener(path)
        try:
            return source.overview(max_side=max_side), ""
        finally:
            source.close()
    except (ImageError, MemoryError):
        return None, _NO_IMAGE


def _show(evaluation: Evaluation, among: Sequence[Evaluation], record: SampleResult) -> ModelAnswer:
    return ModelAnswer(label_of(evaluation, among), default_protocol(evaluation), record)
