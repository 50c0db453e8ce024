import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.sources import load_jsonl, load_mme_realworld, load_needle
from hart_studio.errors import DataError
from hart_studio.needle.dataset import iterate_items, write_item
from hart_studio.needle.scenes import SceneSettings
from hart_studio.records import MAX_QUESTION_CHARS, Box, GoldSample

GOOD: dict[str, Any] = {"id": "a", "image": "x.png", "question": "Which?", "choices": ["1", "2"], "answer": "B"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "set"
    path.mkdir()
    Image.new("RGB", (4, 3)).save(path / "x.png")
    return path


def write(folder: Path, *rows: object) -> Path:
    """A JSONL file; text is written as it is."""
    path = folder / "samples.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# JSONL --------------------------------------------------------------------------------------------------------------


def test_a_line_is_a_sample(folder: Path) -> None:
    full = {**GOOD, "id": 7, "kind": "detail", "category": "digit", "gold_boxes": [[0, 0, 2, 1.5]], "note": "own"}
    loaded = load_jsonl(write(folder, GOOD, "", full))
    first, second = loaded.samples
    assert loaded.invalid_rows == () and loaded.source == "set"
    path = str((folder / "x.png").resolve())
    assert first == GoldSample(
        id="a", image=path, question="Which?", choices=("1", "2"), answer="B", source="set", gold_boxes=()
    )
    assert (second.id, second.category) == ("7", "detail")
    assert second.gold_boxes == (Box.from_xyxy((0, 0, 2, 1.5)),)


def test_an_open_question_has_an_answer_in_words(folder: Path) -> None:
    path = write(folder, {**GOOD, "choices": [], "answer": 40}, {**GOOD, "id": "b", "choices": [], "answer": None})
    assert [sample.answer for sample in load_jsonl(path).samples] == ["40"]
    assert load_jsonl(path).invalid_rows[0].reason == "no answer"
    assert [sample.answer for sample in load_jsonl(path, needs_answer=False).samples] == ["40", None]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "Expecting property name"),
        ('{"id": "torn', "Unterminated string"),
        ("[1, 2]", "expected a JSON object, got list"),
        ({key: value for key, value in GOOD.items() if key != "question"}, "missing field 'question'"),
        ({key: value for key, value in GOOD.items() if key != "choices"}, "missing field 'choices'"),
        ({**GOOD, "question": " "}, "question: expected a question, got empty text"),
        ({**GOOD, "answer": "C"}, "expected the answer to be one of the letters AB, got 'C'"),
        ({**GOOD, "answer": "2"}, "expected the answer to be one of the letters AB, got '2'"),
        ({**GOOD, "choices": ["1"]}, "expected no choices or 2 to 26"),
        ({**GOOD, "choices": "12"}, "expected a list in 'choices'"),
        ({**GOOD, "gold_boxes": [[3, 0, 1, 1]]}, "expected x_min < x_max"),
        ({**GOOD, "gold_boxes": [[0, 0, 1]]}, "expected four numbers for each box"),
        ({**GOOD, "image": "gone.png"}, "image not found"),
        ({**GOOD, "image": "../x.png"}, "Invalid file name"),
        ({**GOOD, "image": "/etc/hostname"}, "Invalid file name"),
        ({**GOOD, "id": None}, "expected text in 'id'"),
        ({**GOOD, "id": "first"}, "duplicate id"),
    ],
)
def test_a_bad_line_is_counted_and_the_next_one_is_read(folder: Path, row: Any, reason: str) -> None:
    loaded = load_jsonl(write(folder, {**GOOD, "id": "first"}, row, {**GOOD, "id": "last"}))
    assert [sample.id for sample in loaded.samples] == ["first", "last"]
    (bad,) = loaded.invalid_rows
    assert bad.row == "line 2"
    assert bad.reason.startswith(reason)


def test_images_may_lie_in_another_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / "lists", {**GOOD, "image": "set/x.png"})
    (sample,) = load_jsonl(path, image_root=tmp_path, source="mine").samples
    assert (sample.image, sample.source) == (str((folder / "x.png").resolve()), "mine")


