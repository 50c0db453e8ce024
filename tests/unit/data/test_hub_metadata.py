from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError

from hart_studio.data.columns import ColumnMapping
from hart_studio.data.hub_metadata import check_metadata, pin_revision
from hart_studio.data.hugging_face import load_hugging_face
from hart_studio.errors import DataError

CARD = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n# A\n"
YAML = "configs:\n- config_name: default\n  data_files: {}\n"
DIRECTORY = "---\nconfigs:\n- config_name: default\n  data_dir: {}\n---\n"
OUTSIDE = [
    "ftp://127.0.0.1/x.csv", "http://127.0.0.1/x", "hf://datasets/a/b/x.csv", "zip://x::http://127.0.0.1/a.zip",
    "/etc/passwd", "~/secret.csv", "../x.csv", "a/../../x.csv", "'C:\\x.csv'", "'\\\\host\\x'", "'a\\..\\x'",
    "' /etc/passwd'", "..",
]  # fmt: skip
INSIDE = ["data/train-*.parquet", "'**/*.csv'", "train.jsonl", "a..b/x.csv", "data/*/x?.json", "'*.[jc]s*'"]


def put(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("pattern", OUTSIDE)
@pytest.mark.parametrize(("name", "form"), [("README.md", CARD), ("README.md", DIRECTORY), (".huggingface.yaml", YAML)])
def test_a_file_outside_of_the_data_set_is_refused(tmp_path: Path, name: str, form: str, pattern: str) -> None:
    with pytest.raises(DataError, match="outside the dataset"):
        check_metadata("a/b", name, put(tmp_path, name, form.format(pattern)))


@pytest.mark.parametrize("pattern", INSIDE)
@pytest.mark.parametrize(("name", "form"), [("README.md", CARD), ("README.md", DIRECTORY), (".huggingface.yaml", YAML)])
def test_files_of_the_data_set_are_named_as_it_likes(tmp_path: Path, name: str, form: str, pattern: str) -> None:
    check_metadata("a/b", name, put(tmp_path, name, form.format(pattern)))


@pytest.mark.parametrize(
    "text",
    ["", "# no metadata", "---\n---\n", "---\nhomepage: http://x.example\nconfigs: 7\n---\n", "---\na: &a [*a]\n---\n",
     "---\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else 'a'}]\n" for n in range(20)) + "---\n"],
)  # fmt: skip
def test_cards_that_name_no_file(tmp_path: Path, text: str) -> None:
    check_metadata("a/b", "README.md", put(tmp_path, "README.md", text))


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\na: !!python/object:x.y {}\n---\n"])
def test_metadata_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        check_metadata("a/b", "README.md", put(tmp_path, "README.md", text))


def test_what_was_checked_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is pinned, so the owner of the dataset cannot replace its metadata in between."""
    asked: list[Any] = []
    card = put(tmp_path, "README.md", CARD.format("data/*.csv"))

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            return huggingface_hub.hf_api.DatasetInfo(id=name, sha=f"commit of {revision}", siblings=[])

    def download(name: str, file: str, repo_type: str, revision: str) -> str:
        asked.append((name, file, repo_type, revision))
        if file != "README.md":
            raise EntryNotFoundError("none")
        return str(card)

    def load(path: str, **given: Any) -> Any:
        asked.append(given)
        raise datasets.exceptions.DatasetNotFoundError("far enough")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="far enough"):
        load_hugging_face("a/b", tmp_path / "cache", ColumnMapping(), revision="v1")
    assert asked == [
        ("a/b", "README.md", "dataset", "commit of v1"), ("a/b", ".huggingface.yaml", "dataset", "commit of v1"),
        {"name": None, "revision": "commit of v1"},
    ]  # fmt: skip
    asked.clear()
    put(tmp_path, "README.md", CARD.format("ftp://127.0.0.1/x.csv"))
    with pytest.raises(DataError, match="is outside the dataset"):
        load_hugging_face("a/b", tmp_path / "cache", ColumnMapping())
    assert len(asked) == 1, "the library was not asked"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pin_revision("a/b", "v1") == "v1"
