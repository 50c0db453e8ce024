"""Invalid input: each user mistake gives a one-line error.

Everything goes through the command, so the message is the one that is really shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hart_studio import ask
from tests.fakes import ScriptedModel
from tests.images import encoded, landmark, png

pytestmark = [pytest.mark.core, pytest.mark.integration]

JPEG = encoded(landmark(640, 480), "JPEG")
GOOD_QUESTION = ["Which digit is on the sign?"]

IMAGES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "file is empty"),
    "text": (b"not an image at all", "not an image"),
    "html": (b"<!doctype html><p>404", "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(40), "MP4"),
    "jpeg cut in the header": (JPEG[:12], "truncated"),
    "jpeg cut in the body": (JPEG[: len(JPEG) // 3], "truncated"),
    "png cut short": (encoded(landmark(64, 48), "PNG")[:60], "truncated"),
    "no pixels": (png(0, 5, b""), "width or height of the PNG is 0"),
    "decompression bomb": (png(100_000, 100_000, b""), "300,000,000"),
}

ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "empty question": ([""], "question"),
    "blank question": (["   \n"], "question"),
    "one choice": ([*GOOD_QUESTION, "--choice", "only"], "2 to 26"),
    "too many choices": ([*GOOD_QUESTION, *(["--choice", "x"] * 27)], "2 to 26"),
    "an empty choice": ([*GOOD_QUESTION, "--choice", "a", "--choice", " "], "empty"),
    "answer is no option": ([*GOOD_QUESTION, "--choice", "1", "--choice", "2", "--answer", "9"], "'9'"),
    "answer letter past the options": ([*GOOD_QUESTION, "--choice", "x", "--choice", "y", "--answer", "C"], "'C'"),
    "ambiguous answer": ([*GOOD_QUESTION, "--choice", "B", "--choice", "A", "--answer", "a"], "parentheses"),
    "same choice twice": ([*GOOD_QUESTION, "--choice", "7", "--choice", "7", "--answer", "7"], "A and B"),
    "negative padding": ([*GOOD_QUESTION, "--padding", "-1"], "padding"),
    "padding above 1": ([*GOOD_QUESTION, "--padding", "2"], "padding"),
    "padding is nan": ([*GOOD_QUESTION, "--padding", "nan"], "padding"),
    "no boxes allowed": ([*GOOD_QUESTION, "--max-boxes", "0"], "max_boxes"),
    "negative temperature": ([*GOOD_QUESTION, "--temperature", "-0.5"], "temperature"),
    "infinite temperature": ([*GOOD_QUESTION, "--temperature", "inf"], "temperature"),
    "tiny overview": ([*GOOD_QUESTION, "--overview-max-pixels", "5"], "overview_max_pixels"),
    "no rollouts": ([*GOOD_QUESTION, "--rollouts", "0"], "at least 1 rollout"),
    "equal rollouts": ([*GOOD_QUESTION, "--rollouts", "4"], "temperature above 0"),
    "half a surrogate": (["broken \udcff text?"], "Unicode"),
}


def make_folder(files: dict[str, str]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        folder = root / "model"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder

    return make


MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no such folder": (lambda root: root / "nowhere", "nowhere"),
    "an empty folder": (make_folder({}), "config.json"),
    "a file": (lambda root: root / "photo.jpg", "photo.jpg"),
    "config is no JSON": (make_folder({"config.json": "{"}), "config.json"),
    "config is a list": (make_folder({"config.json": "[]"}), "config.json"),
    "a text model": (make_folder({"config.json": '{"model_type": "llama"}'}), "llama"),
    "an unknown family": (make_folder({"config.json": '{"model_type": "galactus"}'}), "galactus"),
    "InternVL with remote code": (make_folder({"config.json": '{"model_type": "internvl_chat"}'}), "-hf"),
    "a family without a processor": (make_folder({"config.json": '{"model_type": "qwen2_5_vl"}'}), "processor"),
}

BOXES: dict[str, tuple[str, str]] = {
    "prose": ("I think it is somewhere on the left.", "no_box"),
    "nothing": ("", "no_box"),
    "an empty list": ("```json\n[]\n```", "no_box"),
    "inverted": ('[{"bbox_2d": [500, 500, 100, 100]}]', "bad_box"),
    "zero area": ('[{"bbox_2d": [500, 500, 500, 500]}]', "bad_box"),
    "outside of the image": ('[{"bbox_2d": [1500, 1500, 1900, 1900]}]', "bad_box"),
    "not numbers": ('[{"bbox_2d": [NaN, 1, Infinity, 5]}]', "bad_box"),
    "three numbers": ('[{"bbox_2d": [1, 2, 3]}]', "bad_box"),
    "absurd numbers": ('[{"bbox_2d": [0, 0, 1e30, 1e30]}]', "bad_box"),
}


def test_the_table_is_long_enough() -> None:
    assert len(IMAGES) + len(ARGUMENTS) + len(MODELS) + len(BOXES) >= 40


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    return path


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, expect it to refuse, and return its one line."""
    assert ask.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("ask: ")
    assert "Traceback" not in err
    return err


@pytest.fixture
def no_model_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(grounding="[1, 1, 9, 9]", direct="x", crops_only="x", full_and_crops="x")
    monkeypatch.setattr(ask, "load_chat_model", lambda name, device, **_: model)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.usefixtures("no_model_needed")
@pytest.mark.parametrize("case", IMAGES)
def test_a_bad_image(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, message = IMAGES[case]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    assert message in refuse([str(path), *GOOD_QUESTION], capsys)


@pytest.mark.usefixtures("no_model_needed")
@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_bad_question_or_setting(case: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = ARGUMENTS[case]
    assert message in refuse([str(image), *arguments], capsys)


@pytest.mark.parametrize("case", MODELS)
def test_a_bad_model(case: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = MODELS[case]
    assert message in refuse([str(image), *GOOD_QUESTION, "--model", str(make(tmp_path))], capsys)


@pytest.mark.parametrize("case", BOXES)
def test_a_bad_box_is_an_outcome_and_not_an_error(
    case: str, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, outcome = BOXES[case]
    model = ScriptedModel(grounding=text, direct="7")
    monkeypatch.setattr(ask, "load_chat_model", lambda name, device, **_: model)
    command = [str(image), *GOOD_QUESTION, "--answer", "7", "--protocol", "crops_only", "--json"]
    assert ask.main(command) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["outcome"] == outcome
    assert reply["boxes"] == [] and reply["crops"] == []
    assert reply["protocols"]["crops_only"]["value"] == 0.0
