from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from hart_studio.data.gold_boxes import repair_boxes
from hart_studio.errors import ImageError


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("gold") / "a.png"
    Image.new("RGB", (100, 60)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("box", "repaired"),
    [
        ([10, 20, 30, 40], (10, 20, 30, 40)),
        ([30, 40, 10, 20], (10, 20, 30, 40)),  # both corners
        ([30, 20, 10, 40], (10, 20, 30, 40)),  # the other two
        ([-5, -5, 200, 90], (0, 0, 100, 60)),
        ([90.5, 10, 101, 20], (90.5, 10, 100, 20)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_corners_are_sorted_and_edges_clipped(image: str, box: Any, repaired: tuple[float, ...]) -> None:
    assert [found.xyxy for found in repair_boxes([box], image)] == [repaired]


def test_width_and_height_instead_of_a_corner(image: str) -> None:
    (box,) = repair_boxes([[90, 10, 20, 30]], image, ["glove"], is_xywh=True)
    assert (box.xyxy, box.label) == ((90, 10, 100, 40), "glove")


def test_names_that_do_not_fit_are_left_out(image: str) -> None:
    assert [box.label for box in repair_boxes([[0, 0, 1, 1]] * 2, image, ["one"])] == ["", ""]


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 9, 5], [100, 0, 120, 10], [0, -20, 10, 0], [7, 7, 7, 7]])
def test_a_box_of_which_nothing_is_left(image: str, box: list[int]) -> None:
    with pytest.raises(ValueError, match="without area inside the image"):
        repair_boxes([[0, 0, 1, 1], box], image)


@pytest.mark.parametrize(
    "boxes",
    [None, "x", 5, [5], [[1, 2, 3]], [["1"] * 4], [[True, 0, 1, 1]], [[0, 0, 10**400, 1]], [[0, 0, float("nan"), 1]]],
)
def test_what_is_no_list_of_boxes(image: str, boxes: Any) -> None:
    with pytest.raises(ValueError, match="gold box"):
        repair_boxes(boxes, image)


def test_the_image_is_seen_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (100, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert repair_boxes([[0, 0, 500, 500]], str(tmp_path / "a.jpg"))[0].xyxy == (0, 0, 60, 100)


def test_a_image_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ImageError):
        repair_boxes([[0, 0, 1, 1]], str(tmp_path / "a.png"))


@given(box=st.lists(st.integers(-300, 300) | st.floats(), min_size=4, max_size=4), is_xywh=st.booleans())
def test_a_repaired_box_is_inside(image: str, box: list[float], is_xywh: bool) -> None:
    try:
        (found,) = repair_boxes([box], image, is_xywh=is_xywh)
    except ValueError:
        return
    assert 0 <= found.x_min < found.x_max <= 100 and 0 <= found.y_min < found.y_max <= 60
