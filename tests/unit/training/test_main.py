"""The training command: checks before the run, output and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hart_studio.runs.config import RunConfig
from hart_studio.runs.writer import create_run
from hart_studio.training import sft
from hart_studio.training.__main__ import main
from tests.integration.training_runs import small_config, write_jsonl

pytestmark = pytest.mark.integration


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_folder("qwen2_5_vl")
    data = write_jsonl(tmp_path / "data", 9)
    before = sorted(tmp_path.rglob("*"))
    changes = {
        "model.id": folder,
        "model.device": "cpu",
        "model.lora": "on",
        "data.source": "jsonl",
        "data.path": data,
        "data.rl_samples": 4,
        "data.eval_samples": 2,
        "method.stages": "ap_grpo+sft",
    }
    overrides = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    assert main([*overrides, "--dry-run", "--runs-root", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    config = RunConfig.model_validate_json(output[: output.index("\n}\n") + 2])
    assert (config.model.lora, config.data.rl_samples) == ("on", 4)
    assert "samples: 4 for RL, 3 for SFT, 2 held out" in output
    assert "device: CPU" in output and "(adapters)" in output and "reference 0.00" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_settings_of_a_run_stay_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path / "model")
    run = create_run(tmp_path, "training", config, "ap_grpo", 2)
    resume = ["--resume", run.run_id, "--runs-root", str(tmp_path)]
    assert main([*resume, "--set", "seed=1", "--dry-run"]) == 2
    assert "a run keeps its settings" in capsys.readouterr().err
    assert main([*resume, "--dry-run"]) == 0
    assert "memory: unknown, the model is not downloaded yet" in capsys.readouterr().out
    assert main(resume) == 2, "a model that is not there"
    assert json.loads(run.status.read_text())["state"] == "failed"


def set_options(folder: Path, data: Path, **changes: object) -> list[str]:
    """Options of a training of two SFT steps."""
    values = {
        "model.id": folder,
        "model.device": "cpu",
        "data.source": "jsonl",
        "data.path": data,
        "data.rl_samples": 0,
        "data.sft_samples": 4,
        "data.eval_samples": 2,
        "method.stages": "sft",
        "schedule.sft_steps": 2,
        "schedule.sft_batch_size": 2,
        "rollout.max_grounding_tokens": 8,
        "rollout.max_answer_tokens": 4,
        **changes,
    }
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def test_a_training_shows_progress_and_ends_with_its_figures(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "data", 8)
    data.write_text(data.read_text() + '{"id": "bad"}\n')
    root = tmp_path / "runs"
    assert main([*set_options(tiny_folder("qwen2_5_vl"), data), "--runs-root", str(root)]) == 0
    out, err = capsys.readouterr()
    (folder,) = root.iterdir()
    lines = out.splitlines()
    assert lines[0] == f"run: {folder}" and lines[-1] == f"done: {folder / 'model'}"
    assert re.fullmatch(r"steps: 2 of 2, \d+ s, peak memory \d+\.\d GiB", lines[1])
    assert lines[-2] == f"evaluate: python -m hart_studio.evaluation --model {folder / 'model'} --runs-root {root}"
    assert lines[2].startswith("sft: loss ") and lines[3].startswith("held-out, 2 questions, step 0 -> 2: ")
    assert f"checkpoint: {folder / 'checkpoints' / 'step_000002'}" in lines
    (data_line,) = [line for line in lines if line.startswith("data: 1 of 9 rows of ")]
    assert "(11.1 %) are dropped: 1 x " in data_line
    assert "warnings: 1" in lines and "1 invalid rows of" in lines[-4], "an invalid row is reported in the last lines"
    shown = [line.split(" (")[0] for line in err.splitlines()]
    phases = [
        "reading the samples",
        "loading the model",
        "evaluating held-out questions, 0 of 2",
        "saving a checkpoint",
    ]
    assert [line for line in shown if line in phases] == phases
    assert any(line.startswith("warning: 1 invalid rows of") for line in shown)


def test_the_summary_is_one_json_object(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "data", 8)
    root = tmp_path / "runs"
    assert main([*set_options(tiny_folder("qwen2_5_vl"), data), "--runs-root", str(root), "--json"]) == 0
    out, err = capsys.readouterr()
    (folder,) = root.iterdir()
    found = json.loads(out)
    assert f"run: {folder}" in err
    assert (found["run"], found["state"], found["step"]) == (folder.name, "completed", 2)
    assert found["model"] == str(folder / "model") and found["held_out"]["first_step"] == 0
    assert found["stages"][0]["metrics"]["loss"]["last"] > 0


def test_a_training_that_is_not_finite_ends_with_1_and_says_why(
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sft, "sft_loss", lambda logps, *_, **__: logps.sum() * float("nan"))
    data = write_jsonl(tmp_path / "data", 8)
    options = set_options(tiny_folder("qwen2_5_vl"), data, **{"optim.max_nonfinite_steps": 1, "data.eval_samples": 0})
    assert main([*options, "--runs-root", str(tmp_path / "runs")]) == 1
    out, err = capsys.readouterr()
    assert "steps: 1 of 2" in out and "checkpoint: none" in out and "done:" not in out
    assert "error: step 1: loss and gradient norm not finite. " in err
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "failed", "it has done a step, so it stays"


def test_a_training_that_could_not_begin_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "data", 8)
    root = ["--runs-root", str(tmp_path / "runs")]
    assert main([*set_options(tmp_path / "no-model", data), *root]) == 2
    assert "had done no work and was removed" in capsys.readouterr().err
    assert main([*set_options(tmp_path / "no-model", tmp_path / "none.jsonl"), *root]) == 2
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--set", "optim.learning_rat=1"], "error: unknown setting 'optim.learning_rat'"),
        (["--config", "/nowhere.json"], "error: Cannot read the settings file /nowhere.json"),
        (["--resume", ".."], "error: Invalid run id '..'"),
    ],
)
def test_invalid_settings_end_with_2(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*wrong, "--runs-root", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_samples_that_cannot_be_read_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_jsonl(tmp_path / "data", 2)
    broken.write_text("{")
    samples = ["--set", "data.source=jsonl", "--set", "model.device=cpu", "--runs-root", str(tmp_path / "runs")]
    for path, problem in ((tmp_path / "nowhere.jsonl", "Cannot read"), (broken, "No valid rows")):
        assert main([*samples, "--set", f"data.path={path}", "--dry-run"]) == 2
        assert f"samples: {problem}" in capsys.readouterr().out


def test_help_says_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "set one setting, such as schedule.rl_steps=100" in " ".join(capsys.readouterr().out.split())
