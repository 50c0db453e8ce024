"""Provenance of a run: code, libraries, data and device."""

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
    """Content of ``provenance.json``, repeated in the ``started`` event of each attempt."""

    git_commit: str | None
    """Commit of the project's git checkout; None if there is none."""
    has_local_changes: bool | None
    """Whether tracked files differed from that commit; None without one."""
    versions: dict[str, str]
    """Versions of Python, HART Studio and installed libraries, from their metadata, without import."""
    platform: str
    """Operating system and processor."""
    argv: tuple[str, ...]
    """The command line, without secrets."""
    environment: dict[str, str]
    """Environment variables that affect the computation, such as CUDA_VISIBLE_DEVICES, without secrets."""
    device: str
    """Device description, from the caller."""
    data_fingerprint: str
    """Digest of the samples, from the caller; empty if unknown."""


def collect_provenance(device: str, data_fingerprint: str = "") -> Provenance:
    """Collect the provenance of this process.

    Args:
        device: Device description, such as ``cuda: NVIDIA L4``.
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
    """Find the commit of a git checkout with this top folder; None for a subfolder of a checkout."""
    top, _, commit = _run_git(folder, "rev-parse", "--show-toplevel", "HEAD").partition("\n")
    return commit.strip() if commit and Path(top).resolve() == folder.resolve() else None


def _run_git(folder: Path, *arguments: str) -> str:
    """Output of git; empty if it fails or is not installed."""
    try:
        output = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # reading must not block a commit
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return output.stdout if output.returncode == 0 else ""
