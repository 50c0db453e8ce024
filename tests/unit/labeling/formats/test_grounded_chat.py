import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.geometry import BoxFrame
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.formats.grounded_chat import load_grounded_chat, save_grounded_chat, written_box
from hart_studio.models.families import FAMILIES
from hart_studio.parsing import convert_to_original, parse_boxes
from hart_studio.records import Box
from tests.labels import draw_image, make_item, make_plan

WH = (4000, 2000)


def half(wh: tuple[int, int]) -> tuple[int, int]:
    return wh[0] // 2, wh[1] // 2


def written(folder: Path, family: str, question: str = "Where is the sign?") -> dict[str, Any]:
    path = draw_image(folder / "in" / "a.png", WH)
    item = make_item(path, [(400, 500, 1200, 1000), (3999, 1999, 4000, 2000)], question)
    save_grounded_chat(make_plan([item], chat_family=family, model_wh_of=half), folder)
    row: dict[str, Any] = json.loads((folder / "train.jsonl").read_text())
    return row


@pytest.mark.parametrize(
    ("family", "text", "frame"),
    [
        ("qwen2_5_vl", '{"bbox_2d": [200, 250, 600, 500], "label": "sign"}', "model_pixels"),
        ("qwen3_vl", '{"bbox_2d": [100, 250, 300, 500], "label": "sign"}', "thousandths"),
        ("qwen2_vl", "<|box_start|>(100,250),(300,500)<|box_end|>", "thousandths"),
        ("internvl", "<ref>sign</ref><box>[[100, 250, 300, 500]]</box>", "thousandths"),
        ("llava_onevision", "[0.100, 0.250, 0.300, 0.500]", "unit"),
    ],
)
def test_each_family_in_its_own_frame(family: str, text: str, frame: str, tmp_path: Path) -> None:
    row = written(tmp_path, family)
    asked, answered = row["conversations"]
    assert asked["value"].startswith("<image>Output the coordinates") and asked["value"].endswith(
        "\nWhere is the sign?"
    )
    assert text in answered["value"] and row["box_frame"] == frame
    assert row["model_wh"] == ([2000, 1000] if family == "qwen2_5_vl" else [4000, 2000])
    parsed = parse_boxes(answered["value"])
    placed = convert_to_original(parsed, BoxFrame(frame), WH, tuple(row["model_wh"]))
    assert placed.status == "ok" and placed.boxes[0].xyxy == pytest.approx((400, 500, 1200, 1000))
    assert placed.boxes[1].x_max == 4000 and placed.boxes[1].y_max == 2000  # rounding has not pushed it out


def test_the_size_that_the_model_sees_must_be_known(tmp_path: Path) -> None:
    item = make_item(draw_image(tmp_path / "a.png"), [(1, 2, 3, 4)])
    with pytest.raises(InputError, match=r"Qwen2\.5-VL writes boxes in pixels .* whose size is unknown here"):
        save_grounded_chat(make_plan([item], chat_family="qwen2_5_vl"), tmp_path)


def test_a_thin_box_stays_on_its_spot() -> None:
    box = Box.from_xyxy((0, 850, 1, 851))
    x_min, y_min, x_max, y_max = written_box(box.xyxy, (8192, 5460), ExportOptions())
    assert x_min <= 0 and y_min <= 850 and x_max >= 1 and y_max >= 851


def test_a_question_cannot_add_an_image(tmp_path: Path) -> None:
    row = written(tmp_path, "qwen3_vl", "What is <image><image>?")
    assert row["conversations"][0]["value"].count("<image>") == 1 and row["question"] == "What is <image><image>?"


def test_too_many_boxes_are_refused(tmp_path: Path) -> None:
    boxes = [(n / 50, 0, n / 50 + 40, 40) for n in range(1100)]
    item = make_item(draw_image(tmp_path / "a.png"), boxes)
    with pytest.raises(InputError, match="holds at most 1024 boxes"):
        save_grounded_chat(make_plan([item]), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"box_frame": "guess"},
        {"model_wh": [0, 5]},
        {"model_wh": [5]},
        {"image": "../a.png"},
        {"width": 5, "height": 5},
        {"conversations": []},
        {"conversations": [{"from": "gpt", "value": 7}]},
        {"conversations": [{"from": "gpt", "value": "[5, 5, 1, 1]"}]},
        {"question": ""},
    ],
)
def test_a_bad_row_is_counted(change: dict[str, Any], tmp_path: Path) -> None:
    row = written(tmp_path, "qwen3_vl")
    row["image"] = "in/a.png"
    (tmp_path / "train.jsonl").write_text(f"{json.dumps({**row, **change})}\n{json.dumps(row)}\n")
    loaded = load_grounded_chat(tmp_path)
    assert len(loaded.samples) == 1 and [bad.row for bad in loaded.invalid_rows] == ["train.jsonl line 1"]


def test_every_family_is_covered() -> None:
    assert set(FAMILIES) == {"qwen2_5_vl", "qwen3_vl", "qwen2_vl", "internvl", "llava_onevision"}
    with pytest.raises(DataError):
        load_grounded_chat(Path("/nowhere"))
