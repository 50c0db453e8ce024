import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hart_studio.data.sources import load_needle
from hart_studio.image_domains import NEEDLE, NEEDLE_CUSTOM, read_image_domain
from hart_studio.needle.__main__ import main
from hart_studio.needle.dataset import iterate_items, write_image
from hart_studio.needle.scenes import SceneSettings

TINY = ["--width", "320", "--height", "240", "--objects", "3", "5"]


def test_presets_share_no_scene() -> None:
    scenes = {split: [item.scene for item in iterate_items(split, 20)] for split in ("train", "val", "test")}
    assert not [a for a in scenes["train"] if a in scenes["val"] or a in scenes["test"]]
    assert not [a for a in scenes["val"] if a in scenes["test"]]


def test_a_longer_run_starts_with_the_same_questions() -> None:
    assert list(iterate_items("test", 3)) == list(iterate_items("test", 6))[:3]
    assert list(iterate_items("test", 3, seed=1)) != list(iterate_items("test", 3))


def test_the_command_writes_images_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "needle"
    assert main(["--split", "val", "--count", "4", "--out", str(out), *TINY]) == 0
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"needle-val-0-{index:05d}" for index in range(4)]
    assert set(rows[0]) == {"id", "image", "question", "choices", "answer", "kind", "category", "gold_boxes"}
    for row in rows:
        with Image.open(out / row["image"]) as image:
            assert image.size == (320, 240)
        assert read_image_domain(out / row["image"]) == NEEDLE_CUSTOM
        assert row["kind"] in {"detail", "gist"}
        assert all(0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 240 for x1, y1, x2, y2 in row["gold_boxes"])
    loaded = load_needle(out)
    assert not loaded.invalid_rows
    samples = loaded.samples
    assert [sample.id for sample in samples] == [row["id"] for row in rows]
    assert [sample.answer for sample in samples] == [row["answer"] for row in rows]


@pytest.mark.parametrize(
    ("settings", "domain"),
    [
        ({}, NEEDLE),
        ({"width": 2048, "height": 1536}, NEEDLE_CUSTOM),
        ({"objects": (6, 14)}, NEEDLE_CUSTOM),
        ({"radius": (0.02, 0.03)}, NEEDLE_CUSTOM),
        ({"clutter": 3.0}, NEEDLE_CUSTOM),
        ({"detail_scale": (1.0, 2.0)}, NEEDLE_CUSTOM),
        ({"colors": ("red", "blue")}, NEEDLE_CUSTOM),
    ],
)
def test_only_scenes_with_the_default_settings_are_of_the_domain_that_calibrations_are_fitted_on(
    settings: dict[str, Any], domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart_studio.needle.dataset.draw_scene", lambda scene, wh: np.zeros((8, 8, 3), np.uint8))
    (item,) = iterate_items("val", 1, settings=SceneSettings(**settings))
    write_image(item.scene, tmp_path / "scene.jpg")
    assert read_image_domain(tmp_path / "scene.jpg") == domain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "count of at least 1"),
        (["--gist-share", "2"], "gist share"),
        (["--objects", "9", "3"], "fewest"),
        (["--seed", "-1"], "seed"),
        (["--width", "8"], "64 x 64"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "x"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_an_existing_data_set_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "1", "--out", str(tmp_path), *TINY]) == 0
    before = (tmp_path / "samples.jsonl").read_text()
    assert main(["--count", "1", "--out", str(tmp_path), *TINY]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "samples.jsonl").read_text() == before


def test_difficulty_reaches_the_scenes() -> None:
    items = list(iterate_items("train", 5, settings=SceneSettings(objects=(2, 2)), gist_share=0.0))
    assert all(len(item.scene.objects) == 2 and item.question.kind == "detail" for item in items)
