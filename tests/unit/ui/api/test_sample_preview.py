"""Preview of a dataset before a run: samples of every split without gold boxes, with small images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import DataError, InputError
from hart_studio.runs.config import RunConfig
from hart_studio.ui.api.sample_preview import THUMBNAIL_SIDE, Preview, preview_samples
from hart_studio.ui.pages.train import LaunchReport, SampleCards
from hart_studio.ui.pages.train_form import LaunchState


def config_of(folder: Path, rows: list[dict[str, Any]], **counts: int) -> RunConfig:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "jsonl", "path": str(path), "rl_samples": 2, "sft_samples": 2, "eval_samples": 2, **counts}
    return RunConfig.model_validate({"data": data, "method": {"chain": "ap_grpo+sft"}})


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "image": "a.png", "question": "Which?", "choices": ["red", "blue"], "answer": "B", **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (2000, 1000), "green").save(tmp_path / "a.png")
    (tmp_path / "served").mkdir()
    return tmp_path


def test_some_of_every_part_are_shown(folder: Path) -> None:
    config = config_of(folder, [row(str(number), gold_boxes=[[0, 0, 9, 9]]) for number in range(6)])
    preview = preview_samples(config, folder / "served")
    assert preview.headline == "2 for RL, 2 for SFT, 2 held out" and preview.left_out == ()
    assert [card.part for card in preview.cards] == ["RL", "RL", "SFT", "SFT", "held out"]
    card = preview.cards[0]
    assert (card.question, card.choices, card.answer, card.problem) == ("Which?", ("red", "blue"), "B", "")
    assert card.image is not None
    with Image.open(card.image) as image:
        assert max(image.size) <= THUMBNAIL_SIDE
    assert not any("gold" in name for name in vars(card)), "a true box is no part of what training gets"


def test_rows_that_are_left_out_and_images_that_do_not_open_are_said(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    rows = [row(str(number), image="broken.png") for number in range(6)] + [row("x", answer="Z")]
    preview = preview_samples(config_of(folder, rows), folder / "served")
    assert len(preview.left_out) == 1 and preview.left_out[0].startswith("1 row skipped: ")
    assert all(card.image is None and "broken.png" in card.problem for card in preview.cards)


def test_an_image_that_was_repainted_is_shown_as_it_is_now(folder: Path) -> None:
    config = config_of(folder, [row(str(number)) for number in range(6)])
    before = preview_samples(config, folder / "served").cards[0].image
    Image.new("RGB", (2000, 1000), "red").save(folder / "a.png")
    after = preview_samples(config, folder / "served").cards[0].image
    assert before and after and before != after
    with Image.open(after) as image:
        assert image.getpixel((5, 5))[0] > 200  # type: ignore[index]


def test_a_source_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(InputError, match="Lower one of the counts"):
        preview_samples(config_of(folder, [row("a")]), folder / "served")
    config = config_of(folder, [row("a")])
    (folder / "samples.jsonl").unlink()
    with pytest.raises(DataError):
        preview_samples(config, folder / "served")


def test_what_the_displays_send_is_json(folder: Path) -> None:
    preview = preview_samples(config_of(folder, [row(str(number)) for number in range(6)]), folder / "served")
    shown = SampleCards().postprocess(preview)
    assert shown is not None and len(json.dumps(shown)) > 100 and shown["cards"][0]["image"]["path"].endswith(".jpg")
    assert SampleCards().postprocess(None) is None
    assert SampleCards().postprocess(Preview("none", (), ())) == {"headline": "none", "left_out": [], "cards": []}
    state = LaunchState("AP-GRPO", problems=(("Group size G", "too small"),), is_checking=True)
    assert json.loads(json.dumps(LaunchReport(state).postprocess(state)))["problems"] == [["Group size G", "too small"]]
