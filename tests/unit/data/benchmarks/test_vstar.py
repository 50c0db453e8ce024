import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.vstar import read_vstar_row
from tests.benchmark_files import VSTAR_SUFFIX
from tests.benchmark_images import SMALL, draw

NOTES: dict[str, Any] = {
    "target_object": ["glove", "dog"],
    "bbox": [[56, 42, 100, 57], [0, 0, 20, 10]],
    "question": "What is the material of the glove?",
    "options": ["leather", "rubber", "cotton", "kevlar"],
}


@pytest.fixture
def images(tmp_path: Path) -> ImageResolver:
    (tmp_path / "direct_attributes").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "direct_attributes" / "sa_1.jpg").write_bytes(draw(1).jpeg)
    (tmp_path / "direct_attributes" / "sa_1.json").write_text(json.dumps(NOTES))
    return ImageResolver(tmp_path, tmp_path / "cache")


def line(**changes: Any) -> dict[str, Any]:
    options = "(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather"
    return {
        "image": "direct_attributes/sa_1.jpg",
        "text": f"What is the material of the glove?\n{options}{VSTAR_SUFFIX}",
        "category": "direct_attributes",
        "label": "D",
        "question_id": "4",
        **changes,
    }


def test_letters_come_from_the_question_and_boxes_from_the_notes(images: ImageResolver) -> None:
    sample = read_vstar_row(line(), images)
    assert (sample.id, sample.category) == ("direct_attributes/4", "direct_attributes")
    assert sample.question == "What is the material of the glove?"
    assert sample.choices == ("rubber", "cotton", "kevlar", "leather")
    assert sample.answer == "D", "the notes put the right option first, which would be A"
    assert [(box.label, box.xyxy) for box in sample.gold_boxes] == [
        ("glove", (56, 42, 156, 99)),
        ("dog", (0, 0, 20, 10)),
    ]


def test_the_instruction_is_taken_off_in_every_spelling(images: ImageResolver) -> None:
    for suffix in ("", VSTAR_SUFFIX, VSTAR_SUFFIX.replace("'", "’").rstrip(".") + " \n"):
        sample = read_vstar_row(line(text=f"Left or right?\n(A) left\n(B) right{suffix}", label="B"), images)
        assert (sample.question, sample.choices) == ("Left or right?", ("left", "right"))


@pytest.mark.parametrize(
    "options",
    [
        {"choices": ["left", "right"], "answer": 1},
        {"choices": ["left", "right"], "answer": "B"},
        {"A": "left", "B": "right", "C": "", "D": "", "answer": "B"},
        {"A": "left", "B": "right", "C": None, "D": None, "answer": "B"},
    ],
)
def test_tables_hold_their_images_and_no_boxes(images: ImageResolver, options: dict[str, Any]) -> None:
    row = {"index": 3, "image": draw(2).base64, "question": "Which side?", "category": "relative_position", **options}
    sample = read_vstar_row(row, images)
    assert (sample.id, sample.question) == ("relative_position/3", "Which side?")
    assert (sample.choices, sample.answer, sample.gold_boxes) == (("left", "right"), "B", ())


def test_a_image_without_notes_has_no_boxes(images: ImageResolver) -> None:
    (images.root / "direct_attributes" / "sa_1.json").unlink()
    assert read_vstar_row(line(), images).gold_boxes == ()


def test_a_box_that_reaches_out_is_clipped(images: ImageResolver) -> None:
    notes = {**NOTES, "bbox": [[300, 200, 500, 500]]}
    (images.root / "direct_attributes" / "sa_1.json").write_text(json.dumps(notes))
    (box,) = read_vstar_row(line(), images).gold_boxes
    assert (box.xyxy, box.label) == ((300, 200, *SMALL), "")


@pytest.mark.parametrize(
    "notes", ["{", "[]", "{}", '{"bbox": 3}', '{"bbox": [["a", "b", "c", "d"]]}', '{"bbox": [[1, 1, 0, 5]]}']
)
def test_damaged_notes_make_an_invalid_row(images: ImageResolver, notes: str) -> None:
    (images.root / "direct_attributes" / "sa_1.json").write_text(notes)
    with pytest.raises(ValueError, match=r".+"):
        read_vstar_row(line(), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "E"}, "the letter of one of 4 options"),
        ({"label": 7}, "the letter of one of 4 options"),
        ({"text": "What?"}, "the letter of one of 0 options"),
        ({"image": "direct_attributes/gone.jpg"}, "image not found"),
        ({"category": None}, "expected text in 'category'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(images: ImageResolver, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_vstar_row(line(**changes), images)
