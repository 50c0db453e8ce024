"""Plan and run the download of a repository, with progress, cancellation and checksums.

A file whose connection breaks is resumed at its last block of 10 MiB. A download that was canceled or failed keeps its
complete files; the next one fetches the others.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import huggingface_hub
from tqdm import tqdm

from hart_studio.errors import HubError
from hart_studio.formatting import format_bytes
from hart_studio.hub.cache import cache_folder, find_snapshot
from hart_studio.hub.repository import RepoFile, RepoKind, Repository, explain_errors, read_repository

DISK_RESERVE_BYTES: Final = 256 * 2**20
"""Free space that a download leaves on the disk. Project default."""

_CONNECTIONS: Final = 4
_HASH_BLOCK_BYTES: Final = 2**20


class DownloadCanceledError(HubError):
    """The download was canceled."""


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would fetch.

    Attributes:
        repository: The repository at the commit to download.
        files: Selected files.
        missing: Those of them that are not on this machine.
        free_bytes: Free space on the disk of the target.
        folder: Folder for real files; None = the local cache of the Hub's library.
        revision: The requested branch, tag or commit.
    """

    repository: Repository
    files: tuple[RepoFile, ...]
    missing: tuple[RepoFile, ...]
    free_bytes: int
    folder: Path | None = None
    revision: str = "main"

    @property
    def total_bytes(self) -> int:
        """Size of the selected files."""
        return sum(file.size for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.missing)

    def check_disk(self) -> None:
        """Check the disk space.

        Raises:
            HubError: If the download does not fit the disk.
        """
        if self.missing and self.missing_bytes + DISK_RESERVE_BYTES > self.free_bytes:
            target = self.folder or cache_folder()
            variable = "HF_HOME" if self.folder is None else "HART_STUDIO_CACHE"
            raise HubError(
                f"Not enough disk space in {target}: {self.repository.id} needs {format_bytes(self.missing_bytes)} "
                f"more and {format_bytes(DISK_RESERVE_BYTES)} in reserve, {format_bytes(self.free_bytes)} are free. "
                f"Free some space, or set {variable} to a folder on another disk. Nothing was downloaded."
            )


@dataclass(frozen=True)
class DownloadProgress:
    """State of a running download.

    Attributes:
        done_bytes: Bytes of the selected files that are on this machine.
        total_bytes: Size of the selected files.
        file: The file that made the last progress; empty before the first.
    """

    done_bytes: int
    total_bytes: int
    file: str = ""


def plan_download(
    repo_id: str,
    kind: RepoKind = "model",
    *,
    patterns: Sequence[str] = ("*",),
    excluded: Sequence[str] = (),
    revision: str | None = None,
    folder: Path | None = None,
) -> DownloadPlan:
    """Ask the Hub for the files of a repository and compare them with this machine; nothing is downloaded.

    Args:
        repo_id: ``owner/name``.
        kind: Model or dataset.
        patterns: Glob patterns of the files to download.
        excluded: Glob patterns of files to leave out.
        revision: Branch, tag or commit; None = the newest commit.
        folder: Folder for real files; None = the local cache, which transformers and datasets read.

    Raises:
        HubError: See ``read_repository``; or no file matches the patterns. Without a connection, the message says what
            the cache has.
    """
    try:
        repository = read_repository(repo_id, kind, revision)
    except HubError as error:
        snapshot = find_snapshot(repo_id, kind, revision)
        has = f"{len(snapshot.sizes)} files ({format_bytes(snapshot.total)})" if snapshot else "nothing"
        raise HubError(f"{error} The local cache has {has} of it.") from error
    files = repository.select_files(patterns, excluded)
    if not files:
        raise HubError(f"No file of the {kind} {repo_id} matches {', '.join(patterns)}. Check the name.")
    if folder is None:
        snapshot = find_snapshot(repo_id, kind, repository.commit)
        sizes = snapshot.sizes if snapshot else {}
    else:
        sizes = {file.path: path.stat().st_size for file in files if (path := folder / file.path).is_file()}
    missing = tuple(file for file in files if sizes.get(file.path) != file.size)
    return DownloadPlan(repository, files, missing, _free_bytes(folder or cache_folder()), folder, revision or "main")


