"""Review API of one Space visitor: no cached images, few boxes per item."""

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
"""Maximum number of boxes per question; each is one more image for the model. Project default."""


class SessionReviewApi(ReviewApi):
    """Review API of one visitor."""

    max_boxes_per_item = MAX_CHECKED_BOXES

    def __init__(self, label_api: LabelApi, service: AskService, served: Path | None = None) -> None:
        super().__init__(label_api, service, served)
        self._checking = threading.Lock()
        self._slots = threading.BoundedSemaphore(2)  # one running and one waiting: a save behind a check

    def _check(self, project: Project, item: Item, boxes: tuple[Box, ...]) -> BoxCheck:
        """Verify boxes, one request at a time, so that one visitor does not fill the shared queue.

        Raises:
            InputError: If another request is waiting.
        """
        if not self._slots.acquire(blocking=False):
            raise InputError("Another verification is running. Wait until it is done.")
        try:
            with self._checking:
                return super()._check(project, item, boxes)
        finally:
            self._slots.release()

    def _open_image(self, item: Item) -> SourceImage:
        """Open the original for one call; caching decoded images of all visitors would need too much memory."""
        return open_verified_image(item.image)
