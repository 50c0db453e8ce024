"""JSON API of the Evaluate tab for results: tables, figures, failures, report."""

from __future__ import annotations

import hashlib
import shutil
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from hart_studio.errors import HartError, ImageError, InputError
from hart_studio.evaluation.charts import to_svg
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.failures import Verdict, count_verdicts, filter_records, get_verdict, sort_records
from hart_studio.evaluation.figures import make_figures
from hart_studio.evaluation.job import DATASET_INFO_FILE
from hart_studio.evaluation.records import AnswerResult, SampleResult
from hart_studio.evaluation.report import describe_gaps, write_report
from hart_studio.evaluation.results import load_evaluation
from hart_studio.evaluation.shards import RECORDS_FOLDER
from hart_studio.evaluation.tables.collection import make_tables
from hart_studio.evaluation.tables.table import Table
from hart_studio.evaluation.tables.writers import show_cell
from hart_studio.files import copy_regular_file, from_stored_path
from hart_studio.formatting import LIST_TEXT_CHARS, shorten
from hart_studio.imaging import SourceImage
from hart_studio.records import Box, Protocol, Score
from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.changes import StampedCache, file_stamp
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import Request
from hart_studio.ui.cache import renew
from hart_studio.ui.security.config_check import find_offered_model
from hart_studio.ui.security.path_redaction import redact_absolute_paths
from hart_studio.ui.trace_view import PROTOCOL_TITLES

MAX_COMPARED: Final = 6
"""Evaluations in one set of tables."""

LIST_ROWS: Final = 50
"""Questions in one page of the list."""

MAX_KEPT: Final = 8
"""Maximum number of cached evaluations and of cached sets of tables."""

MAX_CATEGORIES: Final = 300


class SelectedRunsRequest(Request, extra="forbid"):
    """Selected evaluations."""

    runs: tuple[str, ...] = Field(min_length=1, max_length=MAX_COMPARED)
    """Ids in the order of the tables."""


class FailuresRequest(Request, extra="forbid"):
    """Request for a page of failures."""

    run: str = Field(max_length=200)
    """The evaluation."""
    protocol: Protocol
    """Protocol of the answers."""
    verdict: Verdict | None = None
    """Verdict; None = any."""
    category: str = Field(default="", max_length=300)
    """Category, or the first levels of one."""
    text: str = Field(default="", max_length=200)
    """Search text."""
    offset: int = Field(default=0, ge=0)
    """Number of questions before this page."""


class FailureRequest(Request, extra="forbid"):
    """Request for one question."""

    run: str = Field(max_length=200)
    """The evaluation."""
    sample: str = Field(max_length=1000)
    """The question's id."""


@dataclass(frozen=True)
class AskPrefill:
    """Values of the Ask tab for a question of an evaluation."""

    image: Path
    """Served copy of the original."""
    question: str
    choices: str
    """One per line."""
    answer: str
    """A letter, a text, or empty if unknown."""
    model: str | None
    """None for served models and for models that may not be shown or loaded here."""