def run_download(
    plan: DownloadPlan,
    report: Callable[[DownloadProgress], None] = lambda _: None,
    is_canceled: Callable[[], bool] = lambda: False,
) -> Path:
    """Download the missing files of a plan.

    Every downloaded file is compared with its size and its hash on the Hub; one that differs is deleted. With Xet
    storage (``hf_xet``), a cancellation takes effect after the current files.

    Args:
        plan: From ``plan_download``.
        report: Called with the progress, from several threads but never at once.
        is_canceled: Asked at every block of some megabytes.

    Returns:
        The folder with the files: the snapshot in the cache, or the folder of the plan.

    Raises:
        DownloadCanceledError: If it was canceled.
        HubError: If the disk is too small, a file differs, or the Hub cannot be reached.
    """
    plan.check_disk()
    counter = _Counter(plan, report, is_canceled)
    counter.add("", 0)
    repository = plan.repository
    with (
        explain_errors(repository.id, repository.kind),
        ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="download") as pool,
    ):
        tasks = [pool.submit(_download_file, plan, file, counter) for file in plan.missing]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        except BaseException:  # also Ctrl+C
            counter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if plan.folder is None:
        _record_revision(plan)
    return plan.folder or cache_path(plan)


def cache_path(plan: DownloadPlan) -> Path:
    """Folder of the snapshot of a completed download in the local cache.

    Raises:
        HubError: If the cache does not have it.
    """
    snapshot = find_snapshot(plan.repository.id, plan.repository.kind, plan.repository.commit)
    if snapshot is None:
        raise HubError(f"The local cache does not have {plan.repository.id}. Repeat the download.")
    return snapshot.folder


class _Counter:
    """Counts the bytes of all threads, and stops them."""

    def __init__(
        self, plan: DownloadPlan, report: Callable[[DownloadProgress], None], is_canceled: Callable[[], bool]
    ) -> None:
        self._total = plan.total_bytes
        self._done = plan.total_bytes - plan.missing_bytes
        self._report = report
        self._is_canceled = is_canceled
        self._lock = threading.Lock()
        self._is_stopped = False

    def add(self, file: str, count: int) -> None:
        with self._lock:
            self._done += count
            if self._is_stopped or self._is_canceled():
                raise DownloadCanceledError("Download canceled. Complete files are kept; repeat it to get the others.")
            self._report(DownloadProgress(min(self._done, self._total), self._total, file))

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True


def _download_file(plan: DownloadPlan, file: RepoFile, counter: _Counter) -> None:
    """Download one file and compare it with the Hub."""
    counter.add(file.path, 0)
    counted = 0

    class ByteCounter(tqdm):  # type: ignore[misc]
        """The progress bar that the library updates; it draws nothing."""

        def __init__(self, *values: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*values, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal counted
            counted += int(n or 0)
            counter.add(file.path, int(n or 0))

    repository = plan.repository
    path = Path(
        huggingface_hub.hf_hub_download(
            repository.id,
            file.path,
            repo_type=repository.kind,
            revision=repository.commit,
            local_dir=plan.folder,
            tqdm_class=ByteCounter,
        )
    )
    counter.add(file.path, file.size - counted)  # an unsized or cached file
    _check_content(path, file, repository)


def _check_content(path: Path, file: RepoFile, repository: Repository) -> None:
    """Delete a file that differs from the Hub, so that it is not used and the next download fetches it."""
    size = path.stat().st_size
    expected = file.sha256 or file.git_sha1
    if size == file.size and (not expected or hash_file(path, is_git=not file.sha256) == expected):
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    reason = (
        "its checksum differs from the one on the Hub"
        if size == file.size
        else f"it has {size:,} bytes instead of {file.size:,}"
    )
    raise HubError(
        f"The file {file.path} of {repository.id} is damaged: {reason}. It was deleted. "
        "Repeat the download; if it fails again, a proxy may alter files."
    )


def hash_file(path: Path, *, is_git: bool) -> str:
    """Hash a file as the Hub does.

    Args:
        path: The file.
        is_git: Whether Git stores it: SHA-1 of ``blob SIZE``, a zero byte and the content. Otherwise SHA-256 of the
            content.
    """
    digest = hashlib.sha1(usedforsecurity=False) if is_git else hashlib.sha256()
    if is_git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _record_revision(plan: DownloadPlan) -> None:
    """Let the branch in the cache name this commit, so that an offline load finds it."""
    if plan.revision != plan.repository.commit and plan.files:
        path = cache_path(plan).parents[1] / "refs" / plan.revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plan.repository.commit, "utf-8")


def _free_bytes(folder: Path) -> int:
    folder = folder.resolve()
    return shutil.disk_usage(next(part for part in (folder, *folder.parents) if part.exists())).free
