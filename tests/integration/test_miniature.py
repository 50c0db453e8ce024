"""A short study with real processes and the built-in model: two steps, eight questions, three variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.evaluation.records import read_records
from hart_studio.experiments.miniature import __main__ as command
from hart_studio.experiments.miniature.__main__ import main
from hart_studio.experiments.miniature.variants import VARIANTS, StudySize
from hart_studio.runs.config import RunConfig
from hart_studio.runs.reader import list_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

SIZE = StudySize(
    test_questions=8,
    changes={
        "data": {"needle_samples": 14, "rl_samples": 4, "sft_samples": 6, "eval_samples": 4},
        "rollout": {"group_size": 4},
        "schedule": {
            "rl_steps": 2,
            "sft_steps": 2,
            "rl_batch_size": 2,
            "rl_micro_batch_size": 2,
            "sft_batch_size": 2,
            "sft_micro_batch_size": 2,
            "eval_steps": 2,
        },
    },
    test_arguments=("--width", "1024", "--height", "768"),
)


def test_three_cells_are_trained_measured_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", SIZE)
    arguments = ["--quick", "--variants", "ap_grpo_060_sft", "--out", str(tmp_path)]
    assert main(arguments) == 0
    for name in ("base", "ap_grpo_060", "ap_grpo_060_sft"):
        records = read_records(tmp_path / "seed_0" / name / "results.jsonl")
        assert [record.sample_id for record in records] == [f"needle-test-0-{index:05d}" for index in range(8)]
    runs = list_runs(tmp_path / "runs")
    assert [found.state for found in runs] == ["completed", "completed"]
    child, parent = (RunConfig.model_validate_json(found.layout.config.read_text()) for found in runs)
    assert (parent.method.stages, parent.method.preference_scale, child.method.stages) == ("ap_grpo", 0.6, "sft")
    assert child.model.id == str(runs[1].layout.folder / "model")

    text = (tmp_path / "miniature.md").read_text()
    assert "1 seed(s), 3 models; 8 test questions" in text
    for title in ("base", VARIANTS["ap_grpo_060"].title, VARIANTS["ap_grpo_060_sft"].title):
        assert f"| {title} | not run" not in text
    assert "AP-GRPO, k 0.6" in (tmp_path / "miniature_reward.svg").read_text()
    capsys.readouterr()

    assert main(arguments) == 0
    assert "3 of 3 variants are already complete" in capsys.readouterr().out
    assert len(list_runs(tmp_path / "runs")) == 2, "nothing was done again"


def test_settings_that_make_no_study_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--variants", "ppo", "--out", str(tmp_path)]) == 2
    assert "Unknown variant 'ppo'" in capsys.readouterr().out
    assert main(["--seeds", "0", "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
