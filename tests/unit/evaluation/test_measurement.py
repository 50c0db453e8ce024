from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.evaluation import measurement
from hart_studio.evaluation.measurement import Measured, measure, read_records, write_records
from hart_studio.needle.__main__ import main as write_needle
from hart_studio.records import Box, GoldSample
from tests.fakes import ScriptedModel


def sample(folder: Path, name: str, *golds: Box) -> GoldSample:
    path = folder / f"{name}.png"
    Image.new("RGB", (200, 100), "white").save(path)
    return GoldSample(
        id=name, image=str(path), question=name, choices=("red", "blue"), answer="A", category="k", gold_boxes=golds
    )


def model() -> ScriptedModel:
    """Points at the left half, that is at 0 0 100 100 of 200 x 100 pixels; wrong only with picture and crops."""
    return ScriptedModel(
        grounding=['[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', "nowhere"],
        crops_only="\\boxed{A}",
        full_and_crops="\\boxed{B}",
        direct="\\boxed{A}",
    )


def test_a_record_by_hand(tmp_path: Path) -> None:
    inside, outside, third = Box.of((0, 0, 50, 100)), Box.of((100, 0, 200, 100)), Box.of((70, 0, 170, 100))
    asked = model()
    first, second = measure(asked, [sample(tmp_path, "one", inside, outside), sample(tmp_path, "two", third)])
    assert first.answers == {"direct": 1.0, "crops_only": 1.0, "full_and_crops": 0.0}
    assert [(gold.is_found, gold.iog, gold.iou) for gold in first.golds] == [(True, 1.0, 0.5), (False, 0.0, 0.0)]
    assert (first.found_share, first.is_grounded, first.mean_iou) == (0.5, False, 0.25)
    assert (first.sample_id, first.category, first.area_share, first.boxes) == ("one", "k", 0.5, 1)
    assert (second.answers["crops_only"], second.boxes, second.area_share) == (0.0, 0, 0.0), "no box, no answer: wrong"
    assert second.answers["direct"] == 1.0
    assert len(asked.requests("grounding")) == 2, "one grounding turn serves all protocols"
    assert all(call.sampling.temperature == 0 for call in asked.calls)


def test_the_threshold_is_strict(tmp_path: Path) -> None:
    just = sample(tmp_path, "just", Box.of((70, 0, 170, 100)))  # 30 of 100 columns
    more = sample(tmp_path, "more", Box.of((69, 0, 169, 100)))
    records = [measure(model(), [one])[0] for one in (just, more)]
    assert [record.is_grounded for record in records] == [False, True]


def test_a_picture_that_cannot_be_read_ends_the_measurement(tmp_path: Path) -> None:
    broken = sample(tmp_path, "one", Box.of((0, 0, 9, 9))).model_copy(update={"image": str(tmp_path / "gone.png")})
    with pytest.raises(DataError, match="readable picture of one"):
        measure(model(), [broken])


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = measure(model(), [sample(tmp_path, "one", Box.of((0, 0, 30, 70)))])
    write_records(tmp_path / "r.jsonl", records)
    assert read_records(tmp_path / "r.jsonl") == records
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1
    (tmp_path / "r.jsonl").write_text('{"sample_id": "one"}\n')
    with pytest.raises(DataError, match=r"r\.jsonl line 1"):
        read_records(tmp_path / "r.jsonl")


def test_a_record_needs_a_gold_box() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Measured(sample_id="a", category="", answers={}, golds=(), area_share=0.0, boxes=0)


def test_the_command_writes_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--width", "320", "--height", "240", "--objects", "3", "3"]
    assert write_needle(["--split", "test", "--count", "2", "--out", str(tmp_path / "n"), *size]) == 0
    monkeypatch.setattr(measurement, "load_model", lambda name: model())
    out = tmp_path / "measured.jsonl"
    assert measurement.main(["--data", str(tmp_path / "n"), "--out", str(out)]) == 0
    assert [record.sample_id for record in read_records(out)] == ["needle-test-0-00000", "needle-test-0-00001"]
    assert measurement.main(["--data", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    assert "samples.jsonl" in capsys.readouterr().err
