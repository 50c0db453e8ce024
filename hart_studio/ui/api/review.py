"""JSON API of the review: next item, decisions, undo, verification of drawn boxes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import HartError, ImageError, InputError, ModelError
from hart_studio.formatting import LIST_TEXT_CHARS, shorten
from hart_studio.geometry import plan_crops
from hart_studio.imaging import SourceImage
from hart_studio.labeling import bulk_accept
from hart_studio.labeling.calibration_domain import REASONS, describe_score
from hart_studio.labeling.chance_level import describe_chance_level
from hart_studio.labeling.item_locks import check_reviewer
from hart_studio.labeling.job import open_verified_image
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import REVIEWED_STATUSES, BoxCheck, Item, Label
from hart_studio.labeling.review import MAX_BOXES, ReviewQueue
from hart_studio.labeling.review_history import ProgressCallback, UndoneAction, is_next_action_bulk
from hart_studio.labeling.review_priority import get_review_reason
from hart_studio.models.catalog import describe_domain_mismatch
from hart_studio.records import Box
from hart_studio.ui.api.ask import DECODING, AskService
from hart_studio.ui.api.changes import StampedCache
from hart_studio.ui.api.label_requests import (
    AcceptRequest,
    CheckRequest,
    DecisionRequest,
    ItemRequest,
    ListRequest,
    ProjectRequest,
    QueueRequest,
)
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.schemas import parse_boxes
from hart_studio.ui.error_reporting import describe

MAX_KEPT_CHECKS: Final = 256
"""Cached verifications of drawn boxes."""

CROP_SIDE: Final = 1024
"""Greatest side of a crop on the page, pixels; smaller crops keep native resolution."""

LIST_ROWS: Final = 50
"""Items in one page of the list."""


WAIT_SECONDS: Final = 1.0
"""How long a request waits for a bulk action to finish."""


@dataclass
class BulkJob:
    """A bulk action and its progress; at most one per project runs in this process."""

    kind: str
    """``accept``, ``undo`` or ``redo``."""
    total: int
    """Items it began with; 0 = not known."""
    done: int = 0
    """Items changed so far."""
    skipped: int = 0
    """Items left alone."""
    summary: str = ""
    """The result, for the reviewer, once it is over."""
    error: str = ""
    """Why it ended early."""
    is_over: bool = False
    """Whether it has ended."""
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON for the page."""
        return {name: value for name, value in vars(self).items() if name != "ended"}

    def run(self, project: Project, work: Callable[[ProgressCallback], str]) -> None:
        """Run the action; ``work`` reports progress and returns the summary."""

        def report(done: int, skipped: int) -> None:
            self.done, self.skipped = done, skipped

        try:
            self.summary = work(report)
        except HartError as error:
            self.error = str(error)
        except Exception as error:  # the page waits for a response; details are in the log
            self.error = describe(error).message
        finally:
            self.is_over = True
            self.ended.set()
            project.database.close()


