from typing import Any

import pytest

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.mmstar import read_mmstar_row
from tests.benchmark_images import draw


def row(**changes: Any) -> dict[str, Any]:
    values = {
        "index": 0,
        "question": "Which view is it?\nOptions: A: Left view, B: Top view, front, C: Bottom view, D: none",
        "image": draw(1).jpeg,
        "answer": "B",
        "category": "coarse perception",
        "l2_category": "image scene and topic",
        "meta_info": {"source": "x", "split": "val", "image_path": "images/0.jpg"},
        **changes,
    }
    return {name: value for name, value in values.items() if value is not ...}


def test_options_inside_the_question(images: ImageResolver) -> None:
    sample = read_mmstar_row(row(), images)
    assert (sample.id, sample.question, sample.answer) == ("0", "Which view is it?", "B")
    assert sample.choices == ("Left view", "Top view, front", "Bottom view", "none")
    assert sample.category == "coarse perception/image scene and topic"
    assert (sample.gold_boxes, sample.source) == ((), "MMStar")


@pytest.mark.parametrize("question", ["Which view is it?", row()["question"]])
def test_options_in_columns(images: ImageResolver, question: str) -> None:
    columns = {"A": "Left view", "B": "Top view, front", "C": "Bottom view", "D": "none"}
    sample = read_mmstar_row(row(question=question, image=draw(1).base64, **columns), images)
    assert sample.question == "Which view is it?"
    assert sample.choices == ("Left view", "Top view, front", "Bottom view", "none")


def test_options_that_are_letters_of_the_image(images: ImageResolver) -> None:
    sample = read_mmstar_row(row(question="Which one? Options: A: A, B: B, C: C, D: D"), images)
    assert sample.choices == ("A", "B", "C", "D")


def test_the_other_spelling_of_the_axis(images: ImageResolver) -> None:
    sample = read_mmstar_row(row(l2_category=..., **{"l2-category": "axis"}), images)
    assert sample.category == "coarse perception/axis"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "Which view is it?"}, "the letter of one of 0 options"),
        ({"question": "Which? Options: A: , B: x"}, "every choice to have text"),
        ({"answer": "E"}, "the letter of one of 4 options"),
        ({"l2_category": ...}, "missing field 'l2-category'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(images: ImageResolver, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mmstar_row(row(**changes), images)
