from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import ModelError
from hart_studio.evaluation import __main__ as command
from hart_studio.evaluation.config import EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run
from hart_studio.evaluation.results import list_evaluations, load_evaluation
from hart_studio.runs.config import RunConfig
from hart_studio.runs.writer import RUN_VARIABLE, create_run
from tests.fakes import ScriptedModel


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    made = ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]',
        crops_only="\\boxed{A}",
        direct="\\boxed{B}",
        full_and_crops="\\boxed{C}",
    )
    monkeypatch.setattr(command, "open_model", lambda config: made)
    return made


def arguments(needle: Path, root: Path, *more: str) -> list[str]:
    return ["--benchmark", "needle", "--path", str(needle), "--runs-root", str(root), *more]


def test_the_command_evaluates_and_lists_and_reports(
    needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    assert command.main(arguments(needle_folder, root, "--protocol", "all", "--limit", "5", "--title", "mine")) == 0
    (run,) = list_evaluations(root)
    reported = capsys.readouterr().out
    assert f"done: {run.layout.run_id}" in reported and f"report {run.layout.run_id}" in reported
    evaluation = load_evaluation(run.layout)
    assert (len(evaluation.records), evaluation.title) == (5, "mine")
    assert set(evaluation.protocols) == {"crops_only", "direct", "full_and_crops"}
    assert command.main(["list", "--runs-root", str(root)]) == 0
    assert "5/5" in capsys.readouterr().out
    out = tmp_path / "report"
    assert command.main(["report", run.layout.run_id, "--runs-root", str(root), "--out", str(out)]) == 0
    assert (out / "report.html").is_file()


def test_the_summary_is_one_json_object(
    needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments(needle_folder, tmp_path / "runs", "--limit", "2", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["measured"], found["total"], found["benchmark"]) == ("completed", 2, 2, "needle")


def test_settings_reach_the_run(needle_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    more = ["--overview-max-pixels", "50000", "--fallback", "direct", "--max-new-tokens", "32", "--batch", "3"]
    served = ["--served", "http://127.0.0.1:9/v1", "--served-family", "qwen2_5_vl", "--served-model", "big"]
    assert command.main(arguments(needle_folder, root, *more, *served, "--limit", "1")) == 0
    config = read_config(list_evaluations(root)[0].layout)
    assert (config.loop.overview_max_pixels, config.loop.fallback, config.batch) == (50000, "direct", 3)
    assert config.served is not None and (config.served.family, config.shown_title) == ("qwen2_5_vl", "big")


def test_bad_input_is_said_and_makes_no_run(
    needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    assert command.main(arguments(needle_folder, root, "--batch", "0")) == 2
    assert "batch is 0" in capsys.readouterr().err
    assert command.main(arguments(needle_folder, root, "--resume", "../../etc")) == 2
    assert "Invalid run id" in capsys.readouterr().err
    assert command.main(["report", "20260101-000000-evaluation-abcdef", "--runs-root", str(root)]) == 2
    assert "There is no run" in capsys.readouterr().err
    assert not root.exists()
    with pytest.raises(SystemExit):
        command.main(["--benchmark", "gone"])


def test_the_command_ends_with_its_figures_and_shows_progress_beside_them(
    needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (needle_folder / "samples.jsonl").read_text().splitlines()
    (needle_folder / "samples.jsonl").write_text("\n".join(["{}", "{}", *lines[2:]]) + "\n")
    capsys.readouterr()
    more = ["--protocol", "crops_only", "--protocol", "direct"]
    assert command.main(arguments(needle_folder, tmp_path / "runs", *more)) == 2, "2 of 18 rows are more than 1 %"
    _, err = capsys.readouterr()
    assert "error: 2 of 18 rows of Needle (11.1 %) are dropped: 2 x missing field 'answer'. " in err
    assert "--allow-dropped" in err and "loading the model" not in err and not list_evaluations(tmp_path / "runs")
    assert command.main(arguments(needle_folder, tmp_path / "runs", *more, "--allow-dropped")) == 0
    out, err = capsys.readouterr()
    (run,) = list_evaluations(tmp_path / "runs")
    records = load_evaluation(run.layout).records
    right, golds = sum(record.value("crops_only") for record in records), sum(len(one.gold_matches) for one in records)
    assert out.splitlines()[1] == "questions: 16 of 16 measured, 0 failed, 2 invalid rows skipped"
    assert f"accuracy, crops_only: {100 * right / 16:.1f} % [" in out and "], n = 16\n" in out
    assert "accuracy, direct: " in out and "boxes: IoG > 0.3 " in out and f"n = {golds} gold boxes" in out
    assert "2 skipped: " in out.split("boxes: ")[1], "invalid rows are printed in the last lines"
    assert "data: n = 16 of 18 rows in the file\n" in out.split("boxes: ")[1]
    assert out.splitlines()[-2] == f"done: {run.layout.run_id} (without 2 of 18 rows)"
    assert "warnings: 1" in out
    assert out.splitlines()[-2].startswith("done: ") and out.splitlines()[-1].startswith("report: ")
    reported = err.splitlines()
    phases = ["reading the questions", "loading the model", "running the first batch"]
    assert [line for line in reported if line in phases] == phases
    assert sum(line.startswith("warning: 2 invalid rows of") for line in reported) == 1 and "done: " not in err


def test_an_evaluation_that_could_not_begin_leaves_nothing(
    needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    assert command.main(arguments(tmp_path / "gone", root)) == 2
    assert "had done no work and was removed" in capsys.readouterr().err

    def no_model(config: EvaluationConfig) -> ScriptedModel:
        raise ModelError("expected a model, got none")

    with monkeypatch.context() as patch:
        patch.setattr(command, "open_model", no_model)
        assert command.main(arguments(needle_folder, root)) == 2
        assert list_evaluations(root) == [] and list(root.iterdir()) == []
        layout = prepare_run(root, EvaluationConfig(path=str(needle_folder), limit=3))
        patch.setenv(RUN_VARIABLE, layout.run_id)
        assert command.main(["--runs-root", str(root)]) == 2
        assert layout.folder.is_dir(), "a run that a page made is its own"


def test_an_evaluation_that_answered_something_stays_when_it_fails(
    needle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ScriptedModel
) -> None:
    generate = model.generate
    calls: list[int] = []

    def fail_later(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 4:
            raise ModelError("the server is gone")
        return generate(*given, **options)

    monkeypatch.setattr(model, "generate", fail_later)
    assert command.main(arguments(needle_folder, tmp_path / "runs", "--batch", "1")) == 2
    (run,) = list_evaluations(tmp_path / "runs")
    assert run.state == "failed" and run.status is not None and run.status.step > 0


def test_a_training_run_is_no_evaluation(
    needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = create_run(tmp_path / "runs", "training", RunConfig(), "sft", 1)
    assert command.main(arguments(needle_folder, tmp_path / "runs", "--resume", layout.run_id)) == 2
    assert "settings of the evaluation" in capsys.readouterr().err
    assert list_evaluations(tmp_path / "runs") == []


def test_a_page_makes_the_run_and_the_command_goes_on_with_it(
    needle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = prepare_run(tmp_path / "runs", EvaluationConfig(path=str(needle_folder), limit=3))
    monkeypatch.setenv(RUN_VARIABLE, layout.run_id)
    assert command.main(["--runs-root", str(tmp_path / "runs")]) == 0
    assert len(load_evaluation(layout).records) == 3


def test_shards_become_processes_of_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(command.subprocess, "call", lambda argv: started.append(argv) or 0)
    given = ["--benchmark", "needle", "--processes", "3", "--device", "cpu", "--limit", "9"]
    assert command.main(given) == 0
    (argv,) = started
    assert argv[argv.index("--num_processes") + 1] == "3"
    rest = argv[argv.index("hart_studio.evaluation") + 1 :]
    assert rest == ["--benchmark", "needle", "--device", "cpu", "--limit", "9"]
    monkeypatch.setenv("RANK", "0")
    assert command.main(given) == 2, "never a launch inside of a launch"
