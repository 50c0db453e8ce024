"""Labeling run: a job in a run directory of the project, in batches of one transaction each.

The items of a run are stored when it is created, and an item is marked as done in the transaction that adds its label.
So a killed run resumes where it ended, without lost or repeated items.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Final

from pydantic import Field, ValidationError

from hart_studio.errors import DataError, ImageError, InputError, ModelError
from hart_studio.files import read_regular_file, write_json
from hart_studio.imaging import SourceImage
from hart_studio.labeling.calibration import Calibration
from hart_studio.labeling.calibration_lookup import ScoreBasis, describe_score_basis, get_calibration, score_label
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_locks import hold_run_lock
from hart_studio.labeling.records import REVIEWED_STATUSES, ImageFile, Item, ItemFilter, Label, LabelProvenance, Status
from hart_studio.labeling.self_verify import (
    MAX_CONSECUTIVE_FAILURES,
    Proposal,
    ProposalSettings,
    propose_safely,
)
from hart_studio.models.catalog import BUILT_IN_HART, resolve_model_name
from hart_studio.models.chat import ChatModel
from hart_studio.models.model_identity import identify_model
from hart_studio.models.model_loading import load_chat_model
from hart_studio.models.quantization import Quantization
from hart_studio.models.served_settings import ServedSettings
from hart_studio.progress import ProgressReporter
from hart_studio.records import Record
from hart_studio.runs.config_file import read_config_file
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import collect_provenance
from hart_studio.runs.writer import RunWriter, create_run

MODEL_FILE: Final = "model.json"
"""File in the run folder with the identity of the model, to detect a resume with other weights."""

MAX_ATTEMPTS: Final = 3
"""Maximum attempts for an item whose label changes while the run processes it. Project default."""

_CHANGED: Final = "The label changed while the run processed it, for example by an import. It was not replaced."
_PAUSE_SECONDS: Final = 0.2

LoadModel = Callable[..., ChatModel]
"""Loads a model by name and device, and by the keyword ``quantization``."""


class LabelingConfig(Record):
    """Settings of a labeling run, stored as ``config.json`` in the run folder inside the project."""

    model: str = Field(default=BUILT_IN_HART, min_length=1)
    """Folder, hub id, or built-in name; for a served model the name in records."""
    served: ServedSettings | None = None
    """Endpoint of a served model; None = run the model in this process."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    quantization: Quantization = "none"
    """Weights of the language model in 4 or 8 bits; ``none`` for a served model."""
    proposals: ProposalSettings = ProposalSettings()
    """How boxes are proposed: rollouts per question, their settings, box refinement."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the sampled turns."""
    batch: int = Field(default=16, ge=1, le=1024)
    """Items per batch, whose overviews and crops are in memory together. Not from the paper."""
    auto_accept: bool = True
    """Whether labels above the calibrated threshold are auto-accepted."""
    item_filter: ItemFilter = ItemFilter(statuses=("new", "failed"))
    """Items to label."""

    @property
    def model_name(self) -> str:
        """Model to load, or title of the served model."""
        return self.served.title if self.served else resolve_model_name(self.model)

    def describe_score_basis(self, project: Project) -> ScoreBasis:
        """Describe the source of the scores of such a run.

        Raises:
            DataError: If a calibration exists and cannot be read.
        """
        return describe_score_basis(self.model_name, project, self.proposals)


def prepare_run(project: Project, config: LabelingConfig) -> RunLayout:
    """Create a run with its list of items, ready to start.

    Raises:
        InputError: If no item matches the filter.
        DataError: If the project cannot be written.
    """
    clause, values = config.item_filter.to_sql()
    query = f"SELECT id FROM items WHERE {clause} ORDER BY number"  # noqa: S608 - placeholders only
    with project.database.reading() as connection:
        ids = [row["id"] for row in connection.execute(query, values)]
    if not ids:
        statuses = " or ".join(config.item_filter.statuses) or "any status"
        raise InputError(
            f"No item to label with status {statuses}. Import items, or choose other statuses: Items on the page, "
            "--status on the command line."
        )

    def write_items(layout: RunLayout) -> None:
        with project.database.writing() as connection:
            connection.execute(
                "INSERT INTO runs (id, at, model) VALUES (?, ?, ?)",
                (layout.run_id, datetime.now(UTC).isoformat(), config.model),
            )
            connection.executemany(
                "INSERT INTO predictions (run, item) VALUES (?, ?)", [(layout.run_id, item_id) for item_id in ids]
            )

    return create_run(project.runs, "labeling", config, "labeling", len(ids), write_items)


def delete_missing_run(project: Project, layout: RunLayout) -> None:
    """Remove a run from the project if its folder is gone because it failed before its first label."""
    if layout.folder.exists():
        return
    with project.database.writing() as connection:
        connection.execute("DELETE FROM predictions WHERE run = ? AND label IS NULL", (layout.run_id,))
        connection.execute(
            "DELETE FROM runs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM predictions WHERE run = runs.id)",
            (layout.run_id,),
        )


