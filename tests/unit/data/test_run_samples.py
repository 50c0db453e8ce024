from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.data.run_samples import MANIFEST, SCENE_WH, load_samples, split_run
from hart_studio.errors import ImageError
from hart_studio.runs.config import DataConfig, RunConfig

NEEDLE = DataConfig(needle_samples=6, rl_samples=3, sft_samples=2, eval_samples=1)


def test_scenes_are_the_same_again_and_drawn_on_first_use(tmp_path: Path) -> None:
    source = load_samples(NEEDLE, tmp_path / "images")
    again = load_samples(NEEDLE, tmp_path / "images")
    assert source.loaded == again.loaded
    assert len(source.loaded.samples) == 6 and list((tmp_path / "images").iterdir()) == []
    sample = source.loaded.samples[0]
    assert source.open_image(sample.image).wh == SCENE_WH
    (path,) = (tmp_path / "images").iterdir()
    drawn = path.stat().st_mtime_ns
    assert again.open_image(sample.image).wh == SCENE_WH
    assert path.stat().st_mtime_ns == drawn, "drawn twice"
    (gold, *_) = sample.gold_boxes
    assert 0 <= gold.x_min < gold.x_max <= SCENE_WH[0]
    other = load_samples(NEEDLE.model_copy(update={"needle_seed": 1}), tmp_path / "other")
    assert (
        other.loaded.samples[0].question != sample.question or other.loaded.samples[0].gold_boxes != sample.gold_boxes
    )
    with pytest.raises(ImageError):
        source.open_image(str(tmp_path / "elsewhere.jpg"))


def test_loading_creates_no_folder(tmp_path: Path) -> None:
    load_samples(NEEDLE, tmp_path / "images", makes_folder=False)
    assert list(tmp_path.iterdir()) == []


def test_the_parts_of_training_have_no_gold_boxes_and_stay_what_they_were(tmp_path: Path) -> None:
    config = RunConfig(data=NEEDLE)
    source = load_samples(config.data, tmp_path / "images")
    reader = split_run(config, source, tmp_path, is_writer=False)
    assert not (tmp_path / MANIFEST).exists()
    split = split_run(config, source, tmp_path, is_writer=True)
    assert split == reader == split_run(config, source, tmp_path, is_writer=False)
    assert (len(split.rl), len(split.sft), len(split.evaluation)) == (3, 2, 1)
    for sample in (*split.rl, *split.sft):
        with pytest.raises(AttributeError):
            _ = sample.gold_boxes  # type: ignore[attr-defined]
        assert "gold" not in sample.model_dump_json()
    assert split.evaluation[0].gold_boxes


@pytest.mark.parametrize(("stages", "sizes"), [("ap_grpo", (3, 0)), ("sft", (0, 2)), ("ap_grpo+sft", (3, 2))])
def test_a_stage_that_is_not_run_gets_no_samples(tmp_path: Path, stages: str, sizes: tuple[int, int]) -> None:
    config = RunConfig.model_validate({"data": NEEDLE.model_dump(), "method": {"stages": stages}})
    split = split_run(config, load_samples(config.data, tmp_path / "p"), tmp_path, is_writer=False)
    assert (len(split.rl), len(split.sft)) == sizes
