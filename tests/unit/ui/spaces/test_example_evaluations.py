"""Evaluations that everyone may make: one at a time, each model once, on the shipped examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.benchmarks.catalog import load_benchmark
from hart_studio.errors import InputError
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import collect_provenance
from hart_studio.runs.writer import RunWriter
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.components.example_picker import Example
from hart_studio.ui.spaces import example_evaluations
from hart_studio.ui.spaces.example_evaluations import ExampleEvaluations
from tests.evaluations import draw_image


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunLayout]:
    found: list[RunLayout] = []
    monkeypatch.setattr(example_evaluations, "start_run", lambda layout, argv: found.append(layout))
    return found


@pytest.fixture
def api(tmp_path: Path, started: list[RunLayout]) -> ExampleEvaluations:
    image = draw_image(tmp_path / "one.png")
    (tmp_path / "private").mkdir()
    example = Example("a number", image, image, "Which number?", ("five", "six"), "A")
    return ExampleEvaluations(tmp_path / "private", tmp_path / "served", (example,))


def finish(layout: RunLayout) -> None:
    """What the program of the evaluation does at its end."""
    with RunWriter(layout, 1) as writer:
        writer.start(collect_provenance("cpu", "x"))


def test_the_questions_are_those_of_the_examples(api: ExampleEvaluations, tmp_path: Path) -> None:
    found = load_benchmark("needle", str(tmp_path / "private" / "questions"), cache=tmp_path / "cache")
    (sample,) = found.samples
    assert (sample.question, sample.choices, sample.answer, sample.category) == (
        "Which number?", ("five", "six"), "A", "a number"
    )  # fmt: skip
    assert Path(sample.image).read_bytes() == (tmp_path / "one.png").read_bytes()


@pytest.mark.parametrize("model", ["owner/model", "/etc", "", None, 3, ["built-in"], "BUILT-IN"])
def test_only_built_in_models_are_evaluated(api: ExampleEvaluations, started: list[RunLayout], model: Any) -> None:
    with pytest.raises(InputError, match="built-in"):
        call_handler(api.evaluate_examples, {"model": model, "benchmark": "vstar", "path": "/etc"})
    assert not started


def test_one_at_a_time_and_each_model_once(api: ExampleEvaluations, started: list[RunLayout]) -> None:
    first, second = BUILT_IN_FOLDERS
    run = call_handler(api.evaluate_examples, {"model": first, "path": "/etc", "limit": 10**6})
    config = json.loads(started[0].config.read_text())
    assert (config["model"], config["benchmark"], config["limit"]) == (first, "needle", None)
    assert config["path"].endswith("questions")
    for model in BUILT_IN_FOLDERS:
        with pytest.raises(InputError, match="Another evaluation of the examples is running"):
            call_handler(api.evaluate_examples, {"model": model})
    finish(started[0])
    again = call_handler(api.evaluate_examples, {"model": first})
    assert again["run"] == run["run"] and "Already evaluated" in again["message"]
    assert call_handler(api.evaluate_examples, {"model": second})["run"] != run["run"]
    assert len(started) == 2
    listed = call_handler(api.api.evaluations, {}) or {}
    assert {row["title"] for row in listed["evaluations"]} == {f"{model} on the examples" for model in BUILT_IN_FOLDERS}


def test_the_list_is_closed_otherwise(api: ExampleEvaluations) -> None:
    for act in (api.api.start, api.api.stop, api.api.resume, api.api.delete, api.api.command):
        request = {"benchmark": "needle"} if act in {api.api.start, api.api.command} else {"run": "x"}
        with pytest.raises(InputError, match="disabled on a public Space"):
            call_handler(act, request)
