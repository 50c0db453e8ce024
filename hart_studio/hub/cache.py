"""What the local cache has of a repository. Never uses the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub.file_download import repo_folder_name

from hart_studio.hub.repository import REPO_ID, RepoKind

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class CachedSnapshot:
    """Files of a repository in the local cache, at one commit.

    Attributes:
        folder: Folder of the snapshot.
        commit: Commit hash.
        sizes: Path below the folder -> size in bytes; complete files only.
    """

    folder: Path
    commit: str
    sizes: dict[str, int]

    @property
    def total(self) -> int:
        """Total bytes."""
        return sum(self.sizes.values())


def cache_folder() -> Path:
    """Folder of the local cache (``HF_HUB_CACHE``); it may not exist yet."""
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def find_snapshot(repo_id: str, kind: RepoKind = "model", revision: str | None = None) -> CachedSnapshot | None:
    """Find a repository in the local cache.

    Args:
        repo_id: ``owner/name``; anything else is not in the cache.
        kind: Model or dataset.
        revision: Branch, tag or commit; None = the main branch when it was last downloaded.

    Returns:
        The files of the snapshot; None if the cache has none.
    """
    if REPO_ID.fullmatch(repo_id) is None:
        return None
    root = cache_folder() / repo_folder_name(repo_id=repo_id, repo_type=kind)
    commit = revision or "main"
    if _COMMIT.fullmatch(commit) is None:
        try:
            commit = (root / "refs" / commit).read_text("utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = root / "snapshots" / commit
    if _COMMIT.fullmatch(commit) is None or not folder.is_dir():
        return None
    # A link without a target is a file that was deleted from the cache.
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return CachedSnapshot(folder, commit, dict(sorted(sizes.items())))
