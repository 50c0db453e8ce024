from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from hart_studio.data import dataset_folders
from hart_studio.data.dataset_folders import find_splits, read_dataset_rows, read_first_names
from hart_studio.errors import DataError

ROWS = [{"question": "What?", "image": b"x", "choices": ["a", "b"], "answer": None, "n": n} for n in range(10)]


def write(path: Path, text: str = '{"a": 1}\n') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(folder: Path, config: str | None = None) -> dict[str, list[str]]:
    found = find_splits(folder, config)
    return {split: [path.relative_to(folder.resolve()).as_posix() for path in files] for split, files in found.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.jsonl"], {"train": ["a.jsonl"]}),
        (["a.jsonl", "b.jsonl"], {"train": ["a.jsonl", "b.jsonl"]}),
        (["train.jsonl", "test.jsonl"], {"test": ["test.jsonl"], "train": ["train.jsonl"]}),
        (["dev/a.jsonl", "x/eval-1.jsonl"], {"validation": ["dev/a.jsonl"], "test": ["x/eval-1.jsonl"]}),
        (
            ["data/lite-00000-of-00002.jsonl", "data/lite-00001-of-00002.jsonl", "data/train-00000-of-00001.jsonl"],
            {
                "lite": ["data/lite-00000-of-00002.jsonl", "data/lite-00001-of-00002.jsonl"],
                "train": ["data/train-00000-of-00001.jsonl"],
            },
        ),
        (["train.jsonl", "more.jsonl"], {"other": ["more.jsonl"], "train": ["train.jsonl"]}),
        (["contest.jsonl", "trainer.jsonl"], {"train": ["contest.jsonl", "trainer.jsonl"]}),
        (["a.csv", "b.csv", "c.jsonl"], {"train": ["a.csv", "b.csv"]}),
        (["a.csv", "c.jsonl"], {"train": ["c.jsonl"]}),
        (
            ["a.jsonl", ".hidden.jsonl", ".cache/b.jsonl", "__MACOSX/a.jsonl", "dataset_infos.json"],
            {"train": ["a.jsonl"]},
        ),
    ],
)
def test_files_are_found_by_their_endings_and_splits_by_their_names(
    tmp_path: Path, files: list[str], expected: dict[str, list[str]]
) -> None:
    for file in files:
        write(tmp_path / file)
    assert names(tmp_path) == expected


def test_a_configuration_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "en" / "train.jsonl")
    write(tmp_path / "de" / "train.jsonl")
    assert names(tmp_path, "de") == {"train": ["de/train.jsonl"]}
    for config in ("fr", "..", "/etc", "", "de/train.jsonl"):
        with pytest.raises(DataError):
            find_splits(tmp_path, config)


def test_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="contains no data files"):
        find_splits(tmp_path)
    write(tmp_path / "a.jsonl", "")
    with pytest.raises(DataError, match=r"a\.jsonl contain no rows"):
        read_first_names(find_splits(tmp_path)["train"])
    monkeypatch.setattr(dataset_folders, "MAX_FILES", 2)
    for number in range(3):
        write(tmp_path / f"{number}.jsonl")
    with pytest.raises(DataError, match="more than 2 files"):
        find_splits(tmp_path)


def write_arrow(path: Path, *, is_file: bool = False, **options: Any) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    new = pyarrow.ipc.new_file if is_file else pyarrow.ipc.new_stream
    with new(str(path), table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        for batch in table.to_batches(max_chunksize=4):
            writer.write_batch(batch)


@pytest.mark.parametrize("is_file", [False, True])
def test_arrow_files_of_both_formats(tmp_path: Path, is_file: bool) -> None:
    write_arrow(tmp_path / "a.arrow", is_file=is_file)
    files = find_splits(tmp_path)["train"]
    assert read_first_names(files) == list(ROWS[0])
    assert list(read_dataset_rows(files)) == [(f"row {n + 1}", row) for n, row in enumerate(ROWS)]


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_arrow_files_are_refused(tmp_path: Path, is_file: bool, compression: str) -> None:
    """A small one may unpack to any size."""
    write_arrow(tmp_path / "a.arrow", is_file=is_file, compression=compression)
    with pytest.raises(DataError, match="compressed"):
        list(read_dataset_rows(find_splits(tmp_path)["train"]))


@pytest.mark.parametrize("data", [b"", b"ARROW1\0\0", b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 16, b"x" * 100])
def test_arrow_files_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(DataError):
        read_first_names(find_splits(tmp_path)["train"])


def test_arrow_files_cut_anywhere_are_refused_or_end(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow")
    whole = (tmp_path / "a.arrow").read_bytes()
    for end in range(0, len(whole), 97):
        (tmp_path / "a.arrow").write_bytes(whole[:end])
        try:
            assert len(list(read_dataset_rows([tmp_path / "a.arrow"]))) <= len(ROWS)
        except DataError as error:
            assert "Arrow file" in str(error) or "compressed" in str(error)


def test_rows_of_several_files_say_which(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"x": 1}\nno json\n')
    write(tmp_path / "b.csv", "x\n1\n")
    rows = list(read_dataset_rows([tmp_path / "a.jsonl", tmp_path / "b.csv"]))
    assert [place for place, _ in rows] == ["a.jsonl, line 1", "a.jsonl, line 2", "b.csv, line 2"]
    assert isinstance(rows[1][1], ValueError)


def test_what_the_library_saved_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": made, "lite": made.select(range(3))}).save_to_disk(tmp_path / "d")
    made.save_to_disk(tmp_path / "s", num_shards=3)
    both = find_splits(tmp_path / "d")
    assert set(both) == {"train", "lite"}
    assert [row for _, row in read_dataset_rows(both["lite"])] == datasets.load_from_disk(tmp_path / "d")[
        "lite"
    ].to_list()
    files = find_splits(tmp_path / "s")["train"]
    assert len(files) == 3 and [row for _, row in read_dataset_rows(files)] == ROWS


@pytest.mark.parametrize(
    "state",
    [{}, [], {"_data_files": []}, {"_data_files": "x"}, {"_data_files": [7]}, {"_data_files": [{"filename": 7}]},
     {"_data_files": [{"filename": "a.parquet"}]}, {"_data_files": [{"filename": "gone.arrow"}]}, {"_data_files": 7}],
    ids=str,
)  # fmt: skip
def test_a_state_that_names_no_files(tmp_path: Path, state: Any) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError):
        find_splits(tmp_path)


@pytest.mark.parametrize("splits", [None, [], "train", [7], ["gone"], [""], ["/etc"], [".."]])
def test_splits_that_are_none(tmp_path: Path, splits: Any) -> None:
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(DataError):
        find_splits(tmp_path)
