"""The review screen for one visitor of a Space: no image stays in memory, and few boxes are asked about at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError
from hart_studio.imaging import SourceImage
from hart_studio.labeling.job import open_verified_image
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import BoxCheck, Item
from hart_studio.records import Box
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.review import ReviewApi

MAX_CHECKED_BOXES: Final = 16
"""Boxes that a visitor may draw for one question (project default): each is one more image in a turn of the model."""


class SessionReviewApi(ReviewApi):
    """Answers the review screen of one visitor."""

    max_boxes_per_item = MAX_CHECKED_BOXES

    def __init__(self, label_api: LabelApi, service: AskService, served: Path | None = None) -> None:
        super().__init__(label_api, service, served)
        self._checking = threading.Lock()
        self._places = threading.BoundedSemaphore(2)  # one that asks the model, one that waits: a save behind a check

    def _check(self, project: Project, item: Item, boxes: tuple[Box, ...]) -> BoxCheck:
        """One check at a time, so that one visitor does not fill the line of all.

        Raises:
            InputError: If one waits already.
        """
        if not self._places.acquire(blocking=False):
            raise InputError("expected one check of boxes at a time, got more; wait until it is done")
        try:
            with self._checking:
                return super()._check(project, item, boxes)
        finally:
            self._places.release()

    def _open_image(self, item: Item) -> SourceImage:
        """The original for one call: decoded images of all visitors together would fill the memory."""
        return open_verified_image(item.image)
