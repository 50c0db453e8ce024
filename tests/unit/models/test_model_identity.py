from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hart_studio.models import model_identity
from hart_studio.models.catalog import BUILT_IN_MODEL, TRAINED_MODEL
from hart_studio.models.model_identity import BLOCK_BYTES, digest_model, identify_model


def write_model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    one = write_model(tmp_path / "a" / "model")
    same = write_model(tmp_path / "b" / "other-name")
    other = write_model(tmp_path / "c" / "model", b"WEIGHTS")
    assert digest_model(one) == digest_model(same) != digest_model(other)
    assert identify_model(str(one)) == ("model", digest_model(one), "")
    assert digest_model(Path(BUILT_IN_MODEL)) != digest_model(Path(TRAINED_MODEL))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"])
def test_every_file_that_decides_the_output_counts(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = digest_model(folder)
    (folder / name).write_text('{"a": 1}')
    assert digest_model(folder) != before


@pytest.mark.parametrize("name", ["README.md", "calibration.json", "training_log.jsonl"])
def test_no_other_file_counts(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = digest_model(folder)
    (folder / name).write_text("{}")
    assert digest_model(folder) == before


def test_weights_that_are_written_again_at_the_same_size_are_noticed(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = digest_model(folder)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert digest_model(folder) != before


def test_an_unchanged_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")
    before = digest_model(folder)
    monkeypatch.setattr(model_identity, "open_regular_file", None)
    assert digest_model(folder) == before


def test_large_files_are_hashed_at_their_edges_and_in_blocks_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_identity, "FULL_BYTES", 2**20)
    size = 64 * 2**20
    sparse = write_model(tmp_path / "a")
    with (sparse / "model.safetensors").open("wb") as file:
        file.truncate(size)
    before = digest_model(sparse)
    last = size - BLOCK_BYTES
    for place in (0, last * 500 // 1023, last * 700 // 1023, size - 1):
        changed = write_model(tmp_path / f"at-{place}")
        with (changed / "model.safetensors").open("wb") as file:
            file.truncate(size)
            file.seek(place)
            file.write(b"1")
        assert digest_model(changed) != before, place
    longer = write_model(tmp_path / "longer")
    with (longer / "model.safetensors").open("wb") as file:
        file.truncate(size + 1)
    assert digest_model(longer) != before


def test_an_adapter_is_known_together_with_its_base_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"lora")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = digest_model(adapter)
    shutil.rmtree(base)
    write_model(base, b"WEIGHTS of another model")
    assert digest_model(adapter) != before
    (adapter / "adapter_config.json").write_text("[")
    assert digest_model(adapter)


def test_a_folder_without_weights_has_no_digest(tmp_path: Path) -> None:
    assert digest_model(tmp_path) == ""
    (tmp_path / "config.json").write_text("{}")
    assert digest_model(tmp_path) == digest_model(tmp_path / "gone") == ""


def test_a_hub_model_is_known_by_its_id_and_its_revision_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--org--model" / "snapshots" / "c0ffee" / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(snapshot))
    assert identify_model("org/model") == ("org/model", "", "c0ffee")
    monkeypatch.undo()
    assert identify_model("org/this-model-is-not-in-the-cache").revision == ""
    assert identify_model("a model at http://127.0.0.1:1/v1").revision == ""
