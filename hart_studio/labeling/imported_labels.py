"""Checks of labels that come in from a file: their boxes, and scores that only this project's calibrations may give.

A record may state any score, and that a label was accepted without review. Neither is taken over on its word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hart_studio.geometry import clip
from hart_studio.labeling.calibration import Calibration, Rating, load_calibration
from hart_studio.labeling.calibration_domain import LabelOrigin, find_answer_form
from hart_studio.labeling.known_calibrations import CALIBRATION, find_calibration
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Item, Label, PictureFile
from hart_studio.labeling.review import MOST_BOXES
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.records import Box

_TOLERANCE: Final = 1e-6  # of scores that were computed on another machine


def check_boxes(boxes: Sequence[Box], picture: PictureFile) -> tuple[Box, ...]:
    """Clip the boxes of a label to its image.

    Args:
        boxes: In original pixels.
        picture: The image.

    Raises:
        ValueError: If they are too many to be reviewed, or one lies outside of the image.
    """
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"expected at most {MOST_BOXES} boxes in a label, got {len(boxes):,}")
    found = []
    for box in boxes:
        clipped = clip(box, (picture.width, picture.height))
        if clipped is None:
            raise ValueError(
                f"a box lies outside of the picture of {picture.width} x {picture.height} pixels: "
                f"[{', '.join(f'{edge:g}' for edge in box.xyxy)}]"
            )
        found.append(clipped)
    return tuple(found)


class ScoreChecker:
    """Recomputes the scores of imported labels with the calibrations of a project.

    Attributes:
        dropped: Items that lost a score, or the status ``auto_accepted``.
    """

    def __init__(self, project: Project) -> None:
        self.dropped = 0
        self._project = project
        self._calibrations: dict[str, Calibration | None] = {}

    def check_item(self, item: Item) -> Item:
        """Take scores from the project's calibrations in place of those of a record.

        A score that no calibration supports is dropped. A label that is not accepted without review here becomes
        ``proposed``. What people decided stays.

        Args:
            item: With the image domain that was read from the file.

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
        calibration = self._find(label.maker.model) if label.maker else None
        rating = _rate(calibration, label, item)
        score = rating.score
        if score is not None and label.score is not None and abs(score - label.score) <= _TOLERANCE:
            score = label.score
        is_accepted = calibration is not None and calibration.accepts(label.check, score)
        return label.model_copy(
            update={
                "score": score,
                "uncalibrated": rating.uncalibrated,
                "status": "proposed" if label.status == "auto_accepted" and not is_accepted else label.status,
            }
        )

    def _find(self, model: str) -> Calibration | None:
        """The calibration of a model: the project's own, or that of a built-in model.

        The record names the model. Its folder is never looked at: an upload could have put a calibration there.
        """
        if model not in self._calibrations:
            names = {Path(folder).name: folder for folder in BUILT_IN_FOLDERS.values()} | BUILT_IN_FOLDERS
            folder = names.get(model) or names.get(Path(model).name)
            known = find_calibration(folder, self._project.folder) if folder else None
            self._calibrations[model] = known or self._find_own(model)
        return self._calibrations[model]

    def _find_own(self, model: str) -> Calibration | None:
        path = self._project.folder / CALIBRATION
        own = load_calibration(path) if path.is_file() else None
        return own if own and own.model in (model, Path(model).name) else None


def _rate(calibration: Calibration | None, label: Label, item: Item) -> Rating:
    has_rollouts = label.check is not None and label.check.rollouts > 0
    if calibration is None or label.maker is None:
        return Rating(None, "model" if has_rollouts else None)
    maker, sample = label.maker, item.sample
    origin = LabelOrigin(
        item.picture.domain,
        sample.source,
        find_answer_form(sample),
        maker.rollouts,
        maker.temperature,
        maker.is_tightened,
        is_given=label.origin == "imported" and bool(label.boxes),
    )
    return calibration.rate(label.check, bool(label.boxes), origin)
