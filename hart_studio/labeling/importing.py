"""Import rows into a project. Known rows are skipped; invalid rows are listed with their reasons."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter

from hart_studio.data.rows import InvalidRow, LoadedSamples
from hart_studio.errors import HartError, ImageError, InputError
from hart_studio.files import from_stored_path, to_printable, to_stored_path
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits, SourceImage
from hart_studio.labeling.export_plan import class_name
from hart_studio.labeling.formats import native
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.imported_labels import (
    NO_BOXES,
    ScoreChecker,
    clip_imported_boxes,
    locate_records,
    restore_reviews,
)
from hart_studio.labeling.project import Project, make_item_id
from hart_studio.labeling.project_locks import hold_import_lock
from hart_studio.labeling.records import MAX_CLASS_CHARS, ImageFile, Item, Label, LabeledSample
from hart_studio.labeling.sources import SourceSettings, load_source, locate_source
from hart_studio.labeling.zip_archives import ProgressCallback
from hart_studio.records import Box, GoldSample, Sample

BATCH: Final = 200
"""Rows per transaction."""

MAX_KEPT_INVALID_ROWS: Final = 10_000
"""Stored invalid rows per import; all are counted."""

BOXES: Final = TypeAdapter(tuple[Box, ...])
"""Reads and writes boxes as JSON."""

SampleT = TypeVar("SampleT", bound=Sample)
RowOutcome = Literal["added", "updated", "known"]


class ImportReport(NamedTuple):
    """Result of an import. The first three counts and the invalid rows add up to all rows."""

    added: int
    """New items."""
    updated: int
    """Known items that got boxes to verify, or a new path because their image was missing at the old one."""
    known: int
    """Known items that are unchanged."""
    invalid_count: int
    """Invalid rows."""
    invalid_rows: tuple[InvalidRow, ...]
    """Location and reason of the first ``MAX_KEPT_INVALID_ROWS`` invalid rows."""
    restored: int = 0
    """Items restored unchanged from an export of HART Studio, with their reviews."""
    changed: int = 0
    """Items of such an export whose boxes another tool has changed; imported as labels of that tool."""
    unsupported: int = 0
    """Items of such an export that lost a score or the status ``auto_accepted``: no calibration supports it."""

    @property
    def reasons(self) -> Counter[str]:
        """Reason -> number of invalid rows."""
        return Counter(row.reason for row in self.invalid_rows)

    def describe(self) -> str:
        """Summarize the counts in one line."""
        line = (
            f"{self.added:,} added, {self.updated:,} updated, {self.known:,} already in the project, "
            f"{self.invalid_count:,} invalid rows"
        )
        if self.restored or self.changed:
            line += f"; {self.restored:,} restored with their reviews, {self.changed:,} changed in another tool"
        if self.unsupported:
            line += (
                f"; {self.unsupported:,} imported without score and auto-accept status: no calibration of this project "
                "covers them"
            )
        return line


def import_source(
    project: Project,
    name: str,
    settings: SourceSettings,
    progress: ProgressCallback | None = None,
    *,
    max_items: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> ImportReport:
    """Import the rows of a source; used by the command line and the page.

    Args:
        project: The project.
        name: Path of a file or folder, or a hub id.
        settings: Settings of the source.
        progress: Called after each batch.
        max_items: Maximum number of items in the project; None = unlimited.
        limits: Limits of the images.

    Raises:
        HartError: If the source cannot be read or has too many items, the project cannot be written, or another import
            is running.
        OSError: If the content of a zip cannot be written into the project folder.
    """
    with hold_import_lock(project):
        return _import_source(project, name, settings, progress, max_items, limits)


def _import_source(
    project: Project,
    name: str,
    settings: SourceSettings,
    progress: ProgressCallback | None,
    max_items: int | None,
    limits: ImageLimits,
) -> ImportReport:
    source = locate_source(name, project.images, settings, progress)
    files = _ImageInspector(limits)
    try:
        if source.kind == "native":  # full items with their history
            items, found = native.load_items(Path(source.name), ImportOptions(image_root=settings.image_root))
            found = replace(found, invalid_rows=(*source.invalid_rows, *found.invalid_rows))
            _check_item_limit(project, len(found.samples), max_items)
            project.add_classes(_get_imported_classes(items))
            return import_items(project, items, found, limits)
        records = locate_records(Path(source.name)) if source.kind in FORMATS else None
        found = load_source(source, project.images, settings, NO_BOXES if records else None)
        restored = restore_reviews(records, FORMATS[source.kind], found, files.inspect_image) if records else None
        others = restored.others if restored else found
        _check_item_limit(project, len(others.samples) + (len(restored.items) if restored else 0), max_items)
    except HartError:
        source.forget()
        raise
    if restored is None:
        return import_samples(project, found, progress, limits)
    project.add_classes(restored.classes)
    kept = _add_items(project, restored.items, files)
    rest = _add_samples(project, others, progress, files)
    invalid_rows = (*kept.invalid_rows, *rest.invalid_rows)
    report = ImportReport(
        kept.added + rest.added,
        kept.updated + rest.updated,
        kept.known + rest.known,
        len(invalid_rows),
        invalid_rows[:MAX_KEPT_INVALID_ROWS],
        kept.added + kept.updated + kept.known,
        restored.changed,
        kept.unsupported,
    )
    _record_import(project, found.source, report)
    return report


def import_items(
    project: Project,
    items: Sequence[Item],
    loaded: LoadedSamples[LabeledSample],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> ImportReport:
    """Import items of another project with their labels and history.

    Args:
        project: The project.
        items: Items from ``native.load_items``. Known items are unchanged.
        loaded: The same rows as samples; its invalid rows are stored.
        limits: Limits of the images.

    Raises:
        DataError: If the project cannot be written; then nothing was imported.
    """
    report = _add_items(project, items, _ImageInspector(limits), loaded.invalid_rows)
    _record_import(project, loaded.source, report)
    return report


class _ImageInspector:
    """Inspects images, with a cache.

    Attributes:
        limits: Limits of the images.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self.limits = limits
        self._found: dict[str, ImageFile | str] = {}

    def inspect_image(self, path: str) -> ImageFile | str:
        """See ``inspect_image``."""
        if path not in self._found:
            self._found[path] = inspect_image(path, self.limits)
        return self._found[path]

    def inspect_known_image(self, project: Project, found: ImageFile | str) -> None:
        """Inspect the stored path of an image, if it differs, before a transaction needs the result."""
        if not isinstance(found, str):
            with project.database.reading() as connection:
                self.is_image_lost(project, connection, found)

    def is_image_lost(self, project: Project, connection: sqlite3.Connection, file: ImageFile) -> bool:
        """Whether the stored path of an image differs, and the image is missing or changed there."""
        row = connection.execute("SELECT path FROM images WHERE sha256 = ?", (file.sha256,)).fetchone()
        path = project.image_path(row["path"]) if row else file.path
        if path == file.path:
            return False
        known = self.inspect_image(path)
        return isinstance(known, str) or known.sha256 != file.sha256


