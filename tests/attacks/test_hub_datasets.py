"""Hub data sets whose cells contain URLs and paths of the server."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from hart_studio.data import hugging_face
from hart_studio.data.columns import ColumnMapping
from hart_studio.data.hugging_face import load_hugging_face
from hart_studio.errors import DataError
from tests.images import encoded, landmark

IMAGE = encoded(landmark(24, 16), "JPEG")
PRIVATE = "secret-of-the-server.png"
COLUMNS = ColumnMapping(id="id", choices="choices", gold_boxes="boxes", category="kind")

_opened: list[str] = []
_is_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_watching and (event == "socket.connect" or (event == "open" and PRIVATE in str(arguments[0]))):
        _opened.append(f"{event} {arguments[0]}")


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_watch)  # cannot be removed, so it does nothing outside of these tests


@pytest.fixture(autouse=True)
def nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Online like a server, with a separate folder for the library."""
    global _is_watching
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr(hugging_face, "pin_revision", lambda hub_id, revision: revision)
    _opened.clear()
    yield
    _is_watching = False
    assert _opened == []


def serve(monkeypatch: pytest.MonkeyPatch, table: datasets.Dataset) -> None:
    """Make the hub return this table; from here on nothing may be opened."""
    global _is_watching
    _is_watching = True
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict({"train": table}))


def make(feature: Any, value: Any, column: str) -> datasets.Dataset:
    text = datasets.Value("string")
    features = {
        "image": datasets.Image(decode=False),
        "id": text,
        "question": text,
        "answer": text,
        "choices": datasets.List(text),
        "boxes": datasets.List(datasets.List(datasets.Value("float64"))),
        "kind": text,
    }
    row = {
        "image": {"bytes": IMAGE, "path": None},
        "id": "a",
        "question": "What?",
        "answer": "A",
        "choices": ["red", "blue"],
        "boxes": [[0.0, 0.0, 9.0, 9.0]],
        "kind": "k",
    }
    features[column], row[column] = feature, value
    schema = datasets.Features(features)
    return datasets.Dataset(pyarrow.Table.from_pylist([row], schema=schema.arrow_schema))


def place(kind: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / PRIVATE).write_bytes(IMAGE)
    address = {"ftp": "ftp://127.0.0.1:9/x.png", "http": "http://127.0.0.1:9/x.png", "file": str(tmp_path / PRIVATE)}
    return {"bytes": None, "path": address[kind]}


@pytest.mark.parametrize("kind", ["ftp", "http", "file"])
@pytest.mark.parametrize("column", ["id", "question", "answer", "choices", "boxes", "kind"])
def test_images_outside_of_the_image_column_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, kind: str
) -> None:
    is_list = column in ("choices", "boxes")
    feature = datasets.List(datasets.Image()) if is_list else datasets.Image()
    value = place(kind, tmp_path)
    serve(monkeypatch, make(feature, [value] if is_list else value, column))
    with pytest.raises(DataError, match=f"The column '{column}' of the dataset a/b contains images or other media"):
        load_hugging_face("a/b", tmp_path / "cache", COLUMNS)


@pytest.mark.parametrize(
    "feature",
    [
        datasets.Audio(),
        datasets.Video(),
        datasets.Pdf(),
        datasets.Image(decode=False),
        datasets.List({"deep": datasets.List(datasets.Image())}),
    ],
    ids=["audio", "video", "pdf", "not decoded", "nested"],
)
def test_media_at_any_depth_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feature: Any) -> None:
    value: Any = place("file", tmp_path)
    is_nested = isinstance(feature, datasets.List)
    serve(monkeypatch, make(feature, [{"deep": [value]}] if is_nested else value, "question"))
    with pytest.raises(DataError, match="The column 'question' of the dataset a/b contains"):
        load_hugging_face("a/b", tmp_path / "cache", COLUMNS)


@pytest.mark.parametrize("kind", ["ftp", "http", "file"])
@pytest.mark.parametrize("form", ["image", "list", "nested", "audio"])
def test_nothing_in_the_image_column_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, kind: str
) -> None:
    value = place(kind, tmp_path)
    feature, cell = {
        "image": (datasets.Image(), value),
        "list": (datasets.List(datasets.Image()), [value]),
        "nested": ({"bytes": datasets.Image(), "path": datasets.Image()}, {"bytes": value, "path": value}),
        "audio": (datasets.Audio(), value),
    }[form]
    serve(monkeypatch, make(feature, cell, "image"))
    with pytest.raises(DataError):
        load_hugging_face("a/b", tmp_path / "cache", COLUMNS, image_root=tmp_path / "images")


def test_a_good_data_set_of_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, make(datasets.Image(), {"bytes": IMAGE, "path": "x.jpg"}, "image"))
    (sample,) = load_hugging_face("a/b", tmp_path / "cache", COLUMNS).samples
    assert (sample.id, sample.question, sample.choices, sample.answer) == ("a", "What?", ("red", "blue"), "A")
    assert Path(sample.image).read_bytes() == IMAGE and len(sample.gold_boxes) == 1