class ReviewApi:
    """Handles the review screen.

    Attributes:
        label_api: Opens projects; knows the limits.
        service: Opens images and asks models.
        served: Served folder; file names are relative to it.
    """

    def __init__(self, label_api: LabelApi, service: AskService, served: Path | None = None) -> None:
        self.label_api = label_api
        self.service = service
        self.served = served or service.folder
        self._lock = threading.Lock()
        self._checks: StampedCache[BoxCheck] = StampedCache(MAX_KEPT_CHECKS)
        self._checking = threading.Lock()
        self._check_count = 0
        self._jobs: dict[Path, BulkJob] = {}
        self._image: tuple[str, SourceImage] | None = None

    def next_item(self, request: QueueRequest) -> dict[str, Any]:
        """Claim the item with the highest review priority; no ``item`` if the queue is empty."""
        project, review = self._open(request)
        item = review.next_item(request.reviewer, request.item_filter, list(request.deferred))
        return self._answer(project, review, request.reviewer, item)

    def open_item(self, request: ItemRequest) -> dict[str, Any]:
        """Claim a given item."""
        project, review = self._open(request)
        return self._answer(project, review, request.reviewer, review.open_item(request.reviewer, request.item))

    def decide(self, request: DecisionRequest) -> dict[str, Any]:
        """Save a decision and return the next item."""
        project, review = self._open(request)
        item = project.item(request.item)
        boxes = self._read_boxes(request.boxes) if request.decision == "edit" else None
        check, problem = None, ""
        if boxes is not None:
            try:
                check = self._check(project, item, boxes)
            except ModelError as error:  # save the decision even if the model is unavailable
                problem = f"Saved without verification: {error}"
        review.decide(
            request.reviewer, item.id, request.revision, request.decision, boxes, check,
            seconds=request.seconds, allow_empty=request.allow_empty,
        )  # fmt: skip
        answer = self.next_item(request)
        return {**answer, "message": problem} if problem else answer

    def skip(self, request: ItemRequest) -> dict[str, Any]:
        """Leave an item to other reviewers and return the next one."""
        _, review = self._open(request)
        review.skip(request.reviewer, request.item, request.seconds)
        return self.next_item(request)

    def undo(self, request: QueueRequest) -> dict[str, Any]:
        """Undo the last action of this reviewer and return its item.

        A bulk accept is undone as a whole. If that takes long, the response has its progress in ``bulk`` instead of an
        item; poll ``bulk_progress`` until it is over.
        """
        project, review = self._open(request)
        if is_next_action_bulk(project, check_reviewer(request.reviewer), is_undo=True):
            return self._step_bulk(request, "undo", lambda report: _describe(review.undo(request.reviewer, report)))
        undone = review.undo(request.reviewer)
        if undone is None:
            raise InputError("Nothing to undo.")
        answer = self._answer(project, review, request.reviewer, project.item(undone.item_id))
        return {**answer, "message": f"Undone: {_describe(undone)}"}

    def redo(self, request: QueueRequest) -> dict[str, Any]:
        """Redo the last undone action of this reviewer and return the next item; a bulk accept as with ``undo``."""
        project, review = self._open(request)
        if is_next_action_bulk(project, check_reviewer(request.reviewer), is_undo=False):
            return self._step_bulk(request, "redo", lambda report: _describe(review.redo(request.reviewer, report)))
        redone = review.redo(request.reviewer)
        if redone is None:
            raise InputError("Nothing to redo.")
        return {**self.next_item(request), "message": f"Redone: {_describe(redone)}"}

    def check(self, request: CheckRequest) -> dict[str, Any]:
        """Verify drawn boxes, and return the result with the crops."""
        project, _ = self._open(request)
        item = project.item(request.item)
        boxes = self._read_boxes(request.boxes)
        check = self._check(project, item, boxes)
        return {"check": check.model_dump(mode="json"), "crops": self._cut(item, boxes), **_show_chance(item, check)}

    def list_items(self, request: ListRequest) -> dict[str, Any]:
        """A page of the list of items that match a filter, with the number that a bulk accept would accept."""
        project, _ = self._open(request)
        wanted = request.item_filter
        return {
            "count": project.count(wanted),
            "acceptable": bulk_accept.count_acceptable(project, wanted)._asdict(),
            "unfinished": self._find_unfinished(project),
            "rows": [
                {
                    "id": item.id,
                    "question": shorten(item.sample.question, LIST_TEXT_CHARS),
                    "name": Path(item.image.path).name,
                    "status": item.label.status,
                    "score": item.label.score,
                    "score_text": describe_score(item.label),
                    "score_reason": REASONS[item.label.uncalibrated] if item.label.uncalibrated else "",
                    "reviewer": item.label.reviewer,
                    "note": item.label.note,
                    "cautions": list(item.label.check.cautions) if item.label.check else [],
                }
                for item in project.items(wanted, limit=LIST_ROWS, offset=request.offset)
            ],
        }

    def accept_all(self, request: AcceptRequest) -> dict[str, Any]:
        """Accept all items that match a filter; poll ``bulk_progress`` for progress.

        Returns:
            A ``BulkJob``.
        """
        project, _ = self._open(request)
        reviewer = check_reviewer(request.reviewer)

        def accept(report: ProgressCallback) -> str:
            result = bulk_accept.accept_all(project, reviewer, request.item_filter, request.expected, report)
            message = f"{result.accepted:,} label{'' if result.accepted == 1 else 's'} accepted."
            why = "changed meanwhile, or open in another review"
            return f"{message} {result.skipped:,} skipped: {why}." if result.skipped else message

        job = self.start_bulk(project, "accept", request.expected, accept)
        if job.error and not job.done:
            raise InputError(job.error)
        return job.to_dict()

    def bulk_progress(self, request: ProjectRequest) -> dict[str, Any]:
        """Progress of the newest bulk action of a project.

        Raises:
            InputError: If this server has not started one: it was restarted, for instance.
        """
        project, _ = self._open(request)
        job = self._jobs.get(project.folder)
        if job is None:
            raise InputError(self._find_unfinished(project) or "No bulk action is running. Reload the list.")
        return job.to_dict()

    def close(self) -> None:
        """Close the cached image."""
        with self._lock:
            if self._image is not None:
                self._image[1].close()
                self._image = None

    def start_bulk(self, project: Project, kind: str, total: int, work: Callable[[ProgressCallback], str]) -> BulkJob:
        """Start a bulk action in the background, and wait up to ``WAIT_SECONDS`` for it.

        Args:
            project: The project.
            kind: ``accept``, ``undo`` or ``redo``.
            total: Items; 0 = not known.
            work: Runs the action, reports progress, and returns the summary.

        Raises:
            InputError: If one is running in this project.
        """
        with self._lock:
            running = self._jobs.get(project.folder)
            if running is not None and not running.is_over:
                raise InputError(
                    f"A bulk {running.kind} is running: {running.done:,} items so far. Wait until it has finished."
                )
            job = self._jobs[project.folder] = BulkJob(kind, total)
            try:
                threading.Thread(target=job.run, args=(project, work), name="bulk", daemon=True).start()
            except RuntimeError:  # no more threads
                job.is_over = True
                raise
        job.ended.wait(WAIT_SECONDS)
        return job

    def _open(self, request: ProjectRequest) -> tuple[Project, ReviewQueue]:
        project = self.label_api.open_project(request.project)
        return project, ReviewQueue(project)

    def _read_boxes(self, boxes: Any) -> tuple[Box, ...]:
        return parse_boxes(boxes, self.label_api.limits.max_boxes)

    def _step_bulk(self, request: QueueRequest, kind: str, work: Callable[[ProgressCallback], str]) -> dict[str, Any]:
        """Undo or redo a bulk accept."""
        job = self.start_bulk(self._open(request)[0], kind, 0, work)
        if not job.is_over:
            return {"bulk": job.to_dict()}
        if job.error:
            raise InputError(job.error)
        verb = "Undone" if kind == "undo" else "Redone"
        return {**self.next_item(request), "message": f"{verb}: {job.summary}"}

    def _find_unfinished(self, project: Project) -> str:
        """Message about a bulk accept that runs in another process or ended early; else empty."""
        last, job = bulk_accept.read_last(project), self._jobs.get(project.folder)
        if last is None or last.is_finished or not last.is_kept or (job is not None and not job.is_over):
            return ""
        progress = f"{last.accepted:,} of {last.expected:,} labels"
        if last.is_running:
            return f"A bulk accept by {last.reviewer} is running: {progress} so far."
        return (
            f"The last bulk accept, by {last.reviewer}, ended early: {progress} were accepted. Accept again for the "
            "rest, or undo in the review to take them back."
        )

    def _answer(self, project: Project, review: ReviewQueue, reviewer: str, item: Item | None) -> dict[str, Any]:
        statuses, waiting = project.count_by("status"), project.count_waiting()
        answer: dict[str, Any] = {
            "waiting": waiting.get("proposed", 0),
            "audits": waiting.get("auto_accepted", 0),
            "done": sum(statuses.get(name, 0) for name in REVIEWED_STATUSES),
        }
        if item is not None:
            answer["item"] = self._show(project, item, review.blind_view(item, reviewer))
        return answer

    def _show(self, project: Project, item: Item, label: Label) -> dict[str, Any]:
        stored = item.image
        try:
            open_verified_image(stored)  # raises if the file has changed
            scene = self.service.open_image(Path(stored.path))
            crops = self._cut(item, label.boxes)
        except ImageError as error:
            raise InputError(f"{str(error).rstrip('.')}. The item is kept; press N for the next one.") from error
        return {
            "id": item.id,
            "revision": item.label.revision,
            "question": item.sample.question,
            "choices": list(item.sample.choices),
            "answer": item.sample.answer,
            "category": item.sample.category,
            "name": Path(stored.path).name,
            "width": stored.width,
            "height": stored.height,
            "preview": {"path": self._name(scene.preview.path), "width": scene.preview.width},
            "detail": {"path": self._name(scene.detail.path), "width": scene.detail.width},
            "boxes": [box.model_dump(exclude={"score"}) for box in label.boxes],
            "crops": crops,
            "check": label.check and label.check.model_dump(mode="json"),
            "score": label.score,
            "score_text": describe_score(label),
            "score_reason": REASONS[label.uncalibrated] if label.uncalibrated else "",
            "status": label.status,
            "reason": get_review_reason(label, project.audit_hash(item.id), project.get_audit_threshold()),
            "model": label.provenance.model if label.provenance else "",
            **_show_chance(item, label.check),
            "reviewer": label.reviewer,
            "note": label.note,
        }

    def _check(self, project: Project, item: Item, boxes: tuple[Box, ...]) -> BoxCheck:
        """Verify boxes with the model of the project, cached per boxes."""
        try:
            run_id, model = self.label_api.find_model(project)
        except InputError as error:
            raise ModelError(f"Drawn boxes are not verified. {error}") from error
        if mismatch := describe_domain_mismatch(model, item.image.domain, "this image"):
            raise ModelError(mismatch)
        before = next(
            (label.check for label in (item.label, *reversed(project.history(item.id))) if _is_sampled(label)), None
        )
        # Everything that the result depends on; another project may use another model for the same item.
        file = project.database.path.stat()
        key = (file.st_dev, file.st_ino, run_id, model, item.id, item.sample, boxes, before)

        def verify() -> BoxCheck:
            check, problem = self.service.check_boxes(
                model, item.sample, boxes, before, lambda path: self._open_image(item)
            )
            if problem:
                raise InputError(problem)
            return check.model_copy(update={"model": model})

        with self._hold_check():
            return self._checks.get(key, lambda: True, verify)

    @contextmanager
    def _hold_check(self) -> Iterator[None]:
        """Verify one request at a time where verifications are limited, so that no visitor fills the shared queue.

        Raises:
            InputError: If too many are waiting.
        """
        most = self.label_api.limits.max_checks
        if most is None:
            yield
            return
        with self._lock:
            if self._check_count >= most:
                raise InputError("Another verification is running. Wait until it is done.")
            self._check_count += 1
        try:
            with self._checking:
                yield
        finally:
            with self._lock:
                self._check_count -= 1

    def _open_image(self, item: Item) -> SourceImage:
        """The original of the open item, decoded once where images may stay in memory."""
        if not self.label_api.limits.keeps_images:
            return open_verified_image(item.image)
        with self._lock:
            if self._image is None or self._image[0] != item.id or self._image[1].has_changed:
                if self._image is not None:
                    self._image[1].close()
                    self._image = None
                self._image = (item.id, open_verified_image(item.image))
            return self._image[1]

    def _cut(self, item: Item, boxes: tuple[Box, ...]) -> list[dict[str, Any]]:
        """Crops of the original at native resolution, as served files."""
        wh = (item.image.width, item.image.height)
        found, missing = [], {}
        for box in plan_crops(boxes, wh, padding=0.0, min_side=1, max_aspect=1e9, max_boxes=MAX_BOXES):
            key = hashlib.sha256(f"{item.image.sha256}{box.xyxy}".encode()).hexdigest()[:24]
            path = self.service.folder / "label_crops" / f"{key}.jpg"
            if not path.exists():
                missing[path] = box
            found.append({"path": self._name(path), "width": int(box.width), "height": int(box.height)})
        if missing:
            with DECODING:
                self._write_crops(item, missing)
        return found

    def _write_crops(self, item: Item, missing: Mapping[Path, Box]) -> None:
        image = self._open_image(item)
        for path, box in missing.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            crop = image.crop(box)
            crop.thumbnail((CROP_SIDE, CROP_SIDE))
            draft = path.with_name(f"{path.stem}.{threading.get_ident()}.draft")
            crop.save(draft, "JPEG", quality=90)
            draft.replace(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.served).as_posix()


def _show_chance(item: Item, check: BoxCheck | None) -> dict[str, Any]:
    if check is None:
        return {"chance": [], "is_weak": False}
    notes = describe_chance_level(check, len(item.sample.choices))
    return {"chance": list(notes.texts), "is_weak": notes.is_weak}


def _describe(undone: UndoneAction | None) -> str:
    if undone is None:
        return "nothing"
    kept = f". {undone.skipped:,} labels were changed later and were not reverted" if undone.skipped else ""
    return f"{undone.kind.replace('_', ' ')}{kept}"


def _is_sampled(label: Label) -> bool:
    return label.check is not None and label.check.rollouts > 0