def _add_items(
    project: Project, items: Sequence[Item], files: _ImageInspector, known_invalid_rows: Sequence[InvalidRow] = ()
) -> ImportReport:
    added, good = 0, []
    invalid_rows = list(known_invalid_rows)
    scores = ScoreChecker(project)
    for item in items:
        image = files.inspect_image(item.image.path)
        problem = _find_problem(item, image)
        if problem or isinstance(image, str):
            invalid_rows.append(InvalidRow(item.id, problem))
        else:
            # The domain comes from the file, not from the record.
            known = item.image.model_copy(update={"domain": image.domain})
            try:
                checked = scores.check_item(_clip_boxes(item.model_copy(update={"image": known})))
            except ValueError as error:
                invalid_rows.append(InvalidRow(item.id, str(error)))
                continue
            good.append(checked)
            files.inspect_known_image(project, image)  # outside of the transaction, which blocks others
    updated = 0
    with project.database.writing() as connection:
        for item in good:
            if connection.execute("SELECT 1 FROM items WHERE id = ?", (item.id,)).fetchone() is None:
                project.insert_item(connection, item)
                added += 1
            elif files.is_image_lost(project, connection, item.image):
                _move(project, connection, item.image)
                updated += 1
    project.sample_audit()
    known_count = len(good) - added - updated
    kept = tuple(invalid_rows[:MAX_KEPT_INVALID_ROWS])
    return ImportReport(added, updated, known_count, len(invalid_rows), kept, unsupported=scores.dropped)


