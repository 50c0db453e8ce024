"""Downloads from a Hub on loopback: plans, progress, resume, checksums, cancellation, refusals."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from hart_studio.errors import HubError
from hart_studio.hub import download
from hart_studio.hub.cache import find_snapshot
from hart_studio.hub.download import (
    DownloadCanceledError,
    DownloadProgress,
    hash_file,
    plan_download,
    run_download,
)
from hart_studio.hub.repository import read_repository
from tests.repository_hub import COMMIT, RepositoryHub, serve_repositories

WEIGHTS = bytes(range(256)) * 400
CONFIG = b'{"model_type": "qwen2_5_vl"}'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RepositoryHub]:
    with serve_repositories(monkeypatch, tmp_path / "cache") as server:
        server.repositories["models/me/model"] = {
            "config.json": CONFIG,
            "model.safetensors": WEIGHTS,
            "original/model.bin": WEIGHTS,
        }
        server.repositories["datasets/me/data"] = {"train.tsv": b"a\tb\n"}
        server.cards["models/me/model"] = {"license": "apache-2.0"}
        yield server


def plan_model() -> download.DownloadPlan:
    return plan_download("me/model", patterns=["*.json", "*.safetensors"], excluded=["*/*"])


def test_a_repository_has_files_sizes_hashes_and_a_license(hub: RepositoryHub) -> None:
    found = read_repository("me/model")
    assert (found.commit, found.license, found.is_gated) == (COMMIT, "apache-2.0", False)
    assert {file.path: file.size for file in found.files} == {
        "config.json": 28,
        "model.safetensors": 102_400,
        "original/model.bin": 102_400,
    }
    assert [bool(file.sha256) for file in found.files] == [False, True, True]
    assert sum(hub.requests.values()) == 1


def test_a_download_fills_the_cache_and_reports_every_byte(hub: RepositoryHub) -> None:
    plan = plan_model()
    assert (plan.total_bytes, plan.missing_bytes) == (102_428, 102_428)
    seen: list[DownloadProgress] = []
    folder = run_download(plan, seen.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "original").exists()
    assert [each.done_bytes for each in seen] == sorted(each.done_bytes for each in seen)
    assert (seen[0].done_bytes, seen[-1].done_bytes, seen[-1].total_bytes) == (0, 102_428, 102_428)
    snapshot = find_snapshot("me/model")
    assert snapshot is not None and snapshot.sizes == {"config.json": 28, "model.safetensors": 102_400}
    assert plan_model().missing == ()


def test_a_download_is_found_offline_by_the_library(hub: RepositoryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_download(plan_model())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert huggingface_hub.try_to_load_from_cache("me/model", "config.json") == str(folder / "config.json")
    loaded = huggingface_hub.snapshot_download("me/model", allow_patterns=["*.safetensors"], local_files_only=True)
    assert Path(loaded) == folder


def test_a_dataset_goes_into_a_folder_of_its_own(hub: RepositoryHub, tmp_path: Path) -> None:
    plan = plan_download("me/data", "dataset", folder=tmp_path / "data")
    assert run_download(plan) == tmp_path / "data"
    assert (tmp_path / "data" / "train.tsv").read_bytes() == b"a\tb\n"
    assert plan_download("me/data", "dataset", folder=tmp_path / "data").missing == ()


def test_a_broken_connection_is_resumed_where_it_stopped(hub: RepositoryHub) -> None:
    hub.breaks["model.safetensors"] = 60_000
    folder = run_download(plan_model())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    (asked,) = hub.ranges["model.safetensors"]
    assert 0 < int(asked.removeprefix("bytes=").rstrip("-")) <= 60_000


def test_a_canceled_download_keeps_complete_files_and_continues(hub: RepositoryHub) -> None:
    hub.pauses["model.safetensors"] = threading.Event()
    canceled = threading.Event()

    def cancel_after_config(progress: DownloadProgress) -> None:
        if progress.done_bytes >= len(CONFIG):
            canceled.set()
            hub.pauses["model.safetensors"].set()

    with pytest.raises(DownloadCanceledError, match="Complete files are kept"):
        run_download(plan_model(), cancel_after_config, canceled.is_set)
    plan = plan_model()
    assert "model.safetensors" in {file.path for file in plan.missing}
    run_download(plan)
    assert plan_model().missing == ()


@pytest.mark.parametrize(("path", "content"), [("model.safetensors", WEIGHTS), ("config.json", CONFIG)])
def test_a_file_with_a_wrong_checksum_is_deleted(hub: RepositoryHub, path: str, content: bytes) -> None:
    hub.altered[path] = bytes([content[0] ^ 1]) + content[1:]
    with pytest.raises(HubError, match=rf"{path} of me/model is damaged: its checksum differs"):
        run_download(plan_model())
    assert path in {file.path for file in plan_model().missing}
    hub.altered.clear()
    assert (run_download(plan_model()) / path).read_bytes() == content


def test_a_file_with_a_wrong_size_is_an_error(hub: RepositoryHub) -> None:
    hub.listed_sizes["config.json"] = 99
    with pytest.raises(HubError, match="has 28 bytes instead of 99"):
        run_download(plan_model())


def test_a_full_disk_is_found_before_the_download(hub: RepositoryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    plan = plan_model()
    with pytest.raises(HubError, match="needs 102 kB more and 268 MB in reserve, 50 kB are free"):
        run_download(plan)
    assert not [name for name in hub.requests if "resolve" in name]


def test_restricted_and_unknown_repositories_are_one_clear_line(hub: RepositoryHub) -> None:
    hub.gated.add("models/me/model")
    assert read_repository("me/model").is_gated
    with pytest.raises(HubError, match="Access to the model me/model is restricted"):
        run_download(plan_model())
    with pytest.raises(HubError, match="The Hub has no dataset me/none, or it is private"):
        plan_download("me/none", "dataset")
    with pytest.raises(HubError, match="The revision of the model me/model does not exist"):
        plan_download("me/model", revision="v9")
    with pytest.raises(HubError, match=r"No file of the model me/model matches \*\.gguf"):
        plan_download("me/model", patterns=["*.gguf"])
    with pytest.raises(HubError, match="is not a Hub id"):
        read_repository("../secret")
    hub.token = "right"  # noqa: S105 - of the test
    with pytest.raises(HubError, match=r"Log in with|private"):
        plan_model()


def test_offline_the_error_says_what_the_cache_has(hub: RepositoryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"Downloads are disabled .* The local cache has nothing of it"):
        plan_model()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    run_download(plan_model())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"The local cache has 2 files \(102 kB\) of it"):
        plan_model()


def test_an_unreachable_hub_is_one_clear_line(hub: RepositoryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="The Hub cannot be reached for the model me/model") as caught:
        plan_model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["../out.json", "/etc/x", "a/../../b", "c:\\x"])
def test_paths_outside_the_repository_are_refused(hub: RepositoryHub, path: str) -> None:
    hub.repositories["models/me/model"][path] = b"x"
    with pytest.raises(HubError, match="invalid path"):
        plan_model()


def test_hashes_are_those_of_git_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert hash_file(tmp_path / "file", is_git=True) == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hash_file(tmp_path / "file", is_git=False).startswith("5891b5b522d5df086d0ff0b110fbd9d2")
