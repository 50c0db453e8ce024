"""Data sets in folders that contain URLs, scripts and outside paths: no connection is made."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from hart_studio.data.columns import ColumnMapping
from hart_studio.data.hugging_face import load_hugging_face
from hart_studio.errors import HartError
from hart_studio.labeling.importing import import_source
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.sources import SourceSettings
from tests.attacks.targets import SECRET
from tests.images import encoded

IMAGE = encoded(Image.new("RGB", (24, 16), "navy"), "PNG")
COLUMNS = ColumnMapping(answer="answer")


class Listener:
    """Counts connections of any protocol."""

    def __init__(self) -> None:
        """Start listening."""
        self.count = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Online like a server: offline, the libraries would not try to connect."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    found = Listener()
    yield found
    found.close()
    assert found.count == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid data set of one row."""
    made = tmp_path / "set"
    made.mkdir()
    rows = [{"image": IMAGE, "question": "What?", "answer": "red"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), made / "train.parquet")
    return made


def add_metadata(folder: Path, address: str) -> None:
    (folder / ".huggingface.yaml").write_text(f"configs:\n- config_name: default\n  data_files: {address}\n")


def add_card(folder: Path, address: str) -> None:
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {address}\n"
        f"  data_dir: {address}\n---\n# x\n"
    )


def add_script(folder: Path, address: str) -> None:
    (folder / "set.py").write_text(f"import urllib.request\nurllib.request.urlopen({address!r})\n")


def add_infos(folder: Path, address: str) -> None:
    info = {"default": {"download_checksums": {address: {}}, "homepage": address, "builder_name": "csv"}}
    (folder / "dataset_infos.json").write_text(json.dumps(info))


@pytest.mark.parametrize("scheme", ["ftp", "http", "https", "hf", "sftp", "s3", "zip://x::http"])
@pytest.mark.parametrize("add", [add_metadata, add_card, add_script, add_infos])
def test_nothing_that_lies_beside_the_data_is_followed(
    folder: Path, tmp_path: Path, listener: Listener, add: Callable[[Path, str], None], scheme: str
) -> None:
    add(folder, f"{scheme}://{listener.place}/x.csv")
    loaded = load_hugging_face(str(folder), tmp_path / "cache", COLUMNS)
    assert [sample.question for sample in loaded.samples] == ["What?"]


@pytest.mark.parametrize("add", [add_metadata, add_card])
def test_an_uploaded_zip_does_not_make_the_server_connect(
    folder: Path, tmp_path: Path, listener: Listener, add: Callable[[Path, str], None]
) -> None:
    add(folder, f"ftp://{listener.place}/x.csv")
    (folder / "dataset_info.json").write_text("{}")  # by which a folder is taken for a data set
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    project = create_project(tmp_path / "p", "p")
    report = import_source(project, str(tmp_path / "set.zip"), SourceSettings(), lambda done, total: None)
    assert report.added == 1


def save(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["../other/data-00000-of-00001.arrow", "/other/data-00000-of-00001.arrow", "link.arrow", "pipe.arrow",
             "http://ADDRESS/x.arrow", "ftp://ADDRESS/x.arrow", "\0.arrow", "a" * 5000 + ".arrow"]
)  # fmt: skip
def test_a_saved_data_set_names_no_file_elsewhere(tmp_path: Path, listener: Listener, name: str) -> None:
    row = {"image": IMAGE, "question": SECRET, "answer": "x"}
    other, made = save(tmp_path / "other", [row]), save(tmp_path / "set", [{**row, "question": "What?"}])
    (made / "link.arrow").symlink_to(other / "data-00000-of-00001.arrow")
    os.mkfifo(made / "pipe.arrow")
    name = name.replace("ADDRESS", listener.place).replace("/other", str(other)) if name[0] != "." else name
    state = json.loads((made / "state.json").read_text())
    (made / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
    with pytest.raises(HartError) as reported:
        load_hugging_face(str(made), tmp_path / "cache", COLUMNS)
    assert SECRET not in str(reported.value)


@pytest.mark.parametrize("split", ["../other", "/other", "link", "http://ADDRESS", "file:///other"])
def test_splits_lie_in_the_data_set(tmp_path: Path, listener: Listener, split: str) -> None:
    other = save(tmp_path / "other", [{"image": IMAGE, "question": SECRET, "answer": "x"}])
    made = tmp_path / "set"
    made.mkdir()
    (made / "link").symlink_to(other)
    split = split.replace("ADDRESS", listener.place)
    split = split.replace("/other", str(other)) if not split.startswith("..") else split
    (made / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    with pytest.raises(HartError):
        load_hugging_face(str(made), tmp_path / "cache", COLUMNS)


def test_links_out_of_the_folder_are_no_data_files(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"image": "x.png", "question": SECRET, "answer": "x"}) + "\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.parquet").write_bytes((folder / "train.parquet").read_bytes())
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (folder / name).symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path / "more")
    os.mkfifo(folder / "pipe.parquet")
    loaded = load_hugging_face(str(folder), tmp_path / "cache", COLUMNS)
    assert [sample.question for sample in loaded.samples] == ["What?"]
    (folder / "train.parquet").unlink()
    with pytest.raises(HartError, match="no data files"):
        load_hugging_face(str(folder), tmp_path / "cache", COLUMNS)


def test_a_table_whose_columns_lie_in_another_file_is_refused(folder: Path, tmp_path: Path, listener: Listener) -> None:
    """Parquet allows columns in other files (``file_path``); the reader ignores them."""
    table = pyarrow.parquet.read_table(folder / "train.parquet")
    written: list[Any] = []
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, metadata_collector=written)
    metadata = written[0]
    metadata.set_file_path(f"ftp://{listener.place}/x.parquet")
    with (folder / "train.parquet").open("wb") as file:
        metadata.write_metadata_file(file)
    with pytest.raises(HartError):
        load_hugging_face(str(folder), tmp_path / "cache", COLUMNS)


@pytest.mark.parametrize("scheme", ["http", "ftp", "https"])
def test_images_that_are_addresses_are_invalid_rows(tmp_path: Path, listener: Listener, scheme: str) -> None:
    address = f"{scheme}://{listener.place}/x.png"
    rows = [
        {"image": image, "question": "What?", "answer": "x"} for image in (address, {"bytes": None, "path": address})
    ]
    for number, row in enumerate(rows):
        save(tmp_path / "set", [row])
        with pytest.raises(HartError, match="No valid rows"):
            load_hugging_face(str(tmp_path / "set"), tmp_path / "cache", COLUMNS)
        project = create_project(tmp_path / f"p{number}", "p")
        with pytest.raises(HartError):
            import_source(project, str(tmp_path / "set"), SourceSettings(), lambda done, total: None)


@pytest.mark.parametrize(
    "name",
    ["http://ADDRESS/x", "ftp://ADDRESS/x", "hf://datasets/x/y", "csv", "parquet", "//ADDRESS/x", "a/b/c", "../x"],
)
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_not_tried(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was tried")

    monkeypatch.setattr(datasets, "load_dataset", never)
    with pytest.raises(HartError, match="neither a folder nor a Hub id"):
        load_hugging_face(name.replace("ADDRESS", listener.place), tmp_path / "cache", COLUMNS)
