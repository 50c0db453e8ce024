from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.review_history import ProgressCallback
from hart_studio.ui.api import bulk_jobs
from hart_studio.ui.api.bulk_jobs import BulkJobs


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return create_project(tmp_path / "p", "p")


def test_a_short_one_is_answered_at_once(project: Project) -> None:
    def work(report: ProgressCallback) -> str:
        report(3, 1)
        return "done"

    job = BulkJobs().start(project, "accept", 4, work)
    assert json.loads(json.dumps(job.to_dict())) == {
        "kind": "accept", "total": 4, "done": 3, "skipped": 1, "summary": "done", "error": "", "is_over": True,
    }  # fmt: skip


def test_a_long_one_is_polled_and_keeps_others_out(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_jobs, "WAIT_SECONDS", 0.01)
    goes_on, jobs = threading.Event(), BulkJobs()

    def work(report: ProgressCallback) -> str:
        report(1, 0)
        goes_on.wait(20)
        return "done"

    job = jobs.start(project, "accept", 2, work)
    assert not job.is_over and jobs.last(project) is job
    with pytest.raises(InputError, match="A bulk accept is running"):
        jobs.start(project, "undo", 0, work)
    goes_on.set()
    assert job.ended.wait(20) and job.summary == "done"
    assert jobs.start(project, "undo", 0, lambda report: "again").is_over


def test_errors_are_reported(project: Project) -> None:
    def refuse(report: ProgressCallback) -> str:
        raise InputError("storage full")

    def vanish(report: ProgressCallback) -> str:
        raise FileNotFoundError(2, "gone", "/home/someone/secret")

    jobs = BulkJobs()
    assert jobs.start(project, "accept", 2, refuse).error == "storage full"
    assert "secret" not in jobs.start(project, "accept", 2, vanish).error
    last = jobs.last(project)
    assert last is not None and last.is_over


def test_a_fault_of_the_program_ends_it(project: Project) -> None:
    def fail(report: ProgressCallback) -> str:
        raise RuntimeError("secret")

    job = BulkJobs().start(project, "accept", 2, fail)
    assert job.is_over and "This is a bug" in job.error and "secret" not in job.error
