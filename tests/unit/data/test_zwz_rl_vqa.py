from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.run_samples import load_samples, split_config
from hart_studio.data.zwz_rl_vqa import load_zwz_rl_vqa, read_zwz_row
from hart_studio.errors import DataError, HartError
from hart_studio.runs.overrides import apply_overrides
from hart_studio.runs.presets import get_preset
from tests.benchmark_images import draw, save, write_parquet
from tests.examples import example_count


def write_rows(folder: Path, count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    """A table with the columns of the authors' conversion, and its images."""
    rows = []
    for number in range(1, count + 1):
        drawn = draw(number)
        save(folder / f"images/{number}.jpg", drawn)
        listed = "\n".join(f"({'ABCD'[at]}) {text}" for at, text in enumerate(drawn.question.choices))
        rows.append(
            {
                "images": [f"images/{number}.jpg"],
                "problem": f"<image>{drawn.question.text}\n{listed}",
                "answer": drawn.question.letter,
                "bbox": [float(edge) for edge in drawn.boxes[0]],
                "status": "valid vqa",
                **changes,
            }
        )
    write_parquet(folder / "train.parquet", rows)
    return rows


def test_questions_options_answers_and_boxes_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path)
    for path in (tmp_path, tmp_path / "train.parquet"):
        loaded = load_zwz_rl_vqa(path, tmp_path / "cache")
        assert (loaded.source, len(loaded.samples), loaded.invalid_rows) == ("ZwZ-RL-VQA", 4, ())
    first, drawn = loaded.samples[0], draw(1)
    assert (first.question, first.choices, first.answer) == (
        drawn.question.text,
        drawn.question.choices,
        drawn.question.letter,
    )
    assert [list(box.xyxy) for box in first.gold_boxes] == drawn.boxes[:1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": []}, "expected a list of one image"),
        ({"images": ["../a.png"]}, "use a relative path inside"),
        ({"images": ["gone.png"]}, "image not found"),
        ({"answer": "Z"}, "expected the letter"),
        ({"bbox": [9000.0, 9000.0, 9010.0, 9010.0]}, "a gold box without area inside the image"),
    ],
)
def test_invalid_rows_have_reasons(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    rows = write_rows(tmp_path)
    write_parquet(tmp_path / "train.parquet", [*rows, {**rows[0], **changes}])
    (bad,) = load_zwz_rl_vqa(tmp_path, tmp_path / "cache").invalid_rows
    assert bad.row == "row 5" and reason in bad.reason


def test_training_cannot_reach_the_boxes(tmp_path: Path) -> None:
    write_rows(tmp_path)
    changes = ["data.source=zwz_rl_vqa", f"data.path={tmp_path}", "data.rl_samples=2", "data.sft_samples=1"]
    config = apply_overrides(get_preset("cpu-demo").config, [*changes, "data.eval_samples=1"])
    split = split_config(config, load_samples(config.data, tmp_path / "cache"))
    assert split.evaluation[0].gold_boxes
    for sample in (*split.rl, *split.sft):
        with pytest.raises(AttributeError):
            _ = sample.gold_boxes  # type: ignore[attr-defined]
        assert "gold_boxes" not in sample.model_dump()


def test_a_folder_without_questions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No file of the benchmark"):
        load_zwz_rl_vqa(tmp_path, tmp_path / "cache")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), st.lists, max_leaves=6
)


@settings(max_examples=example_count(100), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    row=VALUES | st.dictionaries(st.sampled_from(["images", "problem", "answer", "bbox"]), VALUES),
    is_with_image=st.booleans(),
)
def test_any_row_is_read_or_has_a_reason(tmp_path: Path, row: Any, is_with_image: bool) -> None:
    save(tmp_path / "a.jpg", draw(1))
    if is_with_image and isinstance(row, dict):
        row = {**row, "images": ["a.jpg"]}
    try:
        sample = read_zwz_row(row, ImageResolver(tmp_path, tmp_path))
    except (ValueError, HartError):
        return
    assert sample.answer is not None and sample.question
