from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.mme_realworld import read_mme_realworld_row

ROW: dict[str, Any] = {
    "Question_id": "monitoring/Vehicle/counting/0310",
    "Image": "a.jpg",
    "Text": "图中有几辆车？",
    "Question type": "Multiple Choice",
    "Answer choices": ["（A）1", "（B）2", "（C）3", "（D）4", "（E）看不清"],
    "Ground truth": "D",
    "Category": "Vehicle",
    "Subtask": "Autonomous_Driving",
    "Task": "Reasoning",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").touch()
    return tmp_path


def test_a_row_in_full_width_brackets(root: Path) -> None:
    sample = read_mme_realworld_row(ROW, root)
    assert sample.id == "monitoring/Vehicle/counting/0310"
    assert sample.choices == ("1", "2", "3", "4", "看不清")
    assert (sample.question, sample.answer) == ("图中有几辆车？", "D")
    assert sample.category == "Reasoning/Autonomous_Driving"
    assert sample.image == str((root / "a.jpg").resolve())
    assert (sample.source, sample.gold_boxes) == ("MME-RealWorld", ())


@pytest.mark.parametrize("field", ["Question_id", "Image", "Text", "Answer choices", "Ground truth", "Subtask", "Task"])
def test_a_field_that_is_read_must_be_there(root: Path, field: str) -> None:
    with pytest.raises(ValueError, match=f"no field '{field}'"):
        read_mme_realworld_row({key: value for key, value in ROW.items() if key != field}, root)


def test_the_answer_is_a_letter_even_where_options_are_letters(root: Path) -> None:
    options = ["(A) C", "(B) A", "(C) B", "(D) D", "(E) none"]
    assert read_mme_realworld_row({**ROW, "Answer choices": options, "Ground truth": "A"}, root).answer == "A"