def _clip_boxes(item: Item) -> Item:
    """Clip the boxes of all labels of an item; raises ``ValueError`` if that is impossible."""
    labels = [
        label.model_copy(update={"boxes": clip_imported_boxes(label.boxes, item.image)})
        for label in (*item.history, item.label)
    ]
    return item.model_copy(update={"label": labels[-1], "history": tuple(labels[:-1])})


def import_samples(
    project: Project,
    loaded: LoadedSamples[SampleT],
    progress: ProgressCallback | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> ImportReport:
    """Import all questions that the project does not have yet.

    Two questions are the same if image content, question and choices are equal. Only the quality report reads gold
    boxes. Boxes of a ``LabeledSample`` become the first label of the item, to be verified.

    Args:
        project: The project.
        loaded: Samples from a loader; its invalid rows are stored.
        progress: Called after each batch.
        limits: Limits of the images.

    Raises:
        DataError: If the project cannot be written. Batches imported before are kept.
    """
    report = _add_samples(project, loaded, progress, _ImageInspector(limits))
    _record_import(project, loaded.source, report)
    return report


def _add_samples(
    project: Project, loaded: LoadedSamples[SampleT], progress: ProgressCallback | None, files: _ImageInspector
) -> ImportReport:
    counts: Counter[str] = Counter()
    invalid_rows = list(loaded.invalid_rows)
    for start in range(0, len(loaded.samples), BATCH):
        batch = loaded.samples[start : start + BATCH]
        for sample in batch:
            # Outside of the transaction, which blocks others.
            files.inspect_known_image(project, files.inspect_image(sample.image))
        project.add_classes(_get_classes(batch))
        changes: Counter[str] = Counter()  # counted after the commit
        refused = []
        with project.database.writing() as connection:
            for sample in batch:
                image = files.inspect_image(sample.image)
                try:
                    if isinstance(image, str):
                        raise ValueError(image)
                    changes[_import(project, connection, sample, image, files)] += 1
                except ValueError as error:
                    refused.append(InvalidRow(sample.id, str(error)))
        counts += changes
        invalid_rows += refused
        if progress:
            progress(min(start + BATCH, len(loaded.samples)), len(loaded.samples))
    kept = tuple(invalid_rows[:MAX_KEPT_INVALID_ROWS])
    return ImportReport(counts["added"], counts["updated"], counts["known"], len(invalid_rows), kept)


def get_invalid_rows(project: Project, limit: int = 1000) -> list[tuple[str, str, str]]:
    """Return (source, location, reason) of invalid rows, newest import first."""
    query = """SELECT imports.source, invalid_rows.location, invalid_rows.reason FROM invalid_rows JOIN imports
        ON imports.id = invalid_rows.import ORDER BY imports.id DESC, invalid_rows.rowid LIMIT ?"""
    with project.database.reading() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query, (limit,))]


def inspect_image(stored_path: str, limits: ImageLimits = DEFAULT_LIMITS) -> ImageFile | str:
    """Read size and hash of an image, or why it is unusable. Only the header is decoded."""
    path = from_stored_path(stored_path)
    try:
        image = SourceImage(stored_path, limits)
        sha256 = image.compute_sha256()
        domain = image.read_domain()  # of the hashed file, even if the path is replaced now
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{Path(to_stored_path(path)).name}: {error.strerror}"
    return ImageFile(
        path=to_stored_path(path.resolve()),
        sha256=sha256,
        width=image.width,
        height=image.height,
        domain=domain,
    )


def _check_item_limit(project: Project, count: int, max_items: int | None) -> None:
    """Check that a project can hold more items.

    Raises:
        InputError: If it cannot.
    """
    if max_items is not None and project.count() + count > max_items:
        free = max(0, max_items - project.count())
        raise InputError(f"The import has {count:,} questions, but the project can hold {free:,} more. Import fewer.")


