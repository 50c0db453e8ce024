from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from hart_studio.data.benchmarks.published_files import fetch, find_tables, is_hub_id
from hart_studio.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path, *patterns: str, has_parts: bool = False) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_tables(folder, patterns, has_parts=has_parts)]


def test_shards_come_in_name_order(tmp_path: Path) -> None:
    touch(tmp_path, "data/train-00002.parquet", "data/train-00000.parquet", "data/train-00001.parquet", "README.md")
    assert names(tmp_path, "*.tsv", "*.parquet") == [f"data/train-0000{part}.parquet" for part in range(3)]


def test_the_first_pattern_that_fits_decides(tmp_path: Path) -> None:
    touch(tmp_path, "MMStar.tsv", "mmstar.parquet")
    assert names(tmp_path, "*.parquet", "*.tsv") == ["mmstar.parquet"]
    assert names(tmp_path, "*mmstar.tsv") == ["MMStar.tsv"]


def test_hidden_files_are_not_seen(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/huggingface/a.json", "b.json")
    assert names(tmp_path, "*.json") == ["b.json"]


def test_two_files_where_one_should_be(tmp_path: Path) -> None:
    touch(tmp_path, "a.json", "b.json")
    with pytest.raises(DataError, match=r"expected one file of questions in .*, got a.json, b.json; give the path"):
        names(tmp_path, "*.json")
    assert names(tmp_path, "*.json", has_parts=True) == ["a.json", "b.json"]


def test_a_folder_without_any_published_form(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"matches \*\.tsv, \*\.parquet"):
        names(tmp_path, "*.tsv", "*.parquet")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("yifanzhang114/MME-RealWorld", True),
        ("data", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("../b", False),
        ("a/..", False),
        ("a/b?", False),
        ("", False),
    ],
)
def test_what_is_a_hub_id(name: str, expected: bool) -> None:
    assert is_hub_id(name) is expected


def test_only_the_files_that_are_needed_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **asked: calls.append({"name": name, **asked})
    )
    folder = fetch("owner/name", ("*.parquet",), tmp_path, allow_download=True)
    fetch("owner/name", ("*.parquet",), tmp_path, allow_download=False)
    assert folder == tmp_path / "downloads" / "owner--name"
    assert calls[0] == {
        "name": "owner/name",
        "repo_type": "dataset",
        "local_dir": folder,
        "allow_patterns": ["*.parquet"],
        "local_files_only": False,
    }
    assert calls[1]["local_files_only"] is True


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("not there\nand more"), OSError("no net"), RuntimeError("proxy")]
)
def test_what_cannot_be_fetched_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=r"Cannot download the dataset 'owner/name': .* Check the name"):
        fetch("owner/name", ("*.parquet",), tmp_path, allow_download=True)


def test_nothing_is_asked_of_the_hub_without_leave(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot download the dataset"):
        fetch("owner/not-fetched-before", ("*.parquet",), tmp_path, allow_download=False)
