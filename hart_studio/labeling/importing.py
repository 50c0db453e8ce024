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
    read_originals,
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

    def merge(self, other: ImportReport) -> ImportReport:
        """Report of two parts of one import."""
        invalid_rows = (*self.invalid_rows, *other.invalid_rows)[:MAX_KEPT_INVALID_ROWS]
        return ImportReport(
            self.added + other.added,
            self.updated + other.updated,
            self.known + other.known,
            self.invalid_count + other.invalid_count,
            invalid_rows,
            self.restored + other.restored,
            self.changed + other.changed,
            self.unsupported + other.unsupported,
        )

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


NOTHING_IMPORTED: Final = ImportReport(0, 0, 0, 0, ())


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
        source = locate_source(name, project.images, settings, progress)
        importer = _Importer(project, limits)
        try:
            if source.kind == "native":  # full items with their history
                items, found = native.load_items(Path(source.name), ImportOptions(image_root=settings.image_root))
                found = replace(found, invalid_rows=(*source.invalid_rows, *found.invalid_rows))
                _check_item_limit(project, len(found.samples), max_items)
                labels = [label for item in items for label in (*item.history, item.label)]
                project.add_classes(_list_classes(label.boxes for label in labels if label.origin == "imported"))
                return importer.finish(found.source, importer.add_items(items, found.invalid_rows))
            records = locate_records(Path(source.name)) if source.kind in FORMATS else None
            importer.originals = read_originals(records) if records else {}
            others = load_source(source, project.images, settings, NO_BOXES if records else None)
            restored = None
            if records:
                restored = restore_reviews(records, FORMATS[source.kind], others, importer.inspect_image)
                others = restored.others
            _check_item_limit(project, len(others.samples) + (len(restored.items) if restored else 0), max_items)
        except HartError:
            source.forget()
            raise
        report = NOTHING_IMPORTED
        if restored:
            project.add_classes(restored.classes)
            kept = importer.add_items(restored.items)
            count = kept.added + kept.updated + kept.known
            report = kept._replace(restored=count, changed=restored.changed)
        return importer.finish(others.source, report.merge(importer.add_samples(others, progress)))


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
    importer = _Importer(project, limits)
    return importer.finish(loaded.source, importer.add_items(items, loaded.invalid_rows))


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
    importer = _Importer(project, limits)
    return importer.finish(loaded.source, importer.add_samples(loaded, progress))


