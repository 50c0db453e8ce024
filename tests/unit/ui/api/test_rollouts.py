"""Gold boxes for the Watch tab: the cost of one call does not grow with what a copied run asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.data import needle_source, run_samples
from hart_studio.data.run_samples import generate_needle_samples
from hart_studio.needle.dataset import NeedleItem, make_item
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api import rollouts as rollouts_module
from hart_studio.ui.api.rollouts import RolloutApi
from hart_studio.ui.api.runs import RunMonitor


def make_api(folder: Path) -> RolloutApi:
    return RolloutApi(RunMonitor(folder / "runs", folder / "served"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the scenes that were made."""
    found: list[int] = []

    def count(split: str, index: int, **options: object) -> NeedleItem:
        found.append(index)
        return make_item(split, index, **options)  # type: ignore[arg-type]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("all questions were made")

    monkeypatch.setattr(needle_source, "make_item", count)
    monkeypatch.setattr(run_samples, "generate_samples", refuse)
    return found


def test_of_a_million_drawn_scenes_one_is_made(made: list[int], tmp_path: Path) -> None:
    config = RunConfig.model_validate({"data": {"needle_samples": 1_000_000, "needle_seed": 7}})
    gold, layout = make_api(tmp_path), RunLayout(tmp_path)
    assert gold.find_gold_boxes(layout, config, "needle-train-7-999999")
    assert gold.find_gold_boxes(layout, config, "needle-train-7-00003") and made == [999_999, 3]
    for wrong in (
        "needle-train-7-1000000",
        "needle-train-7-" + "9" * 5000,
        "needle-train-7--1",
        "none",
        "",
        "x-\u0663",
    ):
        assert gold.find_gold_boxes(layout, config, wrong) == ()
    assert gold.find_gold_boxes(layout, config, "needle-train-8-00003") == () and len(made) == 2, "another seed"


def test_the_boxes_are_those_of_the_drawn_data_set(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"data": {"needle_samples": 1000, "needle_seed": 3}})
    few = config.data.model_copy(update={"needle_samples": 4})
    for sample in generate_needle_samples(few, tmp_path).loaded.samples:
        assert make_api(tmp_path).find_gold_boxes(RunLayout(tmp_path), config, sample.id) == sample.gold_boxes


def test_a_file_of_samples_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "a", "image": "a.png", "question": "?", "choices": [], "answer": "x", "gold_boxes": [[1, 2, 3, 4]]}
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps(row))
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    for data in ({"source": "jsonl", "path": str(file)}, {"source": "needle", "path": str(tmp_path)}):
        config = RunConfig.model_validate({"data": data})
        assert make_api(tmp_path).find_gold_boxes(RunLayout(tmp_path), config, "a")
        with monkeypatch.context() as patch:
            patch.setattr(rollouts_module, "MAX_GOLD_BYTES", file.stat().st_size - 1)
            assert make_api(tmp_path).find_gold_boxes(RunLayout(tmp_path), config, "a") == ()
