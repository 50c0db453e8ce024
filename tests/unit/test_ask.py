from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hart_studio import ask
from hart_studio.errors import ModelError
from hart_studio.image_domains import NEEDLE, embed_domain
from hart_studio.models.catalog import BUILT_IN_HART, BUILT_IN_MODEL, TRAINED_MODEL
from hart_studio.pipeline.trace import load_trace
from tests.fakes import ScriptedModel
from tests.images import encoded

BOX = '[{"bbox_2d": [100, 200, 300, 400], "label": "sign\u001b[31m"}]'


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(3).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    path = tmp_path / "street.png"
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace the real model with a scripted one; list loaded models."""
    calls: list[tuple[str, str]] = []

    def load(name: str, device: str, **_: str) -> ScriptedModel:
        calls.append((name, device))
        return ScriptedModel(
            grounding=BOX,
            crops_only=r"\boxed{B}",
            direct=r"\boxed{A}",
            full_and_crops="\u001b]0;x\u0007 maybe",
            name=name,
        )

    monkeypatch.setattr(ask, "load_chat_model", load)
    return calls


CHOICES = ["--choice", "3", "--choice", "7"]


def test_json_is_one_object_with_everything(
    image: Path, loaded: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask.main([str(image), "Which digit?", *CHOICES, "--answer", "7", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    reply = json.loads(out)
    assert reply["image"]["width"] == 1200
    assert reply["image"]["height"] == 900
    assert reply["model"] == BUILT_IN_MODEL
    assert reply["outcome"] == "ok"
    assert [reply["boxes"][0][edge] for edge in ("x_min", "y_min", "x_max", "y_max")] == [120, 180, 360, 360]
    assert reply["crops"] == [{"x_min": 120, "y_min": 180, "x_max": 360, "y_max": 360}]
    assert {name: (found["answer"], found["value"]) for name, found in reply["protocols"].items()} == {
        "crops_only": ("B", 1.0),
        "direct": ("A", 0.0),
        "full_and_crops": (None, 0.0),
    }
    assert all(found["visual_tokens"] > 0 and found["seconds"] > 0 for found in reply["protocols"].values())
    assert loaded == [(BUILT_IN_MODEL, "auto")]


def test_built_in_models_have_names(image: Path, loaded: list[tuple[str, str]]) -> None:
    assert ask.main([str(image), "Which digit?", *CHOICES, "--model", BUILT_IN_HART]) == 0
    assert loaded == [(TRAINED_MODEL, "auto")]


def test_a_model_that_was_not_made_for_the_image_is_warned_of_first(
    image: Path, loaded: list[tuple[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def lines(*more: str) -> list[str]:
        assert ask.main([*more, "Which digit?", *CHOICES]) == 0
        return capsys.readouterr().out.splitlines()

    warning = (
        "hart-tiny-base was trained only on synthetic needle scenes; its answers on this image are not meaningful."
    )
    assert lines(str(image))[0].startswith(f"WARNING   {warning} Choose a model such as Qwen/")
    assert json.loads("\n".join(lines("--json", str(image))))["warnings"][0].startswith(warning)
    assert lines(str(image), "--model", "some/model")[0].startswith("image ")
    scene = tmp_path / "scene.jpg"
    scene.write_bytes(embed_domain(encoded(Image.new("RGB", (1200, 900)), "JPEG"), NEEDLE))
    assert lines(str(scene))[0].startswith("image ")
    assert json.loads("\n".join(lines("--json", str(scene))))["warnings"] == []


def test_the_table_is_short_and_safe_for_a_terminal(
    image: Path, loaded: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask.main([str(image), "Which digit?", *CHOICES, "--answer", "B", "--model", "some/model"]) == 0
    out = capsys.readouterr().out
    assert "street.png, 1200 x 900" in out
    assert "some/model (qwen3_vl)" in out
    assert "[120, 180, 360, 360]  4.00 % of the image  sign" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "(B) 7" in rows["crops_only"]
    assert any(line.startswith("full_and_crops  none readable ") for line in out.splitlines())
    assert " yes " in rows["crops_only"]
    assert "(A) 3" in rows["direct"]
    assert " no " in rows["direct"]
    assert "none (ok)" not in out and "full_and_crops wrote: ]0;x maybe" in out
    assert "correct from the crops 100 %" in rows["self-check"]
    assert all(sign.isprintable() or sign == "\n" for sign in out)


@pytest.mark.parametrize(
    ("grounding", "expected"),
    [
        ("Somewhere in the middle.", "region    none predicted (outcome: no_box): the model wrote no box"),
        (
            '[{"bbox_2d": [300, 200, 100, 100], "label": "x"}]',
            "region    none predicted (outcome: bad_box): the model wrote no valid box",
        ),
    ],
)
def test_what_is_missing_is_said_in_words(
    grounding: str, expected: str, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel(grounding=grounding, crops_only="A", direct="\x1b[31mI cannot say.", full_and_crops="A")
    monkeypatch.setattr(ask, "load_chat_model", lambda name, device, **_: model)
    assert ask.main([str(image), "Which digit?", *CHOICES]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert expected in lines
    outcome = "no_box" if "no_box" in expected else "bad_box"
    rows = {line.split()[0]: line for line in lines if line.startswith(("crops_only  ", "direct  "))}
    assert f"none (outcome: {outcome})" in rows["crops_only"]
    assert "none readable" in rows["direct"] and " - " in rows["direct"], "right or wrong is not known"
    assert any(line.startswith("crops_only: no box to crop, so the model was not asked") for line in lines)
    assert "direct wrote: [31mI cannot say." in lines
    assert not any("(ok)" in line for line in lines)


def test_progress_is_shown_in_a_terminal_and_never_with_json(
    image: Path, loaded: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert ask.main([str(image), "Which?"]) == 0
    err = capsys.readouterr().err
    assert "loading the model" in err and "Answering from the crops only" in err
    assert ask.main([str(image), "Which?", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_an_open_question_without_a_known_answer(
    image: Path, loaded: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask.main([str(image), "Which digit?", "--protocol", "direct"]) == 0
    out = capsys.readouterr().out
    assert "crops_only" not in out
    assert "region" not in out
    assert " yes " not in out
    assert " no " not in out


def test_settings_reach_the_model(image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = ScriptedModel(grounding=BOX, crops_only=["B", "A", "B"])
    monkeypatch.setattr(ask, "load_chat_model", lambda name, device, **_: model)
    flags = ["--protocol", "crops_only", "--temperature", "0.8", "--rollouts", "3", "--seed", "4"]
    flags += ["--overview-max-pixels", "20000", "--padding", "0.5", "--max-boxes", "1", "--device", "cpu"]
    folder = tmp_path / "out"
    assert ask.main([str(image), "Which?", *CHOICES, *flags, "--save", str(folder)]) == 0
    assert model.calls[0].group_size == 3
    assert [(call.sampling.temperature, call.sampling.seed) for call in model.calls] == [(0.8, 4 + 2**32), (0.8, 4)]
    saved = load_trace(folder)
    assert saved.trace.settings.overview_max_pixels == 20000
    assert [crop.xyxy for crop in saved.trace.crops] == [(0, 90, 480, 450)]


def test_a_saved_trace_can_be_reopened(image: Path, loaded: list[tuple[str, str]], tmp_path: Path) -> None:
    assert ask.main([str(image), "Which?", "--save", str(tmp_path / "a" / "b")]) == 0
    saved = load_trace(tmp_path / "a" / "b")
    with Image.open(saved.crops[0]) as crop:
        assert crop.size == (240, 180)


BAD_INPUT: list[tuple[list[str], str]] = [
    (["{folder}/nowhere.png", "Which?"], "nowhere.png"),
    (["{folder}", "Which?"], "a folder"),
    (["{folder}/empty.png", "Which?"], "the file is empty"),
    (["{folder}/text.png", "Which?"], "not an image"),
    (["{image}", ""], "expected a question"),
    (["{image}", "Which?", "--choice", "red"], "2 to 26"),
    (["{image}", "Which?", "--choice", "red", "--choice", " "], "every choice to have text"),
    (["{image}", "Which?", "--choice", "red", "--choice", "blue", "--answer", "green"], "(A) red, (B) blue"),
    (["{image}", "Which?", "--padding", "-1"], "the setting padding is -1.0"),
    (["{image}", "Which?", "--padding", "nan"], "the setting padding"),
    (["{image}", "Which?", "--max-boxes", "0"], "the setting max_boxes is 0"),
    (["{image}", "Which?", "--temperature", "-2"], "the setting temperature"),
    (["{image}", "Which?", "--overview-max-pixels", "5"], "the setting overview_max_pixels is 5"),
    (["{image}", "Which?", "--rollouts", "0"], "at least 1 rollout"),
    (["{image}", "Which?", "--rollouts", "4"], "temperature above 0"),
]


@pytest.mark.parametrize(("argv", "message"), BAD_INPUT)
def test_bad_input_is_exit_code_2_and_one_line(
    argv: list[str],
    message: str,
    image: Path,
    tmp_path: Path,
    loaded: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    assert ask.main([part.format(folder=tmp_path, image=image) for part in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ask: ")
    assert err.count("\n") == 1
    assert message in err


def test_bad_input_is_reported_before_a_model_is_loaded(image: Path, loaded: list[Any]) -> None:
    assert ask.main([str(image), "Which?", "--choice", "red", "--choice", "blue", "--answer", "green"]) == 2
    assert ask.main([str(image.with_name("nowhere.png")), "Which?"]) == 2
    assert ask.main([str(image), "Which?", "--rollouts", "2"]) == 2
    assert loaded == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: IMAGE, QUESTION"),
        (["a.png"], "required: QUESTION"),
        (["a.png", "Which?", "--protocol", "guess"], "'guess'"),
        (["a.png", "Which?", "--padding", "wide"], "'wide'"),
        (["a.png", "Which?", "--shade", "red"], "--shade"),
    ],
)
def test_wrong_flags_are_exit_code_2_and_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        ask.main(argv)
    assert exit_info.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_a_model_error_is_one_line_even_when_its_text_is_not(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str, device: str, **_: str) -> ScriptedModel:
        raise ModelError("expected a model,\n  got a sandwich")

    monkeypatch.setattr(ask, "load_chat_model", load)
    assert ask.main([str(image), "Which?"]) == 2
    assert capsys.readouterr().err == "ask: expected a model, got a sandwich\n"


def test_a_real_missing_model_is_reported(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main([str(image), "Which?", "--model", str(tmp_path / "no-model")]) == 2
    err = capsys.readouterr().err
    assert "no-model" in err
    assert err.count("\n") == 1


def test_a_trace_that_cannot_be_written_is_reported(
    image: Path, loaded: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert ask.main([str(image), "Which?", "--save", str(tmp_path / "file" / "trace")]) == 2
    assert "Cannot write the trace to" in capsys.readouterr().err
    assert loaded == [], "reported before the model is called"


@pytest.mark.parametrize("name", ["trace.json", "images/overview.png"])
def test_a_trace_replaces_only_an_earlier_trace(
    name: str, image: Path, loaded: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    assert ask.main([str(image), "Which?", "--save", str(tmp_path / "mine")]) == 2
    assert "Cannot write a trace to" in capsys.readouterr().err
    assert mine.read_text() == "{}" and loaded == []
    for _ in range(2):
        assert ask.main([str(image), "Which?", "--save", str(tmp_path / "new")]) == 0
