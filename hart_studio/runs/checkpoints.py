"""Atomic checkpoints: ``complete.json`` is written last, removed first, and lists the files."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import AwareDatetime, Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.files import open_regular_file, read_regular_file, resolve_inside, write_json
from hart_studio.records import Record
from hart_studio.runs.layout import RunLayout, read_step
from hart_studio.symlinks import unlink_symlink

MANIFEST_FILE: Final = "complete.json"
"""File that marks a complete checkpoint."""

DAMAGED_FILE: Final = "damaged.json"
"""Name of that file after the weights were found to differ from their checksums."""

WEIGHTS_SUFFIX: Final = ".safetensors"
"""Suffix of the files whose content is verified before a run resumes."""

_HASH_THREADS: Final = 4


class CheckpointManifest(Record):
    """Content of ``complete.json``."""

    step: int = Field(ge=0)
    """Steps done, counted across all stages."""
    stage: str
    """Training stage in which it was saved."""
    at: AwareDatetime
    """Completion time, UTC."""
    is_kept: bool
    """Whether pruning keeps it, such as the end of a stage."""
    files: dict[str, int]
    """Path below the folder -> size in bytes, of all saved files."""
    weights_sha256: dict[str, str] = Field(default_factory=dict)
    """Path below the folder -> SHA-256, hexadecimal, of the files with weights (safetensors); empty = not known."""


class Checkpoint(NamedTuple):
    """A complete checkpoint."""

    folder: Path
    """Folder with a model in Hugging Face format, and the optimizer state."""
    manifest: CheckpointManifest
    """Its manifest."""


def begin_checkpoint(layout: RunLayout, step: int) -> Path:
    """Create the empty folder for the checkpoint of a step; an existing one is removed.

    Raises:
        InputError: If the checkpoint folder is a link.
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
    """Mark the saved files of a step as a complete checkpoint."""
    folder = layout.checkpoint_of(step)
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    manifest = CheckpointManifest(
        step=step,
        stage=stage,
        at=datetime.now(UTC),
        is_kept=is_kept,
        files=files,
        weights_sha256=_hash_files(folder, [name for name in files if name.endswith(WEIGHTS_SUFFIX)]),
    )
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
    return Checkpoint(folder, manifest)


def list_checkpoints(layout: RunLayout) -> list[Checkpoint]:
    """List the complete checkpoints, oldest first. Folders with missing files or files of another size are excluded."""
    folders = sorted((step, folder) for folder, step in _step_folders(layout))
    return [found for _, folder in folders if (found := _read_checkpoint(folder)) is not None]


def newest_checkpoint(layout: RunLayout) -> Checkpoint | None:
    """Return the complete checkpoint of the latest step; None if there is none."""
    return next(reversed(list_checkpoints(layout)), None)


def find_damaged_checkpoints(layout: RunLayout) -> list[str]:
    """List the names of checkpoint folders that are no longer complete, oldest first.

    Folders without ``complete.json`` are excluded: saving was interrupted.
    """
    folders = sorted((step, folder) for folder, step in _step_folders(layout))
    return [
        folder.name
        for _, folder in folders
        if os.path.lexists(folder / MANIFEST_FILE) and _read_checkpoint(folder) is None
    ]


def find_resume_checkpoint(layout: RunLayout) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint to resume from, and the names of damaged ones that are skipped.

    The weights of the newest checkpoint are read and compared with their checksums; if they differ, those of the one
    before it, and so on. In the folders of the former ``complete.json`` is renamed to ``damaged.json``, so that pruning
    does not keep them in place of good ones.

    Returns:
        The newest complete checkpoint, None for a run without checkpoints; names of damaged checkpoints.

    Raises:
        InputError: If every saved checkpoint is damaged. A restart from step 0 would overwrite them.
    """
    damaged = find_damaged_checkpoints(layout)
    newest, changed = None, []
    for found in reversed(list_checkpoints(layout)):
        if _has_its_weights(found):
            newest = found
            break
        changed.append(found.folder)
    damaged = sorted([*damaged, *(folder.name for folder in changed)], key=lambda name: read_step(name) or 0)
    if damaged and newest is None:
        raise InputError(
            f"Every checkpoint of {layout.run_id} is damaged ({', '.join(damaged)}: files are missing, or have another "
            f"size or content). Nothing was changed. Restore {layout.checkpoints} from a backup, or delete them to "
            "train from step 0."
        )
    for folder in changed:
        with suppress(FileNotFoundError):  # another process of the run was faster
            (folder / MANIFEST_FILE).replace(folder / DAMAGED_FILE)
    return newest, damaged


def prune_checkpoints(layout: RunLayout, keep: int) -> list[int]:
    """Remove old checkpoints, and damaged ones older than the newest complete one.

    Args:
        layout: The run.
        keep: Number of newest checkpoints to keep, at least 1; those marked as kept do not count.

    Returns:
        The removed steps.
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
    """List folders with the name of a checkpoint; links are excluded."""
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


def _has_its_weights(checkpoint: Checkpoint) -> bool:
    """Whether the files with weights have the content that was saved."""
    expected = checkpoint.manifest.weights_sha256
    try:
        return _hash_files(checkpoint.folder, list(expected)) == expected
    except (OSError, ValueError, InputError):
        return False


def _hash_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files below a folder, hexadecimal; several are read at a time."""

    def hash_file(name: str) -> str:
        with open_regular_file(resolve_inside(folder, name)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return dict(zip(names, pool.map(hash_file, names), strict=True))


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that it never appears complete during removal."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)
