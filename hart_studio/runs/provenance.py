"""Where a run came from: enough to say later which code, libraries and data made a figure."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from hart_studio import __version__
from hart_studio.records import Record
from hart_studio.runs.redaction import keep_environment, redact_command

_PROJECT: Final = Path(__file__).resolve().parents[2]
_LIBRARIES: Final = (
    "accelerate",
    "datasets",
    "gradio",
    "numpy",
    "peft",
    "pillow",
    "pydantic",
    "torch",
    "transformers",
    "trl",
)


class Provenance(Record):
    """What ``provenance.json`` holds, and what every ``started`` event repeats for its attempt."""

    git_commit: str | None
    """Commit of the project's own checkout; None when it is not one."""
    has_local_changes: bool | None
    """Whether tracked files differed from that commit; None without one."""
    versions: dict[str, str]
    """Python, HART Studio and the libraries that are installed; taken from their metadata, without import."""
    platform: str
    """Operating system and processor."""
    argv: tuple[str, ...]
    """The command line, without secrets."""
    environment: dict[str, str]
    """Variables that change what is computed, such as CUDA_VISIBLE_DEVICES, without secrets."""
    device: str
    """What the model runs on, in the caller's words."""
    data_fingerprint: str
    """Digest of the samples, from the caller; empty when there is none."""


def collect_provenance(device: str, data_fingerprint: str = "") -> Provenance:
    """The provenance of this process.

    Args:
        device: What the model runs on, such as ``cuda: NVIDIA L4``.
        data_fingerprint: Digest of the samples.
    """
    commit = _find_commit(_PROJECT)
    return Provenance(
        git_commit=commit,
        has_local_changes=bool(_run_git(_PROJECT, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        versions={"python": platform.python_version(), "hart_studio": __version__, **_find_versions()},
        platform=platform.platform(),
        argv=tuple(redact_command([sys.executable, *sys.orig_argv[1:]])),
        environment=keep_environment(),
        device=device,
        data_fingerprint=data_fingerprint,
    )


def _find_versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _find_commit(folder: Path) -> str | None:
    """The commit of a checkout whose top is this folder; a folder that only lies inside of another one has none."""
    top, _, commit = _run_git(folder, "rev-parse", "--show-toplevel", "HEAD").partition("\n")
    return commit.strip() if commit and Path(top).resolve() == folder.resolve() else None


def _run_git(folder: Path, *arguments: str) -> str:
    """What git prints; empty when it fails or is not installed."""
    try:
        output = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # a look must not block a commit
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return output.stdout if output.returncode == 0 else ""
