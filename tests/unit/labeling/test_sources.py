from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart_studio.data.columns import Columns
from hart_studio.errors import InputError
from hart_studio.labeling.sources import SourceSettings, guess_kind, load_source, map_columns
from hart_studio.needle.dataset import iterate_items, write_item
from hart_studio.needle.scenes import SceneSettings
from hart_studio.records import GoldSample


@pytest.fixture(scope="module")
def needle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("needle")
    (folder / "images").mkdir()
    for item in iterate_items("val", 3, settings=SceneSettings(width=512, height=384)):
        write_item(item, folder)
    return folder


def test_our_own_form_is_told_from_a_table(needle: Path, tmp_path: Path) -> None:
    assert guess_kind(str(needle)) == "questions"
    assert guess_kind(str(needle / "samples.jsonl")) == "questions"
    row = {"image": "a.png", "question": "?", "answer": "x", "choices": "red\nblue", "id": 1}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert guess_kind(str(tmp_path / "t.jsonl")) == "table"


def test_kinds_by_path(needle: Path, tmp_path: Path) -> None:
    assert guess_kind(str(needle / "images")) == "pictures"
    (tmp_path / "z.zip").write_bytes(b"PK")
    assert guess_kind(str(tmp_path / "z.zip")) == "pictures"
    assert guess_kind("org/data-set") == "hugging_face"
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [roi]")
    assert guess_kind(str(tmp_path / "yolo")) == "yolo"


@pytest.mark.parametrize("name", ["gone.txt", "/gone/away", "../x", "a/b/c"])
def test_what_cannot_be_told(name: str) -> None:
    with pytest.raises(InputError, match="expected a file, a folder or a hub id"):
        guess_kind(name)


def test_questions_keep_their_gold_boxes_apart(needle: Path, tmp_path: Path) -> None:
    loaded = load_source(str(needle), tmp_path / "cache", SourceSettings())
    assert len(loaded.samples) == 3
    assert all(isinstance(sample, GoldSample) for sample in loaded.samples)


def test_pictures_need_a_question(needle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a question to ask"):
        load_source(str(needle / "images"), tmp_path, SourceSettings())
    settings = SourceSettings(question="Which colour is {name}?", choices=("red", "blue"))
    assert len(load_source(str(needle / "images"), tmp_path, settings).samples) == 3


def test_mapped_columns() -> None:
    names = ["image", "question", "answer", "photo", "A", "B"]
    assert map_columns(names, {}).choices == ("A", "B")
    assert map_columns(names, {"image": "photo", "answer": ""}).answer is None
    assert map_columns(names, {"choices": "answer"}) == Columns(answer="answer", choices="answer")
    assert map_columns(names, {"choices": "B, A"}).choices == ("B", "A")
    with pytest.raises(InputError, match="expected one of image"):
        map_columns(names, {"picture": "photo"})
    with pytest.raises(InputError, match="a column for question"):
        map_columns(names, {"question": ""})
