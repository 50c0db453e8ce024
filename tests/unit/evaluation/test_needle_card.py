from pathlib import Path

import pytest

from hart_studio.data.sources import load_needle
from hart_studio.evaluation import needle_card
from hart_studio.evaluation.needle_card import format_table, make_card
from hart_studio.needle.__main__ import main as write_needle
from hart_studio.parsing import format_boxes
from hart_studio.records import GoldSample
from tests.fakes import ScriptedModel

WIDTH, HEIGHT = 640, 480


@pytest.fixture
def samples(tmp_path: Path) -> list[GoldSample]:
    size = ["--width", str(WIDTH), "--height", str(HEIGHT), "--objects", "3", "4"]
    assert (
        write_needle(["--split", "val", "--count", "6", "--gist-share", "0.5", "--out", str(tmp_path / "n"), *size])
        == 0
    )
    return list(load_needle(tmp_path / "n").samples)


def question_in(request, samples: list[GoldSample]) -> GoldSample:
    """The sample whose question the last message contains."""
    text = "".join(part for message in request.messages for part in message.parts if isinstance(part, str))
    (sample,) = [sample for sample in samples if sample.question in text]
    return sample


def knowing_model(samples: list[GoldSample], shift: float = 0.0) -> ScriptedModel:
    """Predicts the gold box (``shift`` thousandths off), reads every crop, and answers the full image wrongly."""

    def point(request) -> str:
        boxes = [
            (
                box.x_min / WIDTH * 1000 + shift,
                box.y_min / HEIGHT * 1000,
                box.x_max / WIDTH * 1000 + shift,
                box.y_max / HEIGHT * 1000,
            )
            for box in question_in(request, samples).gold_boxes
        ]
        return format_boxes([(box, "") for box in boxes], "qwen_json")

    def right(request) -> str:
        return f"\\boxed{{{question_in(request, samples).answer}}}"

    def wrong(request) -> str:
        sample = question_in(request, samples)
        return f"\\boxed{{{next(letter for letter in sample.letters if letter != sample.answer)}}}"

    return ScriptedModel(grounding=point, crops_only=right, full_and_crops=right, direct=wrong)


def test_a_model_that_points_and_reads_well(samples: list[GoldSample]) -> None:
    figures = make_card(knowing_model(samples), samples, batch=4)
    assert figures["grounding, IoG > 0.3"] == {"mean": 1.0, "stderr": 0.0, "count": 6}
    assert figures["grounding, mean IoU"]["mean"] > 0.95
    assert figures["wrong box given right crops-only answer"]["mean"] == 0.0
    for kind in {sample.category for sample in samples}:
        assert figures[f"accuracy, crops_only, {kind}"]["mean"] == 1.0
        assert figures[f"accuracy, gold crops, {kind}"]["mean"] == 1.0
        assert figures[f"accuracy, full_and_crops, {kind}"]["mean"] == 1.0
        assert figures[f"accuracy, direct, {kind}"]["mean"] == 0.0


def test_a_right_answer_on_a_wrong_box_is_counted(samples: list[GoldSample]) -> None:
    figures = make_card(knowing_model(samples, shift=-400.0), samples)
    found = figures["grounding, IoG > 0.3"]["mean"]
    assert found < 0.5
    assert figures["wrong box given right crops-only answer"]["mean"] > 0.0
    assert figures["accuracy, gold crops, detail"]["mean"] == 1.0  # reading does not depend on pointing


def test_the_table_has_percent_errors_and_counts() -> None:
    table = format_table(
        {"b": {"mean": 0.5, "stderr": 0.1, "count": 25}, "a": {"mean": 1.0, "stderr": 0.0, "count": 3}}
    )
    assert table.splitlines()[2:] == ["| a | 100.0 ± 0.0 % | 3 |", "| b | 50.0 ± 10.0 % | 25 |"]


def test_the_command_prints_the_table(
    samples: list[GoldSample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(needle_card, "load_model", lambda name: knowing_model(samples))
    json_path = tmp_path / "figures.json"
    assert needle_card.main(["--data", str(tmp_path / "n"), "--limit", "2", "--json", str(json_path)]) == 0
    assert "| grounding, IoG > 0.3 | 100.0 ± 0.0 % | 2 |" in capsys.readouterr().out
    assert json_path.exists()
    (tmp_path / "mine.json").write_text("[]")
    assert needle_card.main(["--data", str(tmp_path / "n"), "--json", str(tmp_path / "mine.json")]) == 2
    assert (tmp_path / "mine.json").read_text() == "[]"
    assert needle_card.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "samples.jsonl" in capsys.readouterr().err
