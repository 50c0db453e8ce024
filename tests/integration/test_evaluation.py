"""All benchmarks from published files to result tables with the built-in model, and evaluation in several processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.data.benchmarks.images import CACHE_VARIABLE
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import prepare_run, run_evaluation
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.report import write_report
from hart_studio.evaluation.results import list_evaluations, load_evaluation, read_dataset_info
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.models.chat import ChatModel
from hart_studio.models.loading import load_model
from hart_studio.needle.__main__ import main as write_needle
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import PROTOCOLS
from hart_studio.runs.status import get_state
from tests.benchmark_files import COUNTS, WRITERS
from tests.evaluations import results_without_times

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SHORT = LoopSettings(max_new_tokens=64)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return load_model(TRAINED_MODEL, device="cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def evaluate(model: ChatModel, root: Path, name: str, path: Path) -> Evaluation:
    config = EvaluationConfig(benchmark=name, path=str(path), protocols=PROTOCOLS, loop=SHORT, allow_dropped=True)
    layout = prepare_run(root, config)
    assert run_evaluation(layout, lambda _: model)
    assert get_state(layout)[0] == "completed"
    return load_evaluation(layout)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.core] if name == "needle" else []) for name in sorted(BENCHMARKS)]
)
def test_a_benchmark_from_its_files_to_its_tables(model: ChatModel, tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    path = WRITERS[name](tmp_path / "data")
    evaluation = evaluate(model, tmp_path / "runs", name, path)
    good, bad = COUNTS[name]
    assert evaluation.is_complete and (len(evaluation.records), evaluation.total) == (good, good)
    (run,) = list_evaluations(tmp_path / "runs")
    assert read_dataset_info(run.layout).invalid_count == bad, "rows that are no question are counted"
    official = BENCHMARKS[name].official
    for record in evaluation.records:
        assert not record.error and record.image_wh is not None
        for judged in record.answers.values():
            assert judged.score.value in (0.0, 1.0)
            assert (judged.official is not None) == bool(official)
            assert judged.official is None or judged.official.rule.startswith(f"{official}:")
    has_boxes = any(record.gold_boxes for record in evaluation.records)
    assert has_boxes or not BENCHMARKS[name].has_boxes
    page = write_report([evaluation], tmp_path / "report", samples_drawn=1).read_text()
    text = re.sub(r"data:image/[^\"]*", "", page)
    assert not re.search(r"\bnan\b", text, re.IGNORECASE) and str(good) in text


def command(data: Path, root: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "hart_studio.evaluation", "--benchmark", "needle", "--path", str(data)]
    rest = ["--protocol", "all", "--device", "cpu", "--batch", "4", "--max-new-tokens", "64", "--runs-root", str(root)]
    return [*start, *rest, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def draw(folder: Path, count: int) -> Path:
    size = ["--width", "640", "--height", "480", "--objects", "4", "6"]
    assert write_needle(["--split", "test", "--count", str(count), "--out", str(folder), *size]) == 0
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("processes", "questions"), [(2, 12), pytest.param(4, 22, marks=pytest.mark.slow)])
def test_several_processes_find_what_one_finds(tmp_path: Path, processes: int, questions: int) -> None:
    data = draw(tmp_path / "data", questions)
    found = {}
    for count in (1, processes):
        root = tmp_path / f"runs-{count}"
        done = subprocess.run(
            command(data, root, "--processes", str(count)),
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (run,) = list_evaluations(root)
        assert run.state == "completed" and run.status is not None and run.status.step == questions
        assert len(list((run.layout.folder / "records").iterdir())) == count
        found[count] = results_without_times(run.layout)
    assert found[processes] == found[1]


@pytest.mark.timeout(600)
def test_one_that_was_killed_goes_on_and_ends_as_it_would_have(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 24)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    subprocess.run(command(data, whole), env=environment(), capture_output=True, check=True)
    process = subprocess.Popen(
        command(data, torn), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        parts = list(torn.glob("*/records/shard_00000.jsonl"))
        if parts and parts[0].read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run,) = list_evaluations(torn)
    done = len(load_evaluation(run.layout).records)
    assert run.state == "lost" and 4 <= done < 24
    again = subprocess.run(
        command(data, torn, "--resume", run.layout.run_id),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    (whole_run,) = list_evaluations(whole)
    assert results_without_times(run.layout) == results_without_times(whole_run.layout)
    lines = (run.layout.folder / "records" / "shard_00000.jsonl").read_text().splitlines()
    ids = [json.loads(line)["sample_id"] for line in lines]
    assert len(ids) == len(set(ids)) == 24, "what was answered is kept as it was, and nothing is there twice"
    assert read_dataset_info(run.layout).samples == 24
