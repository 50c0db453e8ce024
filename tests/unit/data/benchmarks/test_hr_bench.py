from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.hr_bench import read_hr_bench_row
from hart_studio.data.benchmarks.images import ImageResolver
from tests.benchmark_images import draw


def row(**changes: Any) -> dict[str, Any]:
    return {
        "index": 40,
        "question": "What is the number on the gate?",
        "answer": "C",
        "category": "single",
        "A": "12",
        "B": 13,
        "C": "14",
        "D": "15",
        "cycle_category": "2",
        "image": draw(1).base64,
        **changes,
    }


def test_a_row(images: ImageResolver) -> None:
    sample = read_hr_bench_row(row(), images)
    assert (sample.id, sample.category) == ("40/cycle 2", "single/cycle 2")
    assert (sample.question, sample.choices) == ("What is the number on the gate?", ("12", "13", "14", "15"))
    assert (sample.answer, sample.gold_boxes, sample.source) == ("C", (), "HR-Bench")
    assert Path(sample.image).read_bytes() == draw(1).jpeg


def test_cycles_of_one_question_are_questions_of_their_own(images: ImageResolver) -> None:
    samples = [read_hr_bench_row(row(cycle_category=cycle), images) for cycle in range(4)]
    assert len({sample.id for sample in samples}) == 4
    assert len({sample.image for sample in samples}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "the letter of one of 4 options"),
        ({"D": ""}, None),
        ({"B": ""}, "every choice to have text"),
        ({"cycle_category": None}, "expected text in 'cycle_category'"),
        ({"image": None}, "expected an image"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(images: ImageResolver, changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert read_hr_bench_row(row(**changes), images).letters == "ABC"
        return
    with pytest.raises(ValueError, match=message):
        read_hr_bench_row(row(**changes), images)
