"""JSON API of the Label tab for quality reports and exports."""

from __future__ import annotations

import math
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from hart_studio.errors import DataError, HartError, InputError
from hart_studio.formatting import LIST_TEXT_CHARS, shorten
from hart_studio.labeling.calibration import Calibration
from hart_studio.labeling.calibration_lookup import get_calibration
from hart_studio.labeling.export_loss import preview_export
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_project, write_training_set
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_locks import EXPORTS, check_links
from hart_studio.labeling.quality import measure_against_gold, measure_quality
from hart_studio.labeling.records import MAX_CLASS_CHARS
from hart_studio.labeling.report import KIND_TITLES, draw_calibration, draw_figures, format_estimate, write_report
from hart_studio.labeling.run_results import compare_runs
from hart_studio.models.catalog import BUILT_IN_HART, resolve_model_name
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from hart_studio.ui.api.label_requests import ClassesRequest, DiffRequest, ExportRequest, ProjectRequest
from hart_studio.ui.api.labels import LabelApi, split_classes

_NUMBERED: Final = re.compile(r"(\d{1,9})-")

MAX_SHOWN_CHANGES: Final = 200
MAX_HELD_OUT: Final = 200
"""Maximum number of held-out questions of a training set; also at most one in ``HELD_OUT_PART``."""
HELD_OUT_PART: Final = 5


class LabelExportApi:
    """Handles the panels for quality and export.

    Attributes:
        label_api: Opens projects.
        served: Served folder; file names are relative to it.
        folder: Subfolder for figures and archives.
        shows_paths: Whether responses contain paths of this machine.
    """

    def __init__(
        self, label_api: LabelApi, served: Path, folder: Path | None = None, *, shows_paths: bool = True
    ) -> None:
        self.label_api = label_api
        self.served = served
        self.folder = folder or served / "labels"
        self.shows_paths = shows_paths

    def quality(self, request: ProjectRequest) -> dict[str, Any]:
        """Quality metrics of the labels, figures as SVG, and the file name of the report."""
        project = self.label_api.open_project(request.project)
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
                    "accuracy_gain": f"{100 * found.accuracy_gain:+.1f} points",
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

    def describe_export_loss(self, request: ExportRequest) -> dict[str, Any]:
        """Number of labels of an export, what its format cannot store, and excluded labels by reason."""
        self._check_export(request)
        project = self.label_api.open_project(request.project)
        found = preview_export(project, request.format, _export_options(request, project))
        return {
            "items": found.items,
            "losses": [loss.text for loss in found.losses],
            "excluded": dict(found.excluded),
        }

    def change_classes(self, request: ClassesRequest) -> dict[str, Any]:
        """Set the classes of boxes in exports.

        Returns:
            The saved classes.

        Raises:
            InputError: If there is none, or a name is invalid.
        """
        self.label_api.check_open()
        project = self.label_api.open_project(request.project)
        try:
            project.change_classes(split_classes(request.classes))
        except ValidationError as error:
            raise InputError(
                f"Invalid classes. Enter at least one, separated by commas, each with at most {MAX_CLASS_CHARS} "
                "printable characters."
            ) from error
        return {"classes": list(project.settings.classes)}

    def export(self, request: ExportRequest) -> dict[str, Any]:
        """Write an export into the project folder, and a zip for download."""
        self.label_api.check_open()
        self._check_export(request)
        project = self.label_api.open_project(request.project)
        check_links(project)
        folder = make_export_folder(project.folder / EXPORTS, request.format)
        try:
            report = export_project(project, request.format, folder, _export_options(request, project))
        except BaseException:
            with suppress(OSError):  # remove the empty folder
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

    def diff_labels(self, request: DiffRequest) -> dict[str, Any]:
        """Compare the labels of two runs of a project: fixed, broken, moved."""
        project = self.label_api.open_project(request.project)
        found = compare_runs(project, request.before, request.after)
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

    def training_config(self, request: ProjectRequest) -> RunConfig:
        """Settings of a training run on the accepted labels of a project; writes the training set.

        RL gets half of the questions, SFT the boxes and answers of the other half.

        Raises:
            InputError: If the project does not exist or has no training data.
        """
        self.label_api.check_open()
        found = write_training_set(self.label_api.open_project(request.project))
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
        method = {"stages": "ap_grpo+sft", "sft_target": "grounded"}
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
        """(title, name) of the export formats."""
        return [(info.title, name) for name, info in FORMATS.items() if info.save]

    def _check_export(self, wanted: ExportRequest) -> None:
        if wanted.is_referring and not self.shows_paths:  # the export would contain paths of this machine
            raise InputError("This server only exports copies of images. Turn off Reference images (do not copy).")
        if not math.isclose(sum(wanted.splits), 1, abs_tol=1e-6):
            percent = ", ".join(f"{100 * share:g}" for share in wanted.splits)
            raise InputError(f"The split must add up to 100 %, got {percent}. Change train, val or test.")

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
    """Create an empty folder for an export with the next free number.

    If another process takes the number first, the next one is used.
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
        exif=wanted.exif,
        classes=project.settings.classes,
        box_class=wanted.box_class.strip(),
    )
