from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.visual_cot import SUBSETS, is_included, read_visual_cot_row
from hart_studio.errors import InputError
from tests.benchmark_files import BOX_REQUEST
from tests.benchmark_images import SMALL, draw

NAME = "cot/gqa/2354786.jpg"


@pytest.fixture
def images(tmp_path: Path) -> ImageResolver:
    path = tmp_path / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(draw(1).jpeg)
    return ImageResolver(tmp_path, None)


def row(box: str = "[10, 20, 110, 90]", **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "gqa",
        "split": "val",
        "question_id": 17,
        "image": [NAME, f"{NAME}###{box}"],
        "conversations": said(),
        **changes,
    }


def said(answer: str = "The cup", question: str = "What is on the table?") -> list[dict[str, str]]:
    words = (f"<image>\n{question}{BOX_REQUEST}", "[0.031, 0.188, 0.344, 0.406]", "<image>", answer)
    return [{"from": who, "value": what} for who, what in zip(("human", "gpt") * 2, words, strict=True)]


def test_a_row(images: ImageResolver) -> None:
    sample = read_visual_cot_row(row(), images)
    assert sample.id.startswith("gqa/17-")
    assert (sample.question, sample.answer, sample.choices) == ("What is on the table?", "The cup", ())
    assert (sample.category, sample.source) == ("gqa", "Visual-CoT")
    assert sample.image == str((images.root / NAME).resolve())
    assert [box.xyxy for box in sample.gold_boxes] == [(10, 20, 110, 90)], "not the box in units of a padded square"


def test_questions_that_share_a_number_have_ids_of_their_own(images: ImageResolver) -> None:
    first, second = (read_visual_cot_row(row(conversations=said(question=text)), images) for text in ("Who?", "Why?"))
    assert first.id != second.id
    assert read_visual_cot_row(row(conversations=said(question="Who?")), images).id == first.id


@pytest.mark.parametrize(
    ("box", "repaired"),
    [
        ("[110, 90, 10, 20]", (10, 20, 110, 90)),
        ("[10, 20, 5000, 5000]", (10, 20, *SMALL)),
        ("[-4, -4, 10.5, 20]", (0, 0, 10.5, 20)),
    ],
)
def test_boxes_are_repaired(images: ImageResolver, box: str, repaired: tuple[float, ...]) -> None:
    assert read_visual_cot_row(row(box), images).gold_boxes[0].xyxy == repaired


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (row("[10, 20, 10, 90]"), "without area"),
        (row("[900, 900, 950, 950]"), "without area"),
        (row("[1, 2, 3]"), "four numbers"),
        (row("here"), "expected a list in 'image'"),
        (row(image=[NAME, NAME]), "expected a list in 'image'"),
        (row(image=[NAME]), "expected two entries in 'image'"),
        (row(image=["gone.jpg", "gone.jpg###[1, 2, 3, 4]"]), "image not found"),
        (row(conversations=said()[:3]), "expected four turns"),
        (row(conversations=[{}] * 4), "missing field 'value'"),
        (row(conversations=said(answer=" ")), "expected an answer or None"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(images: ImageResolver, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_visual_cot_row(changes, images)


def test_images_stay_inside_their_folder(images: ImageResolver) -> None:
    with pytest.raises(InputError, match="Invalid file name"):
        read_visual_cot_row(row(image=["../x.jpg", "../x.jpg###[1, 2, 3, 4]"]), images)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, True),
        ({"dataset": "v7w"}, True),
        ({"dataset": "docvqa"}, False),
        ({"conversations": said(answer="yes")}, False),
        ({"conversations": said(answer=" No. ")}, False),
        ({"conversations": said(answer="No entry")}, True),
        ({"conversations": None}, True),  # no proper row: counted as a bad one, not left out in silence
        ({"dataset": 5}, False),
    ],
)
def test_which_rows_are_asked(changes: dict[str, Any], asked: bool) -> None:
    assert is_included(row(**changes), SUBSETS) is asked


def test_the_paper_keeps_4042_questions() -> None:
    published = {"gqa": 978, "sroie": 686, "textcap": 853, "textvqa": 525, "visual7w": 1000}  # without yes and no
    assert sum(published[subset] for subset in SUBSETS) == 4042