class _Importer:
    """Adds items and samples to a project. Each image is inspected once, before a transaction.

    Attributes:
        originals: SHA-256 of an upright copy -> SHA-256 of its original, see ``imported_labels.read_originals``.
    """

    def __init__(self, project: Project, limits: ImageLimits) -> None:
        self._project = project
        self._limits = limits
        self._images: dict[str, ImageFile | str] = {}
        self.originals: dict[str, str] = {}

    def inspect_image(self, path: str) -> ImageFile | str:
        """See ``inspect_image``; cached. An upright copy of an image of this project counts as that image."""
        if path not in self._images:
            image = inspect_image(path, self._limits)
            original = None if isinstance(image, str) else self._find_original(image)
            self._images[path] = original or image
        return self._images[path]

    def _find_original(self, copy: ImageFile) -> ImageFile | None:
        """Image of the project that ``copy`` was made from, if it is unchanged."""
        sha256 = self.originals.get(copy.sha256)
        if sha256 is None:
            return None
        with self._project.database.reading() as connection:
            row = connection.execute("SELECT path FROM images WHERE sha256 = ?", (sha256,)).fetchone()
        known = inspect_image(self._project.image_path(row["path"]), self._limits) if row else ""
        if isinstance(known, str) or (known.sha256, known.wh) != (sha256, copy.wh):
            return None
        return known

    def add_items(self, items: Sequence[Item], known_invalid_rows: Sequence[InvalidRow] = ()) -> ImportReport:
        """Add items of another project, in one transaction."""
        project, good = self._project, []
        invalid_rows = list(known_invalid_rows)
        scores = ScoreChecker(project)
        for item in items:
            image = self._inspect(item.image.path)
            try:
                good.append(scores.check_item(_check_item(item, image)))
            except ValueError as error:
                invalid_rows.append(InvalidRow(item.id, str(error)))
        counts: Counter[RowOutcome] = Counter()
        with project.database.writing() as connection:
            for item in good:
                if connection.execute("SELECT 1 FROM items WHERE id = ?", (item.id,)).fetchone() is None:
                    project.insert_item(connection, item)
                    counts["added"] += 1
                else:
                    counts[self._update_path(connection, item.image)] += 1
        project.sample_audit()
        return _report(counts, invalid_rows)._replace(unsupported=scores.dropped)

    def add_samples(self, loaded: LoadedSamples[SampleT], progress: ProgressCallback | None) -> ImportReport:
        """Add samples, in batches of one transaction each."""
        counts: Counter[RowOutcome] = Counter()
        invalid_rows = list(loaded.invalid_rows)
        for start in range(0, len(loaded.samples), BATCH):
            batch = loaded.samples[start : start + BATCH]
            images = [self._inspect(sample.image) for sample in batch]
            labeled = [sample for sample in batch if isinstance(sample, LabeledSample)]
            self._project.add_classes(_list_classes(sample.boxes for sample in labeled))
            changes: Counter[RowOutcome] = Counter()  # counted after the commit
            refused = []
            with self._project.database.writing() as connection:
                for sample, image in zip(batch, images, strict=True):
                    try:
                        changes[self._add_sample(connection, sample, image)] += 1
                    except ValueError as error:
                        refused.append(InvalidRow(sample.id, str(error)))
            counts += changes
            invalid_rows += refused
            if progress:
                progress(min(start + BATCH, len(loaded.samples)), len(loaded.samples))
        return _report(counts, invalid_rows)

    def finish(self, source: str, report: ImportReport) -> ImportReport:
        """Record the import in the project, and return its report."""
        with self._project.database.writing() as connection:
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
        return report

    def _inspect(self, path: str) -> ImageFile | str:
        """Inspect an image, and the file at its stored path, which a transaction compares it with."""
        image = self.inspect_image(path)
        if not isinstance(image, str):
            with self._project.database.reading() as connection:
                self._is_lost(connection, image)
        return image

    def _is_lost(self, connection: sqlite3.Connection, file: ImageFile) -> bool:
        """Whether the stored path of an image differs, and the image is missing or changed there."""
        row = connection.execute("SELECT path FROM images WHERE sha256 = ?", (file.sha256,)).fetchone()
        path = self._project.image_path(row["path"]) if row else file.path
        if path == file.path:
            return False
        known = self.inspect_image(path)
        return isinstance(known, str) or known.sha256 != file.sha256

    def _update_path(self, connection: sqlite3.Connection, file: ImageFile) -> RowOutcome:
        """Change the stored path of a known image if it is lost there."""
        if not self._is_lost(connection, file):
            return "known"
        stored = self._project.stored_path(file.path)
        connection.execute("UPDATE images SET path = ? WHERE sha256 = ?", (stored, file.sha256))
        return "updated"

    def _add_sample(self, connection: sqlite3.Connection, sample: Sample, image: ImageFile | str) -> RowOutcome:
        """Add a sample; raises ``ValueError`` if it is invalid."""
        if isinstance(image, str):
            raise ValueError(image)
        project, now = self._project, datetime.now(UTC)
        item_id = make_item_id(image.sha256, sample.question, sample.choices)
        boxes = clip_imported_boxes(sample.boxes, image) if isinstance(sample, LabeledSample) else ()
        row = connection.execute("SELECT revision, status, boxes FROM items WHERE id = ?", (item_id,)).fetchone()
        if row is None:
            plain = Sample(**{name: getattr(sample, name) for name in Sample.model_fields})
            label = Label(revision=0, status="new", origin="none", at=now)
            project.insert_item(connection, Item(id=item_id, sample=plain, image=image, label=label))
            change: RowOutcome = "added"
        else:
            known = project.item(item_id).sample.answer
            if known != sample.answer:
                raise ValueError(
                    f"the project has this question about the same image with the answer {known!r}; "
                    f"the row has {sample.answer!r}: correct one of them"
                )
            change = self._update_path(connection, image)
        revision = row["revision"] if row else 0
        has_label = revision > 0 and not (row["status"] == "failed" and not row["boxes"])
        if boxes and not has_label:
            label = Label(revision=revision + 1, status="proposed", origin="imported", boxes=boxes, at=now)
            project.append_label(connection, item_id, label)
            change = "added" if row is None else "updated"
        if isinstance(sample, GoldSample) and sample.gold_boxes:
            connection.execute(
                "INSERT INTO gold_boxes (item, boxes) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (item_id, BOXES.dump_json(sample.gold_boxes).decode()),
            )
        return change


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


def _check_item(item: Item, image: ImageFile | str) -> Item:
    """Check an item of another project, and clip its boxes; raises ``ValueError`` if it is invalid."""
    if isinstance(image, str):
        raise ValueError(image)
    if image.sha256 != item.image.sha256 or image.wh != item.image.wh:
        raise ValueError("image content differs from the exported label")
    if item.id != make_item_id(image.sha256, item.sample.question, item.sample.choices):
        raise ValueError("the id does not match image, question and choices")
    labels = (*item.history, item.label)
    if [label.revision for label in labels] != list(range(len(labels))):
        raise ValueError("review history is incomplete (revisions missing)")
    # The domain comes from the file, not from the record.
    known = item.image.model_copy(update={"domain": image.domain})
    *history, label = (label.model_copy(update={"boxes": clip_imported_boxes(label.boxes, known)}) for label in labels)
    return item.model_copy(update={"image": known, "label": label, "history": tuple(history)})


def _list_classes(labels: Iterable[tuple[Box, ...]]) -> Iterator[str]:
    """Classes of boxes from another tool; too long texts are ignored."""
    for boxes in labels:
        for box in boxes:
            if box.label and len(name := class_name(box)) <= MAX_CLASS_CHARS:
                yield name


def _report(counts: Counter[RowOutcome], invalid_rows: Sequence[InvalidRow]) -> ImportReport:
    kept = tuple(invalid_rows[:MAX_KEPT_INVALID_ROWS])
    return ImportReport(counts["added"], counts["updated"], counts["known"], len(invalid_rows), kept)
