"""The commands of ``python -m hart_studio.models``: tables, JSON, exit codes, downloads from a Hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from hart_studio.models import __main__ as command
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.machine_memory import DeviceMemory
from tests.repository_hub import RepositoryHub, serve_repositories

GPU = DeviceMemory("cuda:0", "NVIDIA L4", 22_000_000_000)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RepositoryHub]:
    monkeypatch.setattr(command, "list_device_memory", lambda: (GPU,))
    with serve_repositories(monkeypatch, tmp_path / "cache") as server:
        folder = Path(BUILT_IN_MODEL)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        server.repositories["models/me/tiny"] = files
        server.repositories["models/Qwen/Qwen3-VL-2B-Instruct"] = {**files, "model.bin": b"pickle"}
        server.repositories["models/me/other"] = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"}
        server.cards["models/me/tiny"] = {"license": "mit"}
        yield server


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = command.main(arguments)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_the_list_states_sizes_and_what_fits(hub: RepositoryHub, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "list")
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert code == 0
    assert lines["qwen2.5-vl-7b"].split()[1:] == (
        [
            "8.29",
            "B",
            "apache-2.0",
            "16.6",
            "GB",
            "16.6",
            "GB",
            "10.1",
            "GB",
            "6.9",
            "GB",
            "no",
            "bfloat16,",
            "8bit,",
            "4bit",
        ]
    )
    assert lines["qwen2.5-vl-72b"].endswith("no") and "see card" in lines["internvl3-8b"]
    assert "cuda:0 (NVIDIA L4): 22 GB free" in text
    assert not hub.requests


def test_check_of_a_catalog_model_says_what_fits(hub: RepositoryHub, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "check", "Qwen2.5-VL-7B", "--json")
    (model,) = json.loads(text)["models"]
    assert (code, model["fits"], model["location"]) == (0, ["bfloat16", "8bit", "4bit"], "hub")
    assert [row["weights_bytes"] for row in model["precisions"]][:2] == [33_168_666_624, 16_584_333_312]
    assert run(capsys, "check", "qwen2.5-vl-72b")[0] == 1


def test_check_of_a_folder_reads_its_config(hub: RepositoryHub, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "check", "built-in")
    assert code == 0
    assert "Qwen3-VL (supported)" in text and "only synthetic needle scenes" in text


def test_check_of_a_hub_model_downloads_only_its_settings(
    hub: RepositoryHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = run(capsys, "check", "me/tiny", "--json")
    (model,) = json.loads(text)["models"]
    assert (code, model["family"], model["license"], model["location"]) == (0, "Qwen3-VL", "mit", "partial")
    assert not [name for name in hub.requests if name.startswith("GET") and name.endswith("safetensors")]


def test_an_unsupported_or_unknown_model_fails_in_one_line(
    hub: RepositoryHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, reason in (
        ("me/other", "unsupported model_type 'bert'"),
        ("me/none", "The Hub has no model me/none"),
        ("nothing", "neither in the catalog"),
    ):
        code, text, error = run(capsys, "check", name)
        assert (code, text) == (1, "") and reason in error and error.count("\n") == 1


def test_a_download_by_name_is_complete_and_then_in_the_cache(
    hub: RepositoryHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, error = run(capsys, "download", "qwen3-vl-2b")
    assert code == 0 and "Qwen/Qwen3-VL-2B-Instruct is in " in text and "downloading" in error
    assert not [name for name in hub.requests if name.endswith("model.bin")]
    assert "already in the local cache" in run(capsys, "download", "qwen3-vl-2b")[1]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, text, _ = run(capsys, "list", "--json")
    found = {model["name"]: model["location"] for model in json.loads(text)["models"]}
    assert found["qwen3-vl-2b"] == "cache" and found["qwen3-vl-4b"] == "hub"
    code, _, error = run(capsys, "download", "qwen3-vl-4b")
    assert code == 1 and "Downloads are disabled" in error
