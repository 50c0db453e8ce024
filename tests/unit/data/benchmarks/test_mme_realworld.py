from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.mme_realworld import read_mme_realworld_row
from hart_studio.errors import InputError
from tests.benchmark_images import draw

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
CHOICES = [f"({letter}) {number}" for number, letter in enumerate("ABCDE", start=1)]


@pytest.fixture
def images(tmp_path: Path) -> ImageResolver:
    (tmp_path / "cache").mkdir()
    (tmp_path / "a.jpg").touch()
    return ImageResolver(tmp_path, tmp_path / "cache")


def table_row(**changes: Any) -> dict[str, Any]:
    row = {
        "index": 7,
        "bytes": draw(1).base64,
        "question": "How many cars?",
        "multi-choice options": CHOICES,
        "answer": "D",
        "category": "Reasoning/Monitoring",
        "l2-category": "Vehicle",
        **changes,
    }
    return {name: value for name, value in row.items() if value is not ...}


# The JSON ------------------------------------------------------------------------------------------------------------


def test_a_row_in_full_width_brackets(images: ImageResolver) -> None:
    sample = read_mme_realworld_row(ROW, images)
    assert sample.id == "monitoring/Vehicle/counting/0310"
    assert sample.choices == ("1", "2", "3", "4", "看不清")
    assert (sample.question, sample.answer) == ("图中有几辆车？", "D")
    assert sample.category == "Reasoning/Autonomous_Driving"
    assert sample.image == str((images.root / "a.jpg").resolve())
    assert (sample.source, sample.gold_boxes) == ("MME-RealWorld", ())


@pytest.mark.parametrize("field", ["Question_id", "Image", "Text", "Answer choices", "Ground truth", "Subtask", "Task"])
def test_a_field_that_is_read_must_be_there(images: ImageResolver, field: str) -> None:
    with pytest.raises(ValueError, match=f"missing field '{field}'"):
        read_mme_realworld_row({key: value for key, value in ROW.items() if key != field}, images)


def test_the_answer_is_a_letter_even_where_options_are_letters(images: ImageResolver) -> None:
    options = ["(A) C", "(B) A", "(C) B", "(D) D", "(E) none"]
    row = {**ROW, "Answer choices": options, "Ground truth": "A"}
    assert read_mme_realworld_row(row, images).answer == "A"


def test_images_stay_inside_their_folder(images: ImageResolver) -> None:
    with pytest.raises(InputError, match="Invalid file name"):
        read_mme_realworld_row({**ROW, "Image": "../a.jpg"}, images)


# The tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [CHOICES, repr(CHOICES), "\n".join(CHOICES)], ids=["list", "literal", "lines"])
def test_a_row_of_a_table(images: ImageResolver, options: Any) -> None:
    sample = read_mme_realworld_row(table_row(**{"multi-choice options": options}), images)
    assert (sample.id, sample.question, sample.answer) == ("7", "How many cars?", "D")
    assert sample.choices == ("1", "2", "3", "4", "5")
    assert sample.category == "Reasoning/Monitoring"
    assert Path(sample.image).read_bytes() == draw(1).jpeg


@pytest.mark.parametrize("image", [draw(1).base64, draw(1).jpeg, {"bytes": draw(1).jpeg, "path": None}, "a.jpg"])
def test_the_image_may_be_in_image_in_any_form(images: ImageResolver, image: Any) -> None:
    sample = read_mme_realworld_row(table_row(bytes=..., image=image), images)
    assert Path(sample.image).is_file()


def test_the_training_table_has_neither_ids_nor_categories(images: ImageResolver) -> None:
    listed = "The choices are listed below:\n" + "\n".join(CHOICES) + "\n"
    row = table_row(index=..., category=..., choices=listed, bytes=..., image={"bytes": draw(1).jpeg, "path": "1.jpg"})
    del row["multi-choice options"]
    sample = read_mme_realworld_row(row, images)
    assert (sample.choices, sample.answer, sample.category) == (("1", "2", "3", "4", "5"), "D", "")
    assert read_mme_realworld_row(row, images).id == sample.id
    other = read_mme_realworld_row({**row, "question": "How many ships?"}, images)
    assert (other.image, other.id != sample.id) == (sample.image, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "F"}, "expected the letter of one of 5 options"),
        ({"answer": None}, "expected text in 'answer'"),
        ({"multi-choice options": None}, "expected the letter of one of 0 options"),
        ({"multi-choice options": ...}, "missing field 'multi-choice options'"),
        ({"bytes": ...}, "missing field 'image'"),
        ({"bytes": "x" * 2000}, "neither a base64 image nor a path"),
        ({"question": " "}, "expected a question"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(images: ImageResolver, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mme_realworld_row(table_row(**changes), images)
