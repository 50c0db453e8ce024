"""Validate imported labels: clip their boxes, and recompute scores with the calibrations of the project.

A record may state any score and an auto-accepted status. Both are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hart_studio.geometry import clip
from hart_studio.labeling.calibration import Calibration, LabelScore, load_calibration
from hart_studio.labeling.calibration_domain import LabelOrigin, get_answer_form
from hart_studio.labeling.calibration_lookup import CALIBRATION, get_calibration
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ImageFile, Item, Label
from hart_studio.labeling.review import MAX_BOXES
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.records import Box

_TOLERANCE: Final = 1e-6  # differences of scores between machines


def clip_imported_boxes(boxes: Sequence[Box], image: ImageFile) -> tuple[Box, ...]:
    """Clip the boxes of a label to its image.

    Args:
        boxes: Boxes in original pixels.
        image: The image.

    Raises:
        ValueError: If there are too many boxes, or one is outside of the image.
    """
    if len(boxes) > MAX_BOXES:
        raise ValueError(f"label has {len(boxes):,} boxes; the limit is {MAX_BOXES}")
    found = []
    for box in boxes:
        clipped = clip(box, (image.width, image.height))
        if clipped is None:
            raise ValueError(
                f"box is outside of the image of {image.width} x {image.height} pixels: "
                f"[{', '.join(f'{edge:g}' for edge in box.xyxy)}]"
            )
        found.append(clipped)
    return tuple(found)


class ScoreChecker:
    """Recomputes scores of imported labels with the calibrations of a project.

    Attributes:
        dropped: Number of items that lost a score or the status ``auto_accepted``.
    """

    def __init__(self, project: Project) -> None:
        self.dropped = 0
        self._project = project
        self._calibrations: dict[str, Calibration | None] = {}

    def check_item(self, item: Item) -> Item:
        """Replace the scores of an item by those of the project's calibrations.

        A score that no calibration supports is dropped. A label that would not be auto-accepted here becomes
        ``proposed``. Decisions of reviewers are kept.

        Args:
            item: Item with the image domain read from the file.

        Raises:
            DataError: If a calibration cannot be read.
        """
        labels = [self._check(label, item) for label in (*item.history, item.label)]
        lost = [
            new.status != old.status or (new.score is None and old.score is not None)
            for new, old in zip(labels, (*item.history, item.label), strict=True)
        ]
        self.dropped += any(lost)
        return item.model_copy(update={"label": labels[-1], "history": tuple(labels[:-1])})

    def _check(self, label: Label, item: Item) -> Label:
        if label.score is None and label.status != "auto_accepted":
            return label
        calibration = self._find(label.provenance.model) if label.provenance else None
        label_score = _score(calibration, label, item)
        score = label_score.score
        if score is not None and label.score is not None and abs(score - label.score) <= _TOLERANCE:
            score = label.score
        is_accepted = calibration is not None and calibration.auto_accepts(label.check, score)
        return label.model_copy(
            update={
                "score": score,
                "uncalibrated": label_score.uncalibrated,
                "status": "proposed" if label.status == "auto_accepted" and not is_accepted else label.status,
            }
        )

    def _find(self, model: str) -> Calibration | None:
        """Return the calibration of a model: the project's own, or that of a built-in model.

        The model name comes from the record, so its folder is not read: an upload could have placed a calibration
        there.
        """
        if model not in self._calibrations:
            names = {Path(folder).name: folder for folder in BUILT_IN_FOLDERS.values()} | BUILT_IN_FOLDERS
            folder = names.get(model) or names.get(Path(model).name)
            known = get_calibration(folder, self._project.folder) if folder else None
            self._calibrations[model] = known or self._get_own(model)
        return self._calibrations[model]

    def _get_own(self, model: str) -> Calibration | None:
        path = self._project.folder / CALIBRATION
        own = load_calibration(path) if path.is_file() else None
        return own if own and own.model in (model, Path(model).name) else None


def _score(calibration: Calibration | None, label: Label, item: Item) -> LabelScore:
    has_rollouts = label.check is not None and label.check.rollouts > 0
    if calibration is None or label.provenance is None:
        return LabelScore(None, "model" if has_rollouts else None)
    provenance, sample = label.provenance, item.sample
    origin = LabelOrigin(
        item.image.domain,
        sample.source,
        get_answer_form(sample),
        provenance.rollouts,
        provenance.temperature,
        provenance.is_refined,
        is_given=label.origin == "imported" and bool(label.boxes),
    )
    return calibration.score_label(label.check, bool(label.boxes), origin)