def read_config(layout: RunLayout) -> LabelingConfig:
    """Read the settings of a run.

    Raises:
        InputError: If they cannot be read.
    """
    try:
        return LabelingConfig.model_validate_json(read_config_file(layout))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"Cannot read the settings of the labeling run at {layout.config}. Start a new run."
        ) from error


def run_labeling(layout: RunLayout, load: LoadModel, progress: ProgressReporter | None = None) -> None:
    """Process the remaining items of a run. Stops after the current batch on request, and waits while paused.

    Raises:
        HartError: If the model or the project is unusable. Failing images and items are counted, and the run continues.
    """
    config = read_config(layout)
    project = Project(layout.folder.parents[1])  # the opened folder, even if it is a copy
    total = count_items(project, layout.run_id)
    with hold_run_lock(project, layout.run_id), RunWriter(layout, total, progress=progress) as run:
        served = config.served
        run.set_phase("loading the model")
        if served:
            model = load_chat_model(served.title, served=served, quantization=config.quantization)
        else:
            model = load(config.model_name, config.device, quantization=config.quantization)
        _check_model(layout, config)
        calibration = get_calibration(config.model_name, project.folder) if config.quantization == "none" else None
        done = total - count_items(project, layout.run_id, is_left=True)
        run.start(collect_provenance(getattr(model, "device_name", config.device)), done or None)
        notes = config.describe_score_basis(project)
        for caution in (*notes.warnings, *notes.cautions):
            run.warn(caution)
        if config.quantization != "none":
            run.warn("Labels get no score, because calibrations are made with unquantized weights.")
        run.set_phase("proposing the first boxes")
        failures = 0
        attempts: Counter[str] = Counter()
        while items := _next_items(project, layout.run_id, config.batch):
            _wait_while_paused(run, layout)
            if run.is_stop_requested:
                break
            started = time.monotonic()
            proposals = propose_items(model, items, _settings(config, done))
            failures = failures + len(items) if all(proposal.is_unexpected for proposal in proposals) else 0
            if failures >= MAX_CONSECUTIVE_FAILURES:
                raise ModelError(
                    f"The last {failures} items all failed: {proposals[-1].failure}. Fix the cause and resume the run."
                )
            attempts.update(item.id for item in items)
            labels = _save_labels(project, layout.run_id, config, items, proposals, calibration, attempts)
            kept = [label for label in labels if label]
            seconds = (time.monotonic() - started) / len(items)
            for item, label in zip(items, labels, strict=True):
                if label is None:
                    run.warn(f"{item.sample.id}: its label changed while the run processed it; retrying")
                elif label.status == "failed":
                    run.warn(f"{item.sample.id}: {label.note}")
            run.set_phase("")
            if kept:
                done += len(kept)
                run.log_step(done, "", summarize(kept, seconds))
        project.sample_audit()


def _check_model(layout: RunLayout, config: LabelingConfig) -> None:
    """Refuse to resume a run with other model files, because its records would mix two models.

    Raises:
        DataError: If the files changed since the first attempt.
    """
    if config.served is not None:
        return
    identity = identify_model(config.model_name)
    path = layout.folder / MODEL_FILE
    if not path.exists():
        write_json(path, identity._asdict())
        return
    began = json.loads(read_regular_file(path))
    if (began.get("digest"), began.get("revision")) != (identity.digest, identity.revision):
        raise DataError(
            f"The files of the model {config.model_name} changed since the run {layout.run_id} started. No item was "
            "labeled with them. Restore the model, or start a new run for the remaining items."
        )


def propose_items(model: ChatModel, items: Sequence[Item], settings: ProposalSettings) -> list[Proposal]:
    """Propose boxes for a batch. An imported label is verified as it is; other labels are proposed again."""
    # Keyed by content: if an image file was replaced and imported again, items of both images share a path.
    files = {item.image.sha256: item.image for item in items}
    samples = [item.sample.model_copy(update={"id": item.id, "image": item.image.sha256}) for item in items]
    given = [item.label.boxes if item.label.origin == "imported" else () for item in items]
    return propose_safely(model, samples, settings, given, lambda key: open_verified_image(files[key]))


def open_verified_image(file: ImageFile) -> SourceImage:
    """Open the image of an item, and check by its SHA-256 that it is unchanged since the import.

    Raises:
        ImageError: If it is missing, unreadable or changed.
    """
    image = SourceImage(file.path)
    if image.wh != (file.width, file.height):
        got = f"expected {file.width} x {file.height} pixels, got {image.width} x {image.height}"
    elif image.compute_sha256() != file.sha256:
        got = "same size, but another SHA-256"
    else:
        return image
    raise ImageError(f"{image.name!r}: image changed since import: {got}. Restore the file, or import it again.")