class EvaluationResultsApi:
    """Handles the result panels of the Evaluate tab.

    Attributes:
        api: Finds evaluations.
        service: Opens images.
    """

    def __init__(self, api: EvaluationApi, service: AskService) -> None:
        self.api = api
        self.service = service
        self._loaded: StampedCache[Evaluation] = StampedCache(MAX_KEPT)
        self._shown: StampedCache[dict[str, Any]] = StampedCache(MAX_KEPT)
        self._reports: StampedCache[Path] = StampedCache(MAX_KEPT)
        self._reporting = threading.Lock()

    def tables(self, request: SelectedRunsRequest) -> dict[str, Any]:
        """Tables as text and figures as SVG of one to six evaluations.

        Returns:
            ``tables``, ``figures``; ``notes``, why an evaluation is missing; ``answered``, run -> (answered questions,
            all questions); ``gaps``, what the metrics do not cover.
        """
        evaluations, notes = self._choose(request)
        shown = self._shown.get(
            tuple(each.run_id for each in evaluations),
            lambda: [(len(each.records), each.total) for each in evaluations],
            lambda: {
                "tables": [_show_table(table) for table in make_tables(evaluations)],
                "figures": [
                    {"name": figure.name, "caption": figure.caption, "svg": to_svg(figure.chart)}
                    for figure in make_figures(evaluations)
                ],
            },
        )
        answered = {each.run_id: (len(each.records), each.total) for each in evaluations}
        gaps = [sentence for each in evaluations for sentence in describe_gaps(each)]
        return {**shown, "notes": notes, "answered": answered, "gaps": gaps}

    def failures(self, request: FailuresRequest) -> dict[str, Any]:
        """A page of the questions of an evaluation, worst first.

        Returns:
            ``verdicts`` with counts, ``categories``, ``count`` of matching questions, and ``rows``.
        """
        evaluation = self._load(self.api.find(request.run))
        if request.protocol not in evaluation.protocols:
            raise InputError(f"expected one of {', '.join(evaluation.protocols)}, got {request.protocol}; choose one")
        verdicts = (request.verdict,) if request.verdict else ()
        found = filter_records(
            evaluation.records, request.protocol, verdicts=verdicts, category=request.category, text=request.text
        )
        page = sort_records(found, request.protocol)[request.offset : request.offset + LIST_ROWS]
        return {
            "verdicts": count_verdicts(evaluation.records, request.protocol),
            "categories": _list_categories(evaluation.records),
            "count": len(found),
            "rows": [_show_row(record, request.protocol) for record in page],
        }

    def failure(self, request: FailureRequest) -> dict[str, Any]:
        """One question: image, predicted and gold boxes, and the answer of each protocol.

        The image path comes from the record, never from the request.
        """
        evaluation, record = self._find(request)
        scores = [answer_result.score for answer_result in record.answers.values()]
        return {
            "id": record.sample_id,
            "category": record.category,
            "question": record.question,
            "choices": list(record.choices),
            "answer": _expected(record),
            "error": record.error,
            "has_grounding_turn": record.has_grounding_turn,
            "boxes": [_show_box(box) for box in record.boxes],
            "gold": [_show_box(box) for box in record.gold_boxes],
            "matches": [match.model_dump() for match in record.gold_matches],
            "area_share": record.area_share,
            "answers": [
                _show_answer(record, protocol, answer_result)
                for protocol, answer_result in _in_order(evaluation, record.answers)
            ],
            "is_scored": any(score.value is not None for score in scores),
            **self._show_image(record),
        }

    def report(self, request: SelectedRunsRequest) -> dict[str, Any]:
        """Write the report of one to six evaluations to the served folder; an unchanged report is reused.

        Returns:
            ``archive`` and ``page``: names of the zip and of the HTML file; ``notes`` as for ``tables``.
        """
        evaluations, notes = self._choose(request)
        if not evaluations:
            raise InputError("; ".join(notes))
        key = tuple(each.run_id for each in evaluations)
        stamp = [_stamp(self.api.find(run_id)) for run_id in key]
        with self._reporting:  # one at a time: takes seconds of CPU
            known = self._reports.newest(key)
            page = known[1] if known and known[0] == stamp else None
            if page is None or not (page.exists() and _archive_of(page).exists()):  # may be evicted from the cache
                folder = self.service.folder / "evaluations" / uuid.uuid4().hex / "report"
                folder.mkdir(parents=True)
                page = write_report(evaluations, folder)
                shutil.make_archive(str(_archive_of(page).with_suffix("")), "zip", folder)
                self._reports.keep(key, stamp, page)
            for path in (page, _archive_of(page)):
                renew(path)
        names = {"archive": _archive_of(page), "page": page}
        found = {name: path.relative_to(self.service.folder).as_posix() for name, path in names.items()}
        return {**found, "notes": notes}

    def prefill_ask(self, request: FailureRequest) -> AskPrefill:
        """Values of the Ask tab for a question.

        Raises:
            InputError: If there is no such question.
            ImageError: If its image cannot be read.
        """
        _, record = self._find(request)
        # Do not use the cached config: check the current file.
        model = find_offered_model(self.api.find(request.run), self.service.allowed, self.api.launch.runs_root)
        source = from_stored_path(record.image)
        with SourceImage(record.image) as image:  # copy only valid images to the served folder
            name = image.name
        key = hashlib.sha256(f"{source}\n{source.stat().st_mtime_ns}".encode()).hexdigest()[:20]
        copy = self.service.folder / "asked" / key / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            draft = copy.with_name(f"{threading.get_ident()}.draft")
            copy_regular_file(source, draft)
            draft.replace(copy)
        return AskPrefill(
            image=copy,
            question=record.question,
            choices="\n".join(" ".join(choice.split()) for choice in record.choices),
            answer=_expected(record) or "",
            model=model if model is not None and self.api.display_name(model) == model else None,
        )

    def _choose(self, request: SelectedRunsRequest) -> tuple[list[Evaluation], list[str]]:
        """Evaluations with results, and notes on those without."""
        found, notes = [], []
        for layout in [self.api.find(run_id) for run_id in dict.fromkeys(request.runs)]:
            try:
                if not (layout.folder / DATASET_INFO_FILE).exists():
                    notes.append(f"{self.api.config(layout).shown_title} has not loaded its questions yet")
                    continue
                evaluation = self._load(layout)
            except HartError as error:
                notes.append(str(error))
                continue
            if evaluation.records:
                found.append(evaluation)
            else:
                notes.append(f"{evaluation.title} on {evaluation.benchmark} has no results yet")
        return found, notes

    def _load(self, layout: RunLayout) -> Evaluation:
        """Load an evaluation, cached while its files are unchanged."""

        def load() -> Evaluation:
            evaluation = load_evaluation(layout)
            if self.api.is_open:
                return evaluation
            # Paths in the report file are not redacted by the handler.
            title, model = redact_absolute_paths([evaluation.title, evaluation.model])
            records = tuple(
                each.model_copy(update={"error": redact_absolute_paths(each.error)}) for each in evaluation.records
            )
            return replace(evaluation, title=title, model=model, records=records)

        return self._loaded.get(layout.run_id, lambda: _stamp(layout), load)

    def _find(self, request: FailureRequest) -> tuple[Evaluation, SampleResult]:
        evaluation = self._load(self.api.find(request.run))
        for record in evaluation.records:
            if record.sample_id == request.sample:
                return evaluation, record
        raise InputError(f"Question {request.sample[:60]!r} is not in this evaluation. Choose another one.")

    def _show_image(self, record: SampleResult) -> dict[str, Any]:
        try:
            scene = self.service.open_image(Path(record.image))
        except ImageError as error:
            return {"image": None, "problem": str(error)}
        copies = {"preview": scene.preview, "detail": scene.detail}
        shown = {
            name: {"path": copy.path.relative_to(self.service.folder).as_posix(), "width": copy.width}
            for name, copy in copies.items()
        }
        return {"image": {"name": scene.name, "width": scene.width, "height": scene.height, **shown}, "problem": ""}


