"""Files, sizes and license of a model or dataset repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import httpx2
import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hart_studio.errors import HubError
from hart_studio.progress import shorten_to_line

RepoKind = Literal["model", "dataset"]

REPO_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""Form of an id: ``owner/name``. A relative path may have this form too."""

_SAFE_PATH: Final = re.compile(r"(?!/)(?!(?:.*/)?\.\.(?:/|$))[^\0\\:]+", re.DOTALL)
"""Paths below a folder; the list of files comes from a server."""


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository.

    Attributes:
        path: Path below the root, with slashes.
        size: Size in bytes.
        sha256: Hash of the content of a large file; empty for a file that Git stores itself.
        git_sha1: Git's hash of a file that it stores itself (SHA-1 of a header and the content); otherwise empty.
    """

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        id: ``owner/name``.
        kind: Model or dataset.
        commit: Commit hash of the listed files.
        files: All files, by path.
        license: License identifier of the card; empty if it states none.
        is_gated: Whether downloads require that its terms are accepted.
    """

    id: str
    kind: RepoKind
    commit: str
    files: tuple[RepoFile, ...]
    license: str = ""
    is_gated: bool = False

    def select_files(self, patterns: Sequence[str] = ("*",), excluded: Sequence[str] = ()) -> tuple[RepoFile, ...]:
        """Select files by glob patterns; ``*`` also matches slashes, as in ``snapshot_download``.

        Args:
            patterns: A file matches at least one of them.
            excluded: A file matches none of them.
        """
        return tuple(file for file in self.files if is_selected(file.path, patterns, excluded))


def is_selected(path: str, patterns: Sequence[str], excluded: Sequence[str]) -> bool:
    """Whether a path matches one of the patterns and none of the excluded ones."""
    return any(fnmatchcase(path, each) for each in patterns) and not any(fnmatchcase(path, each) for each in excluded)


def is_offline() -> bool:
    """Whether downloads are disabled by ``HF_HUB_OFFLINE``."""
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)


def read_repository(repo_id: str, kind: RepoKind = "model", revision: str | None = None) -> Repository:
    """Ask the Hub for the files of a repository; no content is downloaded.

    Args:
        repo_id: ``owner/name``.
        kind: Model or dataset.
        revision: Branch, tag or commit; None = the newest commit.

    Raises:
        HubError: If the id is invalid, the repository or revision does not exist or is restricted, or the Hub cannot be
            reached.
    """
    if REPO_ID.fullmatch(repo_id) is None:
        raise HubError(f"{repo_id[:200]!r} is not a Hub id. Give an id such as owner/name.")
    with explain_errors(repo_id, kind):
        info: Any = huggingface_hub.HfApi().repo_info(repo_id, repo_type=kind, revision=revision, files_metadata=True)
    files = []
    for entry in info.siblings or ():
        if _SAFE_PATH.fullmatch(entry.rfilename) is None or entry.size is None:
            raise HubError(
                f"The Hub lists the file {entry.rfilename[:80]!r} of {repo_id} with an invalid path or without a "
                "size. Nothing was downloaded."
            )
        sha256 = entry.lfs.sha256 if entry.lfs is not None else ""
        files.append(RepoFile(entry.rfilename, entry.size, sha256, "" if sha256 else entry.blob_id or ""))
    card = info.card_data
    license_id = card.get("license") if card is not None else None
    return Repository(
        id=repo_id,
        kind=kind,
        commit=info.sha,
        files=tuple(sorted(files, key=lambda file: file.path)),
        license=", ".join(license_id) if isinstance(license_id, list) else str(license_id or ""),
        is_gated=bool(info.gated),
    )


@contextmanager
def explain_errors(repo_id: str, kind: RepoKind) -> Iterator[None]:
    """Turn errors of the Hub, the network and the disk into a ``HubError`` of one line.

    Args:
        repo_id: Id, for the message.
        kind: Model or dataset.
    """
    title = f"the {kind} {repo_id}"
    try:
        yield
    except HubError:
        raise
    except GatedRepoError as error:
        raise HubError(
            f"Access to {title} is restricted. Accept its terms on its Hub page, then log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"The revision of {title} does not exist. Check its name.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise HubError(
            f"The Hub has no {kind} {repo_id}, or it is private. Check the spelling, or log in with `hf auth login`."
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError(
            f"Downloads are disabled (HF_HUB_OFFLINE), so {title} cannot be downloaded. Unset the variable, or give a "
            "local folder."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        advice = "Log in with `hf auth login`, or set a valid HF_TOKEN." if status in {401, 403} else "Try again later."
        raise HubError(f"The Hub refused {title} with status {status}. {advice}") from error
    except (httpx2.HTTPError, LocalEntryNotFoundError) as error:
        raise HubError(
            f"The Hub cannot be reached for {title}: {_summarize(error)}. Check the connection, and repeat the "
            "command: complete files are kept."
        ) from error
    except (OSError, ValueError) as error:
        raise HubError(f"Cannot download {title}: {_summarize(error)}. Complete files are kept.") from error


def _summarize(error: Exception) -> str:
    return shorten_to_line(str(error), 200).rstrip(".") or type(error).__name__
