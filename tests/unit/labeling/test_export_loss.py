from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.export_loss import export_losses
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.records import Box
from tests.labels import draw_image, full_item, make_item


def counts(name: str, *items: object, **options: object) -> dict[str, int]:
    losses = export_losses(name, items, ExportOptions(**options))  # type: ignore[arg-type]
    assert all(str(loss.count) in loss.text for loss in losses)
    return {loss.what: loss.count for loss in losses}


def test_our_own_records_lose_nothing(tmp_path: Path) -> None:
    assert counts("native", full_item(draw_image(tmp_path / "a.png"))) == {}


def test_losses_of_labels(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png", (1000, 1000))
    plain = make_item(path, [(1, 2, 3, 4), (1.5, 2, 3, 4.25)])
    assert counts("coco", plain) == {}
    assert counts("yolo", plain) == {"questions": 1, "statuses": 1}
    assert counts("pascal_voc", plain) == {"questions": 1, "rounded": 1, "statuses": 1}
    (loss,) = [loss for loss in export_losses("pascal_voc", [plain]) if loss.what == "rounded"]
    assert loss.text == "coordinates of 1 box (rounded, up to 0.75 px)"  # 4.25 moves out to 5
    assert counts("yolo", make_item(path, [(1 / 3, 2, 3, 4)]))["rounded"] == 1


def test_everything_that_can_be_lost(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    items = [
        full_item(path),
        make_item(path, [(1, 2, 3, 4)], "Another?"),
        make_item(path, [(1, 2, 3, 4)], status="rejected"),
    ]
    options = {"statuses": ("edited", "accepted", "rejected")}
    assert counts("createml", *items, **options) == {
        "questions": 3,
        "merged": 1,
        "labels": 2,
        "box_scores": 3,
        "scores": 1,
        "statuses": 3,
        "rejected": 1,
        "evidence": 1,
        "provenance": 1,
        "reviews": 1,
        "history": 1,
    }
    assert counts("grounded_chat", *items, **options)["excluded"] == 1
    assert counts("grounded_chat", *items, **options)["classes"] == 3


def test_scores_of_an_image_folder_are_kept_only_together(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    scored = make_item(path, [Box.from_xyxy((1, 2, 3, 4), "region", 0.5)], score=0.5, origin="model")
    assert counts("image_folder", scored) == {}
    assert counts("image_folder", scored, make_item(path, [(1, 2, 3, 4)], "b?")) == {"scores": 1}


def test_losses_of_box_scores_and_model_texts_are_reported(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    changed = make_item(path, [Box.from_xyxy((1, 2, 3, 4), "sign", 0.5)], score=0.5, status="edited")
    proposed = make_item(path, [Box.from_xyxy((1, 2, 3, 4), "Z")], "b?", score=0.5, origin="model")
    assert counts("coco", changed, proposed) == {"box_scores": 1, "labels": 1, "scores": 1}


def test_items_that_are_not_chosen_lose_nothing(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    assert counts("yolo", make_item(path, [(1, 2, 3, 4)], status="proposed", note="x")) == {}
    assert counts("yolo", make_item(path, status="new"), statuses=("new",)) == {"excluded": 1}


@pytest.mark.parametrize("name", ["x_anylabeling", "pdf"])
def test_a_format_that_is_not_written(name: str) -> None:
    with pytest.raises(InputError, match="Choose one of: native, coco"):
        export_losses(name, [])