def _stamp(layout: RunLayout) -> list[object]:
    """Stamps of the record files; changes with new results."""
    parts = sorted((layout.folder / RECORDS_FOLDER).glob("shard_*.jsonl"))
    return [(path.name, file_stamp(path)) for path in parts]


def _archive_of(page: Path) -> Path:
    """The zip of a report, beside its folder."""
    return page.parent.parent / "evaluation-report.zip"


def _show_table(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "columns": list(table.columns),
        "rows": [{"kind": row.kind, "cells": [show_cell(cell) for cell in row.cells]} for row in table.rows],
    }


def _show_row(record: SampleResult, protocol: Protocol) -> dict[str, Any]:
    answer_result = record.answers.get(protocol)
    return {
        "id": record.sample_id,
        "question": shorten(record.question, LIST_TEXT_CHARS),
        "category": record.category,
        "verdict": get_verdict(record, protocol),
        "extracted": answer_result.score.extracted if answer_result else None,
        "answer": _expected(record),
    }


def _show_answer(record: SampleResult, protocol: Protocol, answer_result: AnswerResult) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "title": PROTOCOL_TITLES[protocol],
        "verdict": get_verdict(record, protocol),
        "text": answer_result.text,
        "score": _show_score(answer_result.score),
        "official": answer_result.official and _show_score(answer_result.official),
        "outcome": answer_result.outcome,
        "used_fallback": answer_result.used_fallback,
        "visual_tokens": answer_result.visual_tokens,
        "completion_tokens": answer_result.completion_tokens,
        "seconds": answer_result.seconds,
    }


def _show_score(score: Score) -> dict[str, Any]:
    return score.model_dump(include={"value", "extracted", "rule"})


def _show_box(box: Box) -> dict[str, Any]:
    return box.model_dump(exclude={"score"})


def _expected(record: SampleResult) -> str | None:
    """The known answer, or None."""
    return next(
        (answer_result.score.expected for answer_result in record.answers.values() if answer_result.score.expected),
        None,
    )


def _in_order(evaluation: Evaluation, answers: Mapping[Protocol, AnswerResult]) -> list[tuple[Protocol, AnswerResult]]:
    return [(protocol, answers[protocol]) for protocol in evaluation.protocols if protocol in answers]


def _list_categories(records: Sequence[SampleResult]) -> list[str]:
    """All categories and their parents, sorted: ``Perception`` before ``Perception/Attributes``."""
    found = set()
    for category in {record.category for record in records}:
        levels = category.split("/") if category else []
        found |= {"/".join(levels[: depth + 1]) for depth in range(len(levels))}
    return sorted(found)[:MAX_CATEGORIES]
