from pathlib import Path

import pytest

from hart_studio.errors import DataError
from hart_studio.evaluation.records import AnswerResult, SampleResult, read_records, write_records
from hart_studio.records import Box, Score
from tests.unit.evaluation.questions import evaluation

RIGHT = AnswerResult(score=Score(value=1.0, extracted="A", expected="A", rule="boxed"), outcome="ok")


def record(**changes: object) -> SampleResult:
    values: dict[str, object] = {
        "sample_id": "q",
        "category": "k",
        "image_wh": (100, 100),
        "answers": {"crops_only": RIGHT},
        "boxes": (Box.from_xyxy((0, 0, 20, 20)), Box.from_xyxy((10, 10, 40, 30))),
        "gold_boxes": (Box.from_xyxy((0, 0, 20, 40)), Box.from_xyxy((80, 80, 90, 90))),
    }
    return SampleResult.model_validate({**values, **changes})


def test_matches_by_hand() -> None:
    found = record()
    # First gold box, 800 pixels: 400 of them are in the first box, 200 in the second. IoU 400 / (400 + 800 - 400).
    assert [(gold.iog, gold.iou, gold.is_found) for gold in found.gold_matches] == [(0.5, 0.5, True), (0.0, 0.0, False)]
    assert (found.found_share, found.mean_iou, found.is_grounded) == (0.5, 0.25, False)
    assert found.area_share == pytest.approx(0.09)  # 400 + 600 - 100 that they share, of 10,000
    assert record(boxes=()).found_share == 0.0, "no box is a wrong box"


def test_who_could_not_point_has_no_wrong_box() -> None:
    assert record(error="gone").gold_matches == ()
    assert record(has_grounding_turn=False, boxes=()).gold_matches == ()
    assert record(gold_boxes=()).is_grounded is False


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = [record(), record(sample_id="r", error="gone", image_wh=None)]
    write_records(tmp_path / "r.jsonl", records)
    assert read_records(tmp_path / "r.jsonl") == records
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2
    (tmp_path / "r.jsonl").write_text('{"sample_id": "one"}\n')
    with pytest.raises(DataError, match=r"r\.jsonl, line 1"):
        read_records(tmp_path / "r.jsonl")


def test_names_in_tables() -> None:
    assert evaluation(title="hart", model="/home/me/models/hart").name == "hart"
    assert evaluation(title="best", model="/home/me/models/hart").name == "best (hart)"
    assert evaluation(title="Qwen2.5-VL-7B", model="Qwen/Qwen2.5-VL-7B-Instruct").name == "Qwen2.5-VL-7B"
    assert evaluation(title="GRPO", model="Qwen/Qwen2.5-VL-7B").name == "GRPO (Qwen/Qwen2.5-VL-7B)"
    again = evaluation(run_id="20260102-030405-treebench-123456")
    assert evaluation().label([evaluation(title="x")]) == "tiny"
    assert again.label([evaluation(), again]) == "tiny 123456"
