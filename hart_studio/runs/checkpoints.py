"""Checkpoints that are whole or not there: ``complete.json`` is written last, removed first, and lists the files."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import AwareDatetime, Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file, resolve_inside, write_json
from hart_studio.records import Record
from hart_studio.runs.layout import RunLayout, read_step
from hart_studio.symlinks import unlink_symlink

MANIFEST_FILE: Final = "complete.json"
"""The file that makes a folder a checkpoint."""


class CheckpointManifest(Record):
    """What ``complete.json`` holds."""

    step: int = Field(ge=0)
    """Steps done, counted through all stages."""
    stage: str
    """Stage of the chain that it was saved in."""
    at: AwareDatetime
    """When it was complete, UTC."""
    is_kept: bool
    """Whether pruning spares it, as it does the end of a stage."""
    files: dict[str, int]
    """Path below the folder -> size in bytes, of everything that was saved."""


class Checkpoint(NamedTuple):
    """A complete checkpoint."""

    folder: Path
    """Holds a model in the layout of the Hugging Face hub, and the state of the optimizer."""
    manifest: CheckpointManifest
    """Its manifest."""


def begin_checkpoint(layout: RunLayout, step: int) -> Path:
    """The empty folder to save the checkpoint of a step into; what stood there before is removed.

    Raises:
        InputError: If the folder of the checkpoints is a link.
    """
    if layout.checkpoints.is_symlink():
        raise InputError(f"The folder {layout.checkpoints} is a symbolic link. Nothing was written. Remove the link.")
    folder = layout.checkpoint_of(step)
    unlink_symlink(folder)
    if folder.exists():
        _remove(folder)
    folder.mkdir(parents=True)
    return folder


def complete_checkpoint(layout: RunLayout, step: int, stage: str, is_kept: bool = False) -> Checkpoint:
    """Declare the saved files of a step a checkpoint."""
    folder = layout.checkpoint_of(step)
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    manifest = CheckpointManifest(step=step, stage=stage, at=datetime.now(UTC), is_kept=is_kept, files=files)
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
    return Checkpoint(folder, manifest)


def list_checkpoints(layout: RunLayout) -> list[Checkpoint]:
    """The complete checkpoints, oldest first. A folder with a file missing or of another size is not among them."""
    folders = sorted((step, folder) for folder, step in _step_folders(layout))
    return [found for _, folder in folders if (found := _read_checkpoint(folder)) is not None]


def newest_checkpoint(layout: RunLayout) -> Checkpoint | None:
    """The complete checkpoint of the latest step, to resume from or to show; None when there is none."""
    return next(reversed(list_checkpoints(layout)), None)


def find_damaged_checkpoints(layout: RunLayout) -> list[str]:
    """Names of checkpoint folders that were complete once and are not any more, oldest first.

    A folder without ``complete.json`` is not among them: its saving was interrupted, and nothing relied on it.
    """
    folders = sorted((step, folder) for folder, step in _step_folders(layout))
    return [
        folder.name
        for _, folder in folders
        if os.path.lexists(folder / MANIFEST_FILE) and _read_checkpoint(folder) is None
    ]


def find_resume_checkpoint(layout: RunLayout) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to resume from, and the names of the damaged ones that are skipped.

    Returns:
        The newest complete checkpoint, None for a run that has saved none yet; names of damaged ones.

    Raises:
        InputError: If every saved checkpoint is damaged. A restart from step 0 would overwrite them.
    """
    damaged = find_damaged_checkpoints(layout)
    newest = newest_checkpoint(layout)
    if damaged and newest is None:
        raise InputError(
            f"Every checkpoint of {layout.run_id} is damaged ({', '.join(damaged)}: files are missing or have another "
            f"size). Nothing was changed. Restore {layout.checkpoints} from a backup, or delete these folders to train "
            "from the beginning."
        )
    return newest, damaged


def prune_checkpoints(layout: RunLayout, keep: int) -> list[int]:
    """Remove what is not needed any more: old checkpoints, and broken ones older than the newest complete one.

    Args:
        layout: The run.
        keep: How many of the newest to leave, at least 1; those marked as kept stay and do not count.

    Returns:
        The steps whose folders were removed.
    """
    complete = list_checkpoints(layout)
    if not complete:
        return []
    passing = [found for found in complete if not found.manifest.is_kept]
    spared = {found.manifest.step for found in complete if found.manifest.is_kept}
    spared |= {found.manifest.step for found in passing[-max(1, keep) :]}
    newest = complete[-1].manifest.step
    removed = sorted(step for _, step in _step_folders(layout) if step < newest and step not in spared)
    for step in removed:
        _remove(layout.checkpoint_of(step))
    return removed


def _step_folders(layout: RunLayout) -> list[tuple[Path, int]]:
    """Folders that are named as a checkpoint is; a link is not a folder of this run."""
    if layout.checkpoints.is_symlink() or not layout.checkpoints.is_dir():
        return []
    return [
        (folder, step)
        for folder in layout.checkpoints.iterdir()
        if (step := read_step(folder.name)) is not None
        and folder == layout.checkpoint_of(step)
        and folder.is_dir()
        and not folder.is_symlink()
    ]


def _read_checkpoint(folder: Path) -> Checkpoint | None:
    try:
        manifest = CheckpointManifest.model_validate_json(read_regular_file(folder / MANIFEST_FILE))
        is_whole = all(resolve_inside(folder, name).stat().st_size == size for name, size in manifest.files.items())
    except (OSError, ValidationError, InputError):
        return None
    return Checkpoint(folder, manifest) if is_whole and manifest.step == read_step(folder.name) else None


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that it never looks complete while it goes."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)
