from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.evaluation import measurement
from hart_studio.evaluation.measurement import MEASURED_SETTINGS, measure, measure_batch, record_model_error
from hart_studio.evaluation.records import read_records
from hart_studio.needle.__main__ import main as write_needle
from hart_studio.records import Box, GoldSample, Protocol
from tests.fakes import ScriptedModel


def sample(folder: Path, name: str, *golds: Box) -> GoldSample:
    path = folder / f"{name}.png"
    Image.new("RGB", (200, 100), "white").save(path)
    return GoldSample(
        id=name, image=str(path), question=name, choices=("red", "blue"), answer="A", category="k", gold_boxes=golds
    )


def model() -> ScriptedModel:
    """Predicts the left half, 0 0 100 100 of 200 x 100 pixels; wrong only with image and crops."""
    return ScriptedModel(
        grounding=['[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', "nowhere"],
        crops_only="\\boxed{A}",
        full_and_crops="\\boxed{B}",
        direct="\\boxed{A}",
    )


def test_a_record_by_hand(tmp_path: Path) -> None:
    inside, outside, third = (
        Box.from_xyxy((0, 0, 50, 100)),
        Box.from_xyxy((100, 0, 200, 100)),
        Box.from_xyxy((70, 0, 170, 100)),
    )
    asked = model()
    first, second = measure(asked, [sample(tmp_path, "one", inside, outside), sample(tmp_path, "two", third)])
    protocols: tuple[Protocol, ...] = ("direct", "crops_only", "full_and_crops")
    assert [first.value(protocol) for protocol in protocols] == [1.0, 1.0, 0.0]
    assert [(gold.is_found, gold.iog, gold.iou) for gold in first.gold_matches] == [(True, 1.0, 0.5), (False, 0.0, 0.0)]
    assert (first.found_share, first.is_grounded, first.mean_iou) == (0.5, False, 0.25)
    assert (first.sample_id, first.category, first.area_share, len(first.boxes)) == ("one", "k", 0.5, 1)
    assert (first.image_wh, first.question, first.choices) == ((200, 100), "one", ("red", "blue"))
    assert (second.value("crops_only"), second.boxes, second.area_share) == (0.0, (), 0.0), "no box, no answer: wrong"
    assert second.value("direct") == 1.0
    assert len(asked.requests("grounding")) == 2, "one grounding turn serves all protocols"
    assert all(call.sampling.temperature == 0 for call in asked.calls)


def test_what_an_answer_cost_and_said_is_kept(tmp_path: Path) -> None:
    (record,) = measure(model(), [sample(tmp_path, "one", Box.from_xyxy((0, 0, 50, 100)))])
    direct, crops = record.answers["direct"], record.answers["crops_only"]
    assert (direct.text, direct.score.extracted, direct.score.rule) == ("\\boxed{A}", "A", "boxed")
    assert (direct.seconds, crops.seconds) == (0.25, 0.5), "one turn and two"
    assert crops.visual_tokens > direct.visual_tokens, "the crops come on top of the overview"


def test_direct_alone_asks_no_one_to_point(tmp_path: Path) -> None:
    asked = model()
    (record,) = measure_batch(
        asked, [sample(tmp_path, "one", Box.from_xyxy((0, 0, 50, 100)))], ["direct"], MEASURED_SETTINGS
    )
    assert asked.requests("grounding") == []
    assert (record.has_grounding_turn, record.gold_matches, record.is_grounded) == (False, (), False)
    with pytest.raises(DataError, match="one has no gold boxes or no grounding turn"):
        _ = record.found_share
    with pytest.raises(DataError, match="not asked under crops_only"):
        record.value("crops_only")


def test_both_extractors_judge_the_same_text(tmp_path: Path) -> None:
    loose = ScriptedModel(direct="Based on the sign, red.")
    (record,) = measure_batch(loose, [sample(tmp_path, "one")], ["direct"], MEASURED_SETTINGS, "mme_realworld")
    answer_result = record.answers["direct"]
    assert answer_result.score.value == 0.0 and answer_result.score.extracted is None, (
        "the strict one reads nothing from prose"
    )
    assert answer_result.official is not None and answer_result.official.rule.startswith("mme_realworld:")
    assert answer_result.official.extracted == "B", "the benchmark's own takes the first letter that it meets"


def test_an_image_that_cannot_be_read_is_unscored_not_wrong(tmp_path: Path) -> None:
    broken = sample(tmp_path, "one", Box.from_xyxy((0, 0, 9, 9))).model_copy(
        update={"image": str(tmp_path / "gone.png")}
    )
    whole = sample(tmp_path, "two", Box.from_xyxy((0, 0, 9, 9)))
    found = measure_batch(model(), [broken, whole], ["crops_only"], MEASURED_SETTINGS, "hr_bench")
    assert found[0].error and found[0].answers["crops_only"].score.value is None
    assert found[0].answers["crops_only"].official is None
    assert found[0].gold_matches == () and found[0].image_wh is None
    assert found[1].value("crops_only") == 1.0, "the others continue"
    with pytest.raises(DataError, match="Cannot read the image of one"):
        measure(model(), [broken])


def test_a_fault_has_a_record_too(tmp_path: Path) -> None:
    record = record_model_error(
        sample(tmp_path, "one", Box.from_xyxy((0, 0, 9, 9))), ["direct", "crops_only"], "server gone"
    )
    assert record.error == "server gone" and set(record.answers) == {"direct", "crops_only"}
    with pytest.raises(DataError, match="server gone"):
        record.value("direct")


def test_a_comparison_needs_gold_boxes_and_known_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one has no gold boxes"):
        measure(model(), [sample(tmp_path, "one")])
    unknown = sample(tmp_path, "two", Box.from_xyxy((0, 0, 9, 9))).model_copy(update={"answer": None})
    with pytest.raises(DataError, match="no known answer"):
        measure(model(), [unknown])


def test_the_command_writes_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--width", "320", "--height", "240", "--objects", "3", "3"]
    assert write_needle(["--split", "test", "--count", "2", "--out", str(tmp_path / "n"), *size]) == 0
    monkeypatch.setattr(measurement, "load_chat_model", lambda name: model())
    out = tmp_path / "measured.jsonl"
    assert measurement.main(["--data", str(tmp_path / "n"), "--out", str(out)]) == 0
    assert [record.sample_id for record in read_records(out)] == ["needle-test-0-00000", "needle-test-0-00001"]
    assert measurement.main(["--data", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    assert "samples.jsonl" in capsys.readouterr().err
    size_of_records = out.read_text()
    assert measurement.main(["--data", str(tmp_path / "n"), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == len(size_of_records.splitlines())
    samples = (tmp_path / "n" / "samples.jsonl").read_text()
    assert measurement.main(["--data", str(tmp_path / "n"), "--out", str(tmp_path / "n" / "samples.jsonl")]) == 2
    assert (tmp_path / "n" / "samples.jsonl").read_text() == samples
    assert "Cannot write a file of evaluation records" in capsys.readouterr().err
