from pathlib import Path

import pytest
from PIL import Image

from hart_studio.imaging import SourceImage
from hart_studio.labeling.records import BoxCheck
from hart_studio.records import Box
from hart_studio.ui.api.schemas import VerifyResponse, to_verify_response

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
        crops_right=is_right,
        full_answer="B",
        full_right=not is_right,
    )
    response = to_verify_response(image, "mine", [BOX], check, ["read this"])
    assert response.warnings == ("read this",)
    assert (response.sufficient, response.crops_right, response.full_right) == (is_right, is_right, not is_right)
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
    assert (response.crops_right, response.full_right) == (None, None), "no one knows"


def test_every_field_is_described_to_clients() -> None:
    schema = VerifyResponse.model_json_schema(mode="serialization")
    assert set(schema["required"]) == set(VerifyResponse.model_fields)
    assert all(field["description"] for field in schema["properties"].values())