def count_items(project: Project, run_id: str, *, is_left: bool = False) -> int:
    """Number of items of a run: all, or the remaining ones."""
    query = "SELECT COUNT(*), COUNT(label) FROM predictions WHERE run = ?"
    with project.database.reading() as connection:
        total, done = connection.execute(query, (run_id,)).fetchone()
    return int(total - done if is_left else total)


def summarize(labels: Sequence[Label], seconds: float) -> dict[str, float]:
    """Compute metrics of a batch, separately for known answers and agreement."""
    found = {
        "items": float(len(labels)),
        "failed": float(sum(label.status == "failed" for label in labels)),
        "auto_accepted": float(sum(label.status == "auto_accepted" for label in labels)),
        "uncalibrated": float(sum(label.is_uncalibrated for label in labels)),
        "seconds_per_item": seconds,
    }
    for kind in ("known_answer", "agreement"):
        checks = [label.check for label in labels if label.check and label.check.kind == kind]
        if checks:
            found[f"{kind}/verified"] = fmean(float(check.crops_correct is True) for check in checks)
            found[f"{kind}/sufficiency"] = fmean(check.sufficiency or 0.0 for check in checks)
            areas = [
                check.area_share for check in checks if check.area_share
            ]  # only labels with a box, as in the tables
            found |= {f"{kind}/area_share": fmean(areas)} if areas else {}
    return found


def _settings(config: LabelingConfig, done: int) -> ProposalSettings:
    """Settings with a separate seed per batch."""
    loop = config.proposals.loop.model_copy(update={"seed": config.seed + done})
    return config.proposals.model_copy(update={"loop": loop})


def _next_items(project: Project, run_id: str, limit: int) -> list[Item]:
    with project.database.reading() as connection:
        rows = connection.execute(
            """SELECT items.id FROM predictions JOIN items ON items.id = predictions.item
            WHERE predictions.run = ? AND predictions.label IS NULL ORDER BY items.number LIMIT ?""",
            (run_id, limit),
        ).fetchall()
        return [project.item(row["id"]) for row in rows]


def _save_labels(
    project: Project,
    run_id: str,
    config: LabelingConfig,
    items: Sequence[Item],
    proposals: Sequence[Proposal],
    calibration: Calibration | None,
    attempts: Counter[str],
) -> list[Label | None]:
    """Add the labels of a batch in one transaction.

    Reviewed labels are kept. A label that changed since the item was read is kept too, because the proposal is not
    about its boxes: the run retries the item, or records a failure after ``MAX_ATTEMPTS``. If an item with a label
    fails, it keeps the label; the failure is recorded in the predictions of the run.

    Returns:
        Label of each item; None = retry.
    """
    labels: list[Label | None] = []
    with project.database.writing() as connection:
        for item, proposal in zip(items, proposals, strict=True):
            current = project.item(item.id)
            now, found = current.label, proposal
            if now.revision != item.label.revision and now.status not in REVIEWED_STATUSES:
                if attempts[item.id] < MAX_ATTEMPTS:
                    labels.append(None)
                    continue
                found = Proposal(item.id, (), None, _CHANGED)
            label = _make_label(run_id, config, current, found, calibration)
            _mark_done(connection, run_id, item.id, label)
            if now.status not in REVIEWED_STATUSES and not (found.failure and _has_label(now)):
                project.append_label(connection, item.id, label)
            labels.append(label)
    return labels


def _has_label(label: Label) -> bool:
    """Whether an item has a label of an earlier run or another tool, which a failure must not replace."""
    return label.status not in {"new", "failed"} or bool(label.boxes)


def _mark_done(connection: sqlite3.Connection, run_id: str, item_id: str, label: Label) -> None:
    connection.execute(
        "UPDATE predictions SET label = ? WHERE run = ? AND item = ?", (label.model_dump_json(), run_id, item_id)
    )


def _make_label(
    run_id: str, config: LabelingConfig, item: Item, proposal: Proposal, calibration: Calibration | None
) -> Label:
    check = proposal.check
    label_score = score_label(calibration, item.sample, item.image.domain, proposal, config.proposals)
    status: Status = "proposed"
    if proposal.failure:
        status = "failed"
    elif config.auto_accept and calibration and calibration.auto_accepts(check, label_score.score):
        status = "auto_accepted"
    loop, rollouts = config.proposals.loop, config.proposals.rollouts
    return Label(
        revision=item.label.revision + 1,
        status=status,
        origin="imported" if proposal.is_given else "model",
        boxes=proposal.boxes,
        score=label_score.score,
        uncalibrated=label_score.uncalibrated,
        check=check,
        provenance=LabelProvenance(
            model=config.model,
            run_id=run_id,
            rollouts=rollouts,
            temperature=loop.temperature,
            seed=config.seed,
            is_refined=config.proposals.refinement is not None,
        ),
        at=datetime.now(UTC),
        note=proposal.failure,
    )


def _wait_while_paused(run: RunWriter, layout: RunLayout) -> None:
    while layout.pause.exists() and not run.is_stop_requested:
        run.heartbeat()
        time.sleep(_PAUSE_SECONDS)
