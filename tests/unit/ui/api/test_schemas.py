from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hart_studio.errors import InputError
from hart_studio.imaging import SourceImage
from hart_studio.labeling.records import BoxCheck
from hart_studio.records import Box
from hart_studio.ui.api.schemas import VerifyResponse, clip_boxes, parse_boxes, to_verify_response

BOX = Box.from_xyxy((1, 2, 30, 40), label="sign", score=0.5)


@pytest.fixture
def image(tmp_path: Path) -> SourceImage:
    Image.new("RGB", (80, 60)).save(tmp_path / "street.png")
    return SourceImage(tmp_path / "street.png")


@pytest.mark.parametrize("is_right", [True, False])
def test_with_a_known_answer_the_crops_are_enough_when_they_are_right(image: SourceImage, is_right: bool) -> None:
    check = BoxCheck(
        kind="known_answer",
        rollouts=0,
        crops_answer="A",
        crops_correct=is_right,
        full_answer="B",
        full_correct=not is_right,
    )
    response = to_verify_response(image, "mine", [BOX], check, ["read this"])
    assert response.warnings == ("read this",)
    assert (response.sufficient, response.crops_correct, response.full_correct) == (is_right, is_right, not is_right)
    assert response.model_dump(include={"image", "model", "boxes"}) == {
        "image": {"name": "street.png", "width": 80, "height": 60},
        "model": "mine",
        "boxes": ({"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40, "label": "sign"},),
    }


@pytest.mark.parametrize(
    ("crops", "full", "sufficient"),
    [("five", "five", True), ("five", "six", False), (None, "six", False), ("five", None, None), (None, None, None)],
)
def test_without_one_they_are_enough_when_they_say_what_the_full_image_says(
    image: SourceImage, crops: str | None, full: str | None, sufficient: bool | None
) -> None:
    response = to_verify_response(
        image, "mine", [BOX], BoxCheck(kind="agreement", rollouts=0, crops_answer=crops, full_answer=full), []
    )
    assert response.sufficient is sufficient
    assert (response.crops_correct, response.full_correct) == (None, None), "no one knows"


def test_every_field_is_described_to_clients() -> None:
    schema = VerifyResponse.model_json_schema(mode="serialization")
    assert set(schema["required"]) == set(VerifyResponse.model_fields)
    assert all(field["description"] for field in schema["properties"].values())


GOOD = {"x_min": 10, "y_min": 20, "x_max": 30.5, "y_max": 40}


def test_boxes_keep_their_order_and_their_names() -> None:
    assert parse_boxes([GOOD, {**GOOD, "label": "sign", "x_max": 90}], max_boxes=2) == (
        Box.from_xyxy((10, 20, 30.5, 40)),
        Box.from_xyxy((10, 20, 90, 40), label="sign"),
    )
    assert parse_boxes([], max_boxes=2) == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "a list of boxes, .* got NoneType"),
        ("[]", "got str"),
        ({"x_min": 1}, "got dict"),
        ([GOOD] * 3, "1 to 2 boxes, got 3"),
        ([], "1 to 2 boxes, got 0"),
        ([7], "box 1"),
        ([GOOD, [1, 2, 3, 4]], "box 2"),
        ([{**GOOD, "x_max": float("nan")}], "box 1: x_max"),
        ([{**GOOD, "x_max": float("inf")}], "box 1: x_max"),
        ([GOOD, {**GOOD, "y_max": 10**400}], "box 2: y_max"),
        ([{**GOOD, "x_max": 10}], "x_min < x_max"),
        ([{**GOOD, "y_max": -5}], r"\[10, 20, 30.5, -5\]"),
        ([{**GOOD, "color": "red"}], "box 1: color"),
        ([{"x_min": 1}], "box 1: y_min"),
        ([{**GOOD, "label": "a" * 201}], "box 1: label"),
        ([{**GOOD, "label": "\ud800"}], "box 1: label"),
    ],
)
def test_what_is_no_box_is_refused_by_its_number(value: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        parse_boxes(value, max_boxes=2, min_boxes=1)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "label", "other"]), inner),
    max_leaves=12,
)


@given(anything)
def test_whatever_is_sent_gives_boxes_or_a_clear_error(value: Any) -> None:
    try:
        found = parse_boxes(value, max_boxes=4)
    except InputError as error:
        assert str(error).startswith(("Expected ", "expected ", "Invalid boxes: "))
    else:
        assert all(isinstance(box, Box) for box in found)


def test_boxes_are_cut_to_the_image() -> None:
    assert [box.xyxy for box in clip_boxes([Box.from_xyxy((-5, 10, 50, 2000), "sign")], (100, 80))] == [(0, 10, 50, 80)]


@pytest.mark.parametrize("edges", [(100, 0, 120, 10), (-9, -9, 0, 0), (0, 80, 5, 90)])
def test_a_box_beside_the_image_is_named(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError, match=r"Box 2 .* is outside the image of 100 x 80 pixels"):
        clip_boxes([Box.from_xyxy((0, 0, 1, 1)), Box.from_xyxy(edges)], (100, 80))