def test_a_file_without_a_sample_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="No valid rows in set: 1 rows: image not found"):
        load_jsonl(write(folder, {**GOOD, "image": "gone.png"}))
    with pytest.raises(DataError, match="no rows"):
        load_jsonl(write(folder))
    with pytest.raises(DataError, match=r"Cannot read .*gone\.jsonl: No such file"):
        load_jsonl(folder / "gone.jsonl")


def test_a_needle_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    items = list(iterate_items("val", 3, settings=SceneSettings(width=320, height=240, objects=(3, 5))))
    for item in items:
        write_item(item, tmp_path)
    loaded = load_needle(tmp_path)
    assert loaded.invalid_rows == ()
    for item, sample in zip(items, loaded.samples, strict=True):
        assert (sample.id, sample.source, sample.category) == (item.id, "needle", item.question.kind)
        assert (sample.question, sample.choices, sample.answer) == (
            item.question.text,
            item.question.choices,
            item.question.letter,
        )
        for found, gold in zip(sample.gold_boxes, item.question.gold_boxes, strict=True):
            assert found.xyxy == pytest.approx(gold.xyxy, abs=0.006)
        assert Path(sample.image).is_file()


# MME-RealWorld ------------------------------------------------------------------------------------------------------


def mme_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "Question_id": f"Perception/Remote_Sensing/count/{number:04d}",
        "Image": "rs/x.png",
        "Text": "How many ships?",
        "Question Type": "Multiple Choice",
        "Answer choices": ["(A) 1", "(B) 2", "(C) 3", "(D) 4", "(E) The image does not feature the object."],
        "Ground truth": "B",
        "Category": "count",
        "Subtask": "Remote Sensing",
        "Task": "Perception",
        **changes,
    }


@pytest.fixture
def published(folder: Path) -> Path:
    (folder / "rs").mkdir()
    (folder / "x.png").rename(folder / "rs" / "x.png")
    rows = [mme_row(1), mme_row(2, Image="rs/gone.png"), mme_row(3, **{"Ground truth": "F"}), mme_row(4)]
    (folder / "MME_RealWorld.json").write_text(json.dumps(rows))
    return folder


def test_a_published_folder_is_read(published: Path) -> None:
    loaded = load_mme_realworld(published)
    assert [sample.id[-4:] for sample in loaded.samples] == ["0001", "0004"]
    assert [(bad.row, bad.reason) for bad in loaded.invalid_rows] == [
        ("row 2", f"image not found in {published.resolve()}"),
        ("row 3", "expected the letter of one of 5 options as the answer, got 'F'"),
    ]
    assert load_mme_realworld(published / "MME_RealWorld.json") == loaded
    elsewhere = published.parent / "questions.json"
    elsewhere.write_text((published / "MME_RealWorld.json").read_text())
    assert load_mme_realworld(elsewhere, image_root=published) == loaded


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "exactly one JSON file in .*, got none"),
        ({"a.json": "[]", "b.json": "[]"}, "got a.json, b.json; give the path of the file"),
        ({"a.json": "[{"}, "is not valid JSON"),
        ({"a.json": '{"a": 1}'}, "must contain a JSON list of questions, got dict"),
        ({"a.json": "[]"}, "No valid rows in MME-RealWorld: no rows"),
    ],
)
def test_a_folder_that_is_not_the_published_form(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_mme_realworld(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        load_mme_realworld(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": "nul\0byte?"}, "got a NUL character"),
        ({"choices": ["1", "2\0"]}, "got a NUL character"),
        ({"question": "q" * (MAX_QUESTION_CHARS + 1)}, "question: expected at most 20,000 characters, got 20,001"),
    ],
)
def test_texts_that_no_one_can_ask_are_invalid_rows(folder: Path, change: dict[str, Any], reason: str) -> None:
    loaded = load_jsonl(write(folder, GOOD, {**GOOD, "id": "b", **change}))
    assert len(loaded.samples) == 1
    (bad,) = loaded.invalid_rows
    assert bad.row == "line 2" and reason in bad.reason


def test_a_folder_whose_name_is_not_utf8_has_a_printable_source(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("x\udcff"))
    loaded = load_jsonl(write(renamed, GOOD))
    assert [sample.source for sample in loaded.samples] == ["x\\udcff"]
    assert loaded.samples[0].model_dump_json()
