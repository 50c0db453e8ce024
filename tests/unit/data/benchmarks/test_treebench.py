from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.treebench import read_treebench_row
from tests.benchmark_images import SMALL, draw


def row(**changes: Any) -> dict[str, Any]:
    return {
        "index": 12,
        "image": draw(1).base64,
        "question": "What is the bag made of?",
        "answer": "B",
        "multi-choice options": "A. paper\nB. leather\nC. silk\nD. tin",
        "category": "Perception/Material",
        "l2-category": "bag",
        "target_instances": "[[10, 20, 30, 40], [5, 5, 9, 9]]",
        **changes,
    }


def test_a_row(images: ImageResolver) -> None:
    sample = read_treebench_row(row(), images)
    assert (sample.id, sample.question, sample.answer) == ("12", "What is the bag made of?", "B")
    assert sample.choices == ("paper", "leather", "silk", "tin")
    assert (sample.category, sample.source) == ("Perception/Material", "TreeBench")
    assert [box.xyxy for box in sample.gold_boxes] == [(10, 20, 30, 40), (5, 5, 9, 9)]
    assert Path(sample.image).read_bytes() == draw(1).jpeg


@pytest.mark.parametrize("listed", ["A. Main St\nB. High St\nC. Elm St", None, ""])
def test_options_inside_the_question_of_an_ocr_row_are_taken_out(images: ImageResolver, listed: str | None) -> None:
    asked = "What does the sign say?\nA. Main St\nB. High St\nC. Elm St"
    sample = read_treebench_row(
        row(question=asked, category="Perception/OCR", **{"multi-choice options": listed}), images
    )
    assert (sample.question, sample.choices) == ("What does the sign say?", ("Main St", "High St", "Elm St"))


def test_an_ocr_row_that_words_its_options_otherwise(images: ImageResolver) -> None:
    asked = "What does the sign say?\nOptions:\nA. MAIN\nB. HIGH"
    sample = read_treebench_row(
        row(question=asked, category="Perception/OCR", **{"multi-choice options": "A. Main St\nB. High St"}), images
    )
    assert (sample.question, sample.choices) == ("What does the sign say?", ("Main St", "High St"))


def test_a_question_may_have_up_to_26_options(images: ImageResolver) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    listed = "\n".join(f"{letter}. option {number}" for number, letter in enumerate(letters))
    sample = read_treebench_row(row(answer="L", **{"multi-choice options": listed}), images)
    assert (len(sample.choices), sample.letters, sample.answer) == (26, letters, "L")
    columns = {"multi-choice options": None, **{letter: letter.lower() * 2 for letter in letters[:7]}}
    sample = read_treebench_row(row(answer="G", **columns), images)
    assert (sample.choices[-1], sample.answer) == ("gg", "G")


def test_boxes_are_repaired(images: ImageResolver) -> None:
    width, height = SMALL
    boxes = f"[[40, 50, 10, 20], (-9, -9, 50, 60), [{width - 10}, {height - 10}, {width + 90}, {height + 1}]]"
    sample = read_treebench_row(row(target_instances=boxes), images)
    assert [box.xyxy for box in sample.gold_boxes] == [
        (10, 20, 40, 50),
        (0, 0, 50, 60),
        (width - 10, height - 10, width, height),
    ]
    assert read_treebench_row(row(target_instances=[[1, 2, 3, 4]]), images).gold_boxes[0].xyxy == (1, 2, 3, 4)
    assert read_treebench_row(row(target_instances="[]"), images).gold_boxes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_instances": "[[9, 9, 9, 30]]"}, "without area"),
        ({"target_instances": "[[900, 900, 990, 990]]"}, "without area"),
        ({"target_instances": "open('x')"}, "expected a list in 'target_instances'"),
        ({"target_instances": None}, "expected a list of gold boxes"),
        ({"answer": "E"}, "the letter of one of 4 options"),
        ({"multi-choice options": ""}, "the letter of one of 0 options"),
        ({"category": None}, "expected text in 'category'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(images: ImageResolver, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_treebench_row(row(**changes), images)
