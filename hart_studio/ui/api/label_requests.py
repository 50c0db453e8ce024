"""Requests of the Label tab: projects, imports, labeling runs, exports, review."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.job import LabelingConfig
from hart_studio.labeling.records import MAX_CLASS_CHARS, USABLE_STATUSES, ItemFilter, Status
from hart_studio.labeling.review import Decision
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.ui.api.handler import PollRequest, Request


class ProjectRequest(Request):
    """Request about a project."""

    project: str = ""
    """Id of the project."""
    session_token: str = ""
    """Of a visitor's browser tab, read by ``SessionStore``."""


class RunRequest(ProjectRequest, extra="forbid"):
    """Request for a labeling run."""

    project: str = Field(max_length=80)
    model: str = Field(default=BUILT_IN_HART, min_length=1, max_length=300)
    rollouts: int = Field(default=8, ge=2, le=64)
    """Rollouts per question, K."""
    is_refining: bool = False
    """Whether to shrink boxes as long as they stay sufficient."""
    auto_accept: bool = True
    """Whether to auto-accept labels with a high score."""
    statuses: tuple[Status, ...] = ("new", "failed")
    """Statuses of the labeled items."""

    @property
    def config(self) -> LabelingConfig:
        """Settings of the run."""
        return LabelingConfig(
            model=self.model.strip(),
            proposals=ProposalSettings(
                rollouts=self.rollouts,
                loop=LoopSettings(temperature=1.0, max_new_tokens=128),
                refinement=BoxRefinementSettings() if self.is_refining else None,
            ),
            auto_accept=self.auto_accept,
            item_filter=ItemFilter(statuses=self.statuses),
        )


class NameRequest(ProjectRequest):
    """A project, and a new name for it or its copy."""

    name: str = ""


class CreateRequest(Request):
    """Request for a new project."""

    name: str = ""
    classes: str = ""
    """Comma-separated; empty = default."""


class StateRequest(ProjectRequest, PollRequest):
    """Poll of a project."""


class SourceRequest(ProjectRequest):
    """Request about a source."""

    source: str = ""
    image_root: str = ""
    """Folder of the images; empty = beside the source."""
    image_column: str = ""
    """Selected column of images, for a preview."""


class ImportRequest(SourceRequest):
    """Request for an import; see ``SourceSettings``."""

    kind: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    question: str = ""
    choices: str = ""
    """One per line."""


class ArchiveRequest(ProjectRequest):
    """Request to archive a project."""

    is_archived: bool = Field(default=True, strict=True)
    """False takes it out of the archive."""


class DeleteRequest(ProjectRequest):
    """Request to delete a project."""

    confirmation: str = ""
    """Its name, typed by a person."""


class RestoreRequest(Request):
    """Request to take a project out of the trash."""

    entry: str = ""


class LabelingRunRequest(ProjectRequest):
    """Request about a labeling run."""

    run: str = ""
    now: bool = Field(default=False, strict=True)
    """Whether to stop without waiting for the batch."""


class ExportRequest(ProjectRequest, extra="forbid"):
    """Request for an export."""

    project: str = Field(max_length=80)
    format: str = Field(max_length=40)
    """Key of ``FORMATS``."""
    statuses: tuple[Status, ...] = USABLE_STATUSES
    """Exported statuses."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Minimum score of labels without a human decision."""
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    box_class: str = Field(default="", max_length=MAX_CLASS_CHARS)
    """Class of all exported boxes; empty = the label of each box."""
    exif: Literal["upright", "stored"] = "upright"
    """Copies of images with EXIF rotation: pixels turned upright, or pixels as stored with turned boxes."""
    is_referring: bool = False
    """Whether to reference images by path instead of copying, in formats that support it."""


class ClassesRequest(ProjectRequest):
    """Request to set the classes of boxes in exports."""

    classes: str = ""
    """Comma-separated, the default class first."""


class DiffRequest(ProjectRequest):
    """Request to compare two labeling runs."""

    before: str = ""
    after: str = ""


def _drop_invalid_seconds(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and 0 <= value <= 3600 else None


class ReviewRequest(ProjectRequest):
    """Request of the review screen."""

    reviewer: str = ""
    item_filter: ItemFilter = Field(default=ItemFilter(), alias="filter")


class QueueRequest(ReviewRequest):
    """Request for the next item."""

    deferred: tuple[Annotated[str, Field(max_length=80)], ...] = ()
    """Ids of items that this reviewer has left for later."""


class ItemRequest(QueueRequest):
    """Request about an item."""

    item: str = ""
    seconds: Annotated[float | None, BeforeValidator(_drop_invalid_seconds)] = None
    """Time that the item was open; dropped unless it is 0 to 3600."""


class DecisionRequest(ItemRequest):
    """Decision about an item."""

    messages: ClassVar[Mapping[str, str]] = {"revision": "The revision of the label is missing. Reload the page."}

    decision: Decision
    revision: int = Field(strict=True)
    """Revision of the label that was shown."""
    boxes: Any = None
    """Untrusted boxes of an edit."""
    allow_empty: Annotated[bool, BeforeValidator(lambda value: value is True)] = False
    """Whether labels without a box may be saved."""


class CheckRequest(ReviewRequest):
    """Request to verify drawn boxes."""

    item: str = ""
    boxes: Any = None
    """Untrusted."""


class ListRequest(ReviewRequest):
    """Request for a page of the list."""

    offset: int = Field(default=0, ge=0)


class AcceptRequest(ReviewRequest):
    """Request to accept all items that match the filter."""

    messages: ClassVar[Mapping[str, str]] = {"expected": "The confirmed number of labels is missing. Reload the page."}

    expected: int = Field(ge=0, strict=True)
    """The confirmed number of labels."""
