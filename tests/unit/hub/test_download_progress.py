"""Text of a download's progress, in a terminal and in a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from hart_studio.hub.download import DownloadProgress, plan_download
from hart_studio.hub.download_progress import DownloadRate, download_with_progress
from tests.repository_hub import RepositoryHub, serve_repositories


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RepositoryHub]:
    with serve_repositories(monkeypatch, tmp_path / "cache") as server:
        server.repositories["models/me/model"] = {"model.safetensors": b"x" * 50_000}
        yield server


def test_the_rate_counts_only_bytes_of_this_download() -> None:
    times = iter([0.0, 10.0, 20.0])
    rate = DownloadRate(lambda: next(times))
    assert rate.describe(DownloadProgress(1_000_000_000, 4_000_000_000)) == "1 GB of 4 GB"
    # 1 GB in 10 s; 2 GB are left
    text = rate.describe(DownloadProgress(2_000_000_000, 4_000_000_000))
    assert text == "2 GB of 4 GB, 100 MB/s, about 20 s left"
    assert rate.describe(DownloadProgress(4_000_000_000, 4_000_000_000)) == "4 GB of 4 GB, 150 MB/s"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_command_shows_the_download(hub: RepositoryHub, monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("sys.stderr", stream)
    download_with_progress(plan_download("me/model"))
    text = stream.getvalue()
    assert "downloading, 0 bytes of 50 kB" in text
    assert ("\r" in text) == is_terminal
