"""What comes out of a labeling project on the Label page: figures of its quality, and exports as archives."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from hart_studio.errors import DataError, HartError, InputError
from hart_studio.evaluation.line_chart import LIST_TEXT_CHARS, shorten
from hart_studio.labeling.calibration import Calibration
from hart_studio.labeling.calibration_lookup import get_calibration
from hart_studio.labeling.export_loss import preview_export
from hart_studio.labeling.exporting import ExportOptions, export_project
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.gold_metrics import measure_against_gold
from hart_studio.labeling.label_diff import compare_runs
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_locks import EXPORTS, check_links
from hart_studio.labeling.quality import measure_quality
from hart_studio.labeling.records import MAX_CLASS_CHARS, USABLE_STATUSES, Status
from hart_studio.labeling.report import KIND_TITLES, draw_calibration, draw_figures, format_estimate, write_report
from hart_studio.labeling.training_set import write_training_set
from hart_studio.models.catalog import BUILT_IN_HART, resolve_model_name
from hart_studio.records import Record
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from hart_studio.ui.api.labels import LabelApi, read_request


class ExportRequest(Record):
    """What a person wants exported."""

    project: str = Field(max_length=80)
    """The project."""
    format: str = Field(max_length=40)
    """Key of ``FORMATS``."""
    statuses: tuple[Status, ...] = USABLE_STATUSES
    """Labels of these."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Of labels that no one has decided on."""
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    box_class: str = Field(default="", max_length=MAX_CLASS_CHARS)
    """The one class of all boxes; empty = each box's own label."""
    is_referring: bool = False
    """Whether images stay where they are, in formats that can name them there."""


_NUMBERED: Final = re.compile(r"(\d{1,9})-")

MAX_SHOWN_CHANGES: Final = 200
MAX_HELD_OUT: Final = 200
"""Questions of a training set that are held out for its evaluation, at most, and at most one of ``HELD_OUT_PART``."""
HELD_OUT_PART: Final = 5


