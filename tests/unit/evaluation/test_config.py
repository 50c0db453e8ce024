"""Number of questions known before they are read, and limits of the settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hart_studio.errors import DataError
from hart_studio.evaluation.config import (
    DRAWN_QUESTIONS,
    INPUTS_FILE,
    MAX_QUESTIONS,
    EvaluationConfig,
    check_inputs,
    read_inputs,
    write_inputs,
)
from hart_studio.evaluation.job import prepare_run, run_evaluation
from hart_studio.models.catalog import resolve_model_name
from hart_studio.models.served_settings import ServedSettings
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from tests.fakes import ScriptedModel


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, DRAWN_QUESTIONS),
        ({"limit": 8}, 8),
        ({"limit": 5000}, 5000),
        ({"path": "/data/needle-test"}, None),
        ({"path": "/data/needle-test", "limit": 8}, None),
        ({"benchmark": "vstar"}, 191),
        ({"benchmark": "vstar", "path": "craigwu/vstar_bench"}, 191),
        ({"benchmark": "vstar", "limit": 50}, 50),
        ({"benchmark": "vstar", "limit": 500}, 191),
        ({"benchmark": "vstar", "path": "/data/vstar"}, None),
        ({"benchmark": "vstar", "subsets": ("relative_position",)}, None),
        ({"benchmark": "vstar", "exclude": "/data/other"}, None),
        ({"benchmark": "unheard-of"}, None),
    ],
)
def test_the_count_is_reported_where_nothing_has_to_be_read_for_it(settings: dict[str, Any], count: int | None) -> None:
    assert EvaluationConfig(**settings).known_count == count


@pytest.mark.parametrize("limit", [0, MAX_QUESTIONS + 1, 10**20])
def test_a_limit_that_no_page_could_show_is_refused(limit: int) -> None:
    with pytest.raises(ValidationError, match="limit"):
        EvaluationConfig(limit=limit)
    assert EvaluationConfig(limit=MAX_QUESTIONS).limit == MAX_QUESTIONS


@pytest.mark.parametrize("kind", [EvaluationConfig, LoopSettings, RunConfig])
def test_every_whole_number_of_the_settings_has_a_bound_that_can_be_sent(kind: type[BaseModel]) -> None:
    for model, name, info in list_fields(kind):
        if int in (info.annotation, *get_args(info.annotation)):
            with pytest.raises(ValidationError, match=name):
                model.model_validate({name: 2**64})


def list_fields(kind: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str, FieldInfo]]:
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from list_fields(info.annotation)
        else:
            yield kind, name, info


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8 + number, 8)).save(path)
    return paths


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def begin(tmp_path: Path, config: EvaluationConfig, images: list[Path]) -> RunLayout:
    layout = prepare_run(tmp_path / "runs", config)
    write_inputs(layout, read_inputs(config, map(str, images)))
    return layout


def test_the_same_inputs_elsewhere_are_the_same(tmp_path: Path, images: list[Path], model: Path) -> None:
    config = EvaluationConfig(model=str(model))
    layout = begin(tmp_path, config, images)
    check_inputs(layout, read_inputs(config, map(str, images)))
    moved = shutil.copytree(images[0].parent, tmp_path / "elsewhere")
    other = shutil.copytree(model, tmp_path / "model_2")
    changed = config.model_copy(update={"model": str(other), "batch": 2, "device": "cpu", "title": "new"})
    check_inputs(layout, read_inputs(changed, [str(moved / path.name) for path in images]))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"protocols": ["direct"]}, "protocols"),
        ({"loop": {"temperature": 0.7}}, r"loop\.temperature"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_settings_that_change_answers_are_named(
    tmp_path: Path, images: list[Path], model: Path, settings: dict[str, object], named: str
) -> None:
    config = EvaluationConfig(model=str(model))
    layout = begin(tmp_path, config, images)
    changed = EvaluationConfig.model_validate({"model": str(model), **settings})
    with pytest.raises(DataError, match=rf"settings \({named}\) changed since it started"):
        check_inputs(layout, read_inputs(changed, map(str, images)))


def test_other_weights_are_refused(tmp_path: Path, images: list[Path], model: Path) -> None:
    config = EvaluationConfig(model=str(model))
    layout = begin(tmp_path, config, images)
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(DataError, match="the files of the model changed"):
        check_inputs(layout, read_inputs(config, map(str, images)))


def test_other_images_are_refused_and_one_that_came_back_is_not(tmp_path: Path, images: list[Path]) -> None:
    config = EvaluationConfig()
    kept = images[2].read_bytes()
    images[2].unlink()
    layout = begin(tmp_path, config, images)
    images[2].write_bytes(kept)
    check_inputs(layout, read_inputs(config, map(str, images)))
    Image.new("RGB", (8, 8), "red").save(images[0])
    with pytest.raises(DataError, match=r"the content of 1 images \(0\.png\) changed"):
        check_inputs(layout, read_inputs(config, map(str, images)))


def test_a_served_model_has_the_name_of_its_server(tmp_path: Path) -> None:
    served = ServedSettings(url="http://127.0.0.1:1/v1", model="a", family="qwen3_vl")
    config = EvaluationConfig(served=served)
    layout = begin(tmp_path, config, [])
    moved = served.model_copy(update={"url": "http://127.0.0.1:2/v1", "retries": 9})
    check_inputs(layout, read_inputs(config.model_copy(update={"served": moved}), []))
    other = served.model_copy(update={"model": "b"})
    with pytest.raises(DataError, match=r"served\.model"):
        check_inputs(layout, read_inputs(config.model_copy(update={"served": other}), []))


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    layout = begin(tmp_path, EvaluationConfig(), [])
    (layout.folder / INPUTS_FILE).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        check_inputs(layout, read_inputs(EvaluationConfig(), []))


def test_an_evaluation_is_not_resumed_with_another_model(config: EvaluationConfig, tmp_path: Path) -> None:
    """A complete job asks nothing and keeps its records."""
    folder = shutil.copytree(resolve_model_name("built-in-hart"), tmp_path / "m")
    config = config.model_copy(update={"model": str(folder)})
    layout = prepare_run(tmp_path / "runs", config)
    script = {"grounding": '[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', "crops_only": "\\boxed{A}"}

    class Interrupted(ScriptedModel):
        def generate(self, *arguments: Any, **options: Any) -> Any:
            if len(self.calls) > 3:
                raise KeyboardInterrupt
            return super().generate(*arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        run_evaluation(layout, lambda _: Interrupted(**script, direct="\\boxed{B}"))
    shutil.copy(Path(resolve_model_name("built-in")) / "model.safetensors", folder)
    later = ScriptedModel(**script, direct="\\boxed{B}")
    with pytest.raises(DataError, match="the files of the model changed"):
        run_evaluation(layout, lambda _: later)
    assert not later.calls
    assert json.loads((layout.folder / INPUTS_FILE).read_text())["model"]
