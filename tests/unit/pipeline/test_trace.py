from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hart_studio.errors import DataError, HartError
from hart_studio.imaging import SourceImage
from hart_studio.pipeline.inference import ask_question
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.trace import (
    Trace,
    load_trace,
    render_images,
    save_trace,
    summarize_trace,
    zip_trace,
)
from hart_studio.records import PROTOCOLS, Protocol
from tests.fakes import ScriptedModel
from tests.unit.pipeline.conftest import boxes_text

NASTY = '<script>alert("${x}")</script>\u202e\u0000'
FILES = ["images/crop_1.png", "images/crop_2.png", "images/overview.png", "trace.json"]


def make_trace(
    image: Path, protocols: tuple[Protocol, ...] = PROTOCOLS, grounding: str | None = None, question: str = "Which?"
) -> Trace:
    model = ScriptedModel(
        grounding=grounding or boxes_text((100, 200, 300, 400), (500, 500, 1000, 1000)),
        crops_only=r"\boxed{B}",
        direct=NASTY,
        full_and_crops=r"\boxed{A}",
    )
    return ask_question(model, str(image), question, ("3", "7"), "B", protocols, LoopSettings())


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_trace_comes_back_as_it_was(image: Path, tmp_path: Path) -> None:
    trace = make_trace(image, question=f"What is {NASTY.strip(chr(0))}?")
    folder = tmp_path / "deep" / "trace"
    save_trace(trace, folder, render_images(trace, SourceImage(image)))
    assert files_below(folder) == FILES
    saved = load_trace(folder)
    assert saved.trace == trace
    original = np.asarray(Image.open(image))
    np.testing.assert_array_equal(np.asarray(Image.open(saved.crops[0])), original[180:360, 120:360])
    np.testing.assert_array_equal(np.asarray(Image.open(saved.crops[1])), original[450:900, 600:1200])
    with Image.open(saved.overview) as overview:
        assert overview.size == (288, 192), "the size that the processor produced"


def test_the_zip_holds_the_same_files(image: Path, tmp_path: Path) -> None:
    trace = make_trace(image)
    images = render_images(trace, SourceImage(image))
    save_trace(trace, tmp_path / "folder", images)
    with zipfile.ZipFile(io.BytesIO(zip_trace(trace, images))) as archive:
        assert sorted(archive.namelist()) == FILES
        assert archive.testzip() is None
        for name in FILES:
            assert archive.read(name) == (tmp_path / "folder" / name).read_bytes()


@pytest.mark.parametrize(
    ("protocols", "grounding", "files"),
    [
        (("direct",), None, FILES[2:]),
        (("crops_only",), "nowhere", FILES[2:]),
        (("full_and_crops",), None, FILES),
    ],
)
def test_a_trace_without_crops_has_no_crop_images(
    image: Path, tmp_path: Path, protocols: tuple[Protocol, ...], grounding: str | None, files: list[str]
) -> None:
    trace = make_trace(image, protocols, grounding)
    save_trace(trace, tmp_path / "trace", render_images(trace, SourceImage(image)))
    assert files_below(tmp_path / "trace") == files
    assert load_trace(tmp_path / "trace").trace == trace


def test_a_newer_trace_replaces_an_older_one(image: Path, tmp_path: Path) -> None:
    for protocols in (PROTOCOLS, ("direct",)):
        trace = make_trace(image, protocols)
        save_trace(trace, tmp_path / "trace", render_images(trace, SourceImage(image)))
        assert load_trace(tmp_path / "trace").trace == trace
    assert load_trace(tmp_path / "trace").crops == ()


@pytest.fixture
def saved_folder(image: Path, tmp_path: Path) -> Path:
    trace = make_trace(image)
    save_trace(trace, tmp_path / "trace", render_images(trace, SourceImage(image)))
    return tmp_path / "trace"


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read trace\.json"):
        load_trace(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"app_version": 1}'])
def test_what_is_no_trace_is_reported(saved_folder: Path, content: bytes) -> None:
    (saved_folder / "trace.json").write_bytes(content)
    with pytest.raises(DataError, match="is not a trace"):
        load_trace(saved_folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("protocols", "crops_only", "crops", 0, "x_max"), -5),
        (("protocols", "crops_only", "score", "value"), "right"),
        (("protocols", "guess"), {}),
        (("image", "width"), 0),
        (("settings", "temperature"), -1),
        (("surprise",), 1),
        (("created_at",), "yesterday"),
    ],
)
def test_an_edited_trace_is_refused(saved_folder: Path, path: tuple[str | int, ...], value: Any) -> None:
    document = json.loads((saved_folder / "trace.json").read_text())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (saved_folder / "trace.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="is not a trace"):
        load_trace(saved_folder)


def test_a_trace_without_any_protocol_is_refused(saved_folder: Path) -> None:
    document = json.loads((saved_folder / "trace.json").read_text())
    document["protocols"] = {}
    (saved_folder / "trace.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="is not a trace"):
        load_trace(saved_folder)


def test_a_missing_image_is_reported(saved_folder: Path) -> None:
    (saved_folder / "images" / "crop_2.png").unlink()
    with pytest.raises(DataError, match=r"incomplete.*crop_2\.png"):
        load_trace(saved_folder)


def test_a_image_that_leads_out_of_the_folder_is_refused(saved_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    link = saved_folder / "images" / "overview.png"
    link.unlink()
    link.symlink_to(secret)
    with pytest.raises(HartError, match="relative path"):
        load_trace(saved_folder)


def test_the_summary_is_plain_json_with_the_boxes_in_original_pixels(image: Path) -> None:
    trace = make_trace(image)
    summary = summarize_trace(trace)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["image"] == {"name": "noise.png", "width": 1200, "height": 900}
    assert summary["model"] == "scripted"
    assert summary["outcome"] == "ok"
    assert summary["boxes"] == [
        {"x_min": 120, "y_min": 180, "x_max": 360, "y_max": 360, "label": "sign"},
        {"x_min": 600, "y_min": 450, "x_max": 1200, "y_max": 900, "label": "sign"},
    ]
    assert summary["crops"][1] == {"x_min": 600, "y_min": 450, "x_max": 1200, "y_max": 900}
    assert summary["protocols"]["direct"] == {
        "answer": None,
        "text": NASTY,
        "value": 0.0,
        "used_fallback": False,
        "visual_tokens": 54,
        "seconds": 0.25,
    }
    crops_only = summary["protocols"]["crops_only"]
    # Overview 54 tokens, then 240 x 180 read as 192 x 160 (30) and 600 x 450 read as 192 x 160 (30).
    assert (crops_only["answer"], crops_only["value"], crops_only["visual_tokens"]) == ("B", 1.0, 114)
    assert summary["verification"]["evidence"] == "known_answer"


def test_the_summary_without_boxes_has_the_outcome(image: Path) -> None:
    assert summarize_trace(make_trace(image, ("direct",)))["outcome"] == "ok"
    lost = summarize_trace(make_trace(image, ("direct", "crops_only"), "nowhere"))
    assert (lost["outcome"], lost["boxes"], lost["protocols"]["crops_only"]["text"]) == ("no_box", [], None)