class LabelExportApi:
    """Answers the panels for quality and export.

    Attributes:
        label_api: Knows the projects.
        served: Folder that the server serves; names of files start from it.
        folder: Folder in it for figures and archives.
        shows_paths: Whether the page is told where on this machine things lie.
    """

    def __init__(
        self, label_api: LabelApi, served: Path, folder: Path | None = None, *, shows_paths: bool = True
    ) -> None:
        self.label_api = label_api
        self.served = served
        self.folder = folder or served / "labels"
        self.shows_paths = shows_paths

    def quality(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of the labels: texts, drawings as SVG documents, and the name of the report's file."""
        project = self.label_api.open_project(request.get("project"))
        quality, gold = measure_quality(project), measure_against_gold(project)
        calibration = self._find_calibration(project)
        drawn, missing = draw_calibration(calibration, quality) if calibration else ({}, "")
        folder = self.folder / project.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        write_report(project, folder / "quality.html", calibration)
        return {
            "statuses": quality.statuses,
            "evidence": [
                {
                    "kind": KIND_TITLES[kind],
                    "labels": found.labels,
                    "uncalibrated": found.uncalibrated,
                    "verified": format_estimate(found.verified),
                    "full_image": format_estimate(found.full_image),
                    "lift": f"{100 * found.lift:+.1f} points",
                    "needed": format_estimate(found.needed),
                }
                for kind, found in quality.evidence.items()
            ],
            "audit": format_estimate(quality.audit),
            "audited": quality.audited,
            "reviewers": [reviewer._asdict() for reviewer in quality.reviewers],
            "agreement": quality.agreement._asdict(),
            "gold": [
                {
                    "kind": KIND_TITLES[kind],
                    "found": format_estimate(report.all.found),
                    "iou": f"{report.all.iou:.3f}",
                    "precision": format_estimate(report.auto_accepted.found) if report.auto_accepted else "–",
                    "recall": format_estimate(report.recall),
                }
                for kind, report in gold.items()
            ],
            "figures": draw_figures(quality) | drawn,
            "missing": missing,
            "report": self._name(folder / "quality.html"),
        }

    def describe_export_loss(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What an export would drop, how many labels it would hold, and how many it would leave out and why."""
        wanted = self._read_export(request)
        project = self.label_api.open_project(wanted.project)
        options = _export_options(wanted, project)
        found = preview_export(project, wanted.format, options)
        return {
            "items": found.items,
            "losses": [loss.text for loss in found.losses],
            "excluded": dict(found.excluded),
        }

    def change_classes(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Set the classes of boxes in exports.

        Args:
            request: ``project``, and ``classes``, names with commas between them, the default one first.

        Returns:
            The classes as they are kept.

        Raises:
            InputError: If there is none, or one is no name.
        """
        self.label_api.check_open()
        project = self.label_api.open_project(request.get("project"))
        names = [each.strip() for each in str(request.get("classes") or "").split(",") if each.strip()]
        try:
            project.change_classes(names)
        except ValidationError as error:
            raise InputError(
                f"A project needs at least one class, and each at most {MAX_CLASS_CHARS} printable characters. Write "
                "the names with commas between them, the default one first."
            ) from error
        return {"classes": list(project.settings.classes)}

    def export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write an export into the project and offer it as a zip."""
        self.label_api.check_open()
        wanted = self._read_export(request)
        project = self.label_api.open_project(wanted.project)
        options = _export_options(wanted, project)
        check_links(project)
        folder = make_export_folder(project.folder / EXPORTS, wanted.format)
        try:
            report = export_project(project, wanted.format, folder, options)
        except BaseException:
            with suppress(OSError):  # nothing was written into it
                folder.rmdir()
            raise
        target = self.folder / project.folder.name / folder.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.make_archive(str(target), "zip", folder)
        return {
            "archive": f"{self._name(target)}.zip",
            "folder": str(folder) if self.shows_paths else "",
            "items": report.items,
            "boxes": report.boxes,
            "images": report.images,
            "excluded": report.excluded,
            "losses": [loss.text for loss in report.losses],
            "notes": list(report.notes),
        }

    def diff_labels(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a later run of the project made of the same items: fixed, broken, moved.

        Args:
            request: ``project``, and the ids of the runs ``before`` and ``after``.
        """
        project = self.label_api.open_project(request.get("project"))
        found = compare_runs(project, str(request.get("before")), str(request.get("after")))
        moved = [change for change in found.changes if change.change != "same"]
        return {
            "counts": [{"kind": KIND_TITLES[kind], **counts} for kind, counts in found.counts.items()],
            "changes": [
                {
                    "id": change.item_id,
                    "question": shorten(project.item(change.item_id).sample.question, LIST_TEXT_CHARS),
                    "change": change.change,
                    "iou": change.iou,
                }
                for change in moved[:MAX_SHOWN_CHANGES]
            ],
        }

    def training_config(self, request: Mapping[str, Any]) -> RunConfig:
        """Settings of a training run on a project's good labels, which are written to a file for it.

        Reinforcement learning gets half of their questions, SFT the boxes and answers of the others.

        Raises:
            InputError: If there is no project, or nothing in it to train on.
        """
        self.label_api.check_open()
        found = write_training_set(self.label_api.open_project(request.get("project")))
        held_out = min(MAX_HELD_OUT, found.questions // HELD_OUT_PART)
        base = get_preset(DEFAULT_PRESET).config
        data = {
            "source": "jsonl",
            "path": str(found.path),
            "image_root": str(found.image_root),
            "rl_samples": (found.questions - held_out + 1) // 2,
            "sft_samples": None,
            "eval_samples": held_out,
        }
        method = {"chain": "ap_grpo+sft", "sft_target": "grounded"}
        return RunConfig.model_validate(
            {
                **base.model_dump(),
                "name": "Labeled questions",
                "data": {**base.data.model_dump(), **data},
                "method": {**base.method.model_dump(), **method},
            }
        )

    @property
    def formats(self) -> list[tuple[str, str]]:
        """(title, name) of the formats that can be written."""
        return [(info.title, name) for name, info in FORMATS.items() if info.save]

    def _read_export(self, request: Mapping[str, Any]) -> ExportRequest:
        wanted: ExportRequest = read_request(ExportRequest, request)
        if wanted.is_referring and not self.shows_paths:  # the export would name folders of this machine
            raise InputError("expected an export with its images, got one that leaves them here; take them along")
        if not math.isclose(sum(wanted.splits), 1, abs_tol=1e-6):
            percent = ", ".join(f"{100 * share:g}" for share in wanted.splits)
            raise InputError(f"expected shares of train, val and test that add up to 100 %, got {percent}; change them")
        return wanted

    def _name(self, path: Path) -> str:
        return path.relative_to(self.served).as_posix()

    def _find_calibration(self, project: Project) -> Calibration | None:
        model = BUILT_IN_HART
        with suppress(HartError):
            _, model = self.label_api.find_model(project)
        with suppress(DataError):
            return get_calibration(resolve_model_name(model), project.folder)
        return None


def make_export_folder(exports: Path, format_name: str) -> Path:
    """Make an empty folder for the next export, numbered after the highest number that is there.

    Another process that takes the same number first makes this one take the next.
    """
    exports.mkdir(exist_ok=True)
    numbers = [int(found[1]) for path in exports.iterdir() if (found := _NUMBERED.match(path.name))]
    number = max(numbers, default=0)
    while True:
        number += 1
        folder = exports / f"{number:03d}-{format_name}"
        if any(exports.glob(f"{number:03d}-*")):
            continue
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _export_options(wanted: ExportRequest, project: Project) -> ExportOptions:
    return ExportOptions(
        statuses=wanted.statuses,
        min_score=wanted.min_score,
        splits=dict(zip(("train", "val", "test"), wanted.splits, strict=True)),
        images="reference" if wanted.is_referring else "copy",
        classes=project.settings.classes,
        box_class=wanted.box_class.strip(),
    )
