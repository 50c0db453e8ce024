from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hart_studio import __version__
from hart_studio.runs import provenance
from hart_studio.runs.provenance import collect_provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_versions_command_and_what_the_caller_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "hart_studio.training", "--token", "s3cret"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("HF_TOKEN", "s3cret-value")
    found = collect_provenance("cuda: NVIDIA L4", "abc123")
    assert (found.device, found.data_fingerprint) == ("cuda: NVIDIA L4", "abc123")
    assert found.versions["hart_studio"] == __version__
    assert {"python", "pydantic", "pillow"} <= set(found.versions)
    assert found.argv == (sys.executable, "-m", "hart_studio.training", "--token", "***")
    assert found.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "s3cret" not in found.model_dump_json()


def test_the_commit_is_that_of_the_projects_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "checkout"
    project.mkdir()
    monkeypatch.setattr(provenance, "_PROJECT", project)
    assert (collect_provenance("cpu").git_commit, collect_provenance("cpu").has_local_changes) == (None, None)
    git(project, "init", "-q")
    (project / "a.py").write_text("1")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    commit = git(project, "rev-parse", "HEAD").strip()
    assert (collect_provenance("cpu").git_commit, collect_provenance("cpu").has_local_changes) == (commit, False)
    (project / "a.py").write_text("2")
    assert collect_provenance("cpu").has_local_changes is True
    inner = project / "site-packages"
    inner.mkdir()
    monkeypatch.setattr(provenance, "_PROJECT", inner)
    assert collect_provenance("cpu").git_commit is None, "a folder inside of another checkout is not that project"


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert collect_provenance("cpu").git_commit is None


def test_no_library_is_imported_for_its_version() -> None:
    code = (
        "import sys; from hart_studio.runs.provenance import collect_provenance; collect_provenance('cpu');"
        "sys.exit(bool({'torch', 'transformers', 'gradio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