def _find_problem(item: Item, image: ImageFile | str) -> str:
    """Why an item of another project cannot be imported; empty if it can."""
    if isinstance(image, str):
        return image
    if image.sha256 != item.image.sha256 or (image.width, image.height) != (
        item.image.width,
        item.image.height,
    ):
        return "image content differs from the exported label"
    if item.id != make_item_id(image.sha256, item.sample.question, item.sample.choices):
        return "the id does not match image, question and choices"
    revisions = [label.revision for label in (*item.history, item.label)]
    if revisions != list(range(len(revisions))):
        return "review history is incomplete (revisions missing)"
    return ""


def _move(project: Project, connection: sqlite3.Connection, file: ImageFile) -> None:
    """Update the path of a known image."""
    stored = project.stored_path(file.path)
    connection.execute("UPDATE images SET path = ? WHERE sha256 = ?", (stored, file.sha256))


def _import(
    project: Project, connection: sqlite3.Connection, sample: Sample, image: ImageFile, files: _ImageInspector
) -> RowOutcome:
    """Import a row; raises ``ValueError`` if it is invalid."""
    item_id = make_item_id(image.sha256, sample.question, sample.choices)
    boxes = clip_imported_boxes(sample.boxes, image) if isinstance(sample, LabeledSample) else ()
    now = datetime.now(UTC)
    row = connection.execute("SELECT revision, status, boxes FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        plain = Sample(**{name: getattr(sample, name) for name in Sample.model_fields})
        label = Label(revision=0, status="new", origin="none", at=now)
        project.insert_item(connection, Item(id=item_id, sample=plain, image=image, label=label))
        change: RowOutcome = "added"
    else:
        change = "known"
        before = project.item(item_id)
        if before.sample.answer != sample.answer:
            raise ValueError(
                f"the project has this question about the same image with the answer {before.sample.answer!r}; "
                f"the row has {sample.answer!r}: correct one of them"
            )
        if files.is_image_lost(project, connection, image):
            _move(project, connection, image)
            change = "updated"
    revision = row["revision"] if row else 0
    has_label = revision > 0 and not (row["status"] == "failed" and not row["boxes"])
    if boxes and not has_label and isinstance(sample, LabeledSample):
        label = Label(revision=revision + 1, status="proposed", origin="imported", boxes=boxes, at=now)
        project.append_label(connection, item_id, label)
        change = "added" if row is None else "updated"
    if isinstance(sample, GoldSample) and sample.gold_boxes:
        text = BOXES.dump_json(sample.gold_boxes).decode()
        connection.execute("INSERT INTO gold_boxes (item, boxes) VALUES (?, ?) ON CONFLICT DO NOTHING", (item_id, text))
    return change


def _get_classes(samples: Sequence[Sample]) -> Iterator[str]:
    """Classes of boxes from another tool; too long texts are ignored."""
    for sample in samples:
        for box in sample.boxes if isinstance(sample, LabeledSample) else ():
            if box.label and len(name := class_name(box)) <= MAX_CLASS_CHARS:
                yield name


def _get_imported_classes(items: Iterable[Item]) -> Iterator[str]:
    """Classes of imported boxes in items of another project."""
    for item in items:
        for label in (*item.history, item.label):
            for box in label.boxes if label.origin == "imported" else ():
                if box.label and len(name := class_name(box)) <= MAX_CLASS_CHARS:
                    yield name


def _record_import(project: Project, source: str, report: ImportReport) -> None:
    with project.database.writing() as connection:
        number = connection.execute(
            "INSERT INTO imports (at, source, added, known, invalid) VALUES (?, ?, ?, ?, ?)",
            (
                datetime.now(UTC).isoformat(),
                to_printable(source),
                report.added,
                report.known + report.updated,
                report.invalid_count,
            ),
        ).lastrowid
        connection.executemany(
            "INSERT INTO invalid_rows (import, location, reason) VALUES (?, ?, ?)",
            [(number, row.row, row.reason) for row in report.invalid_rows],
        )
