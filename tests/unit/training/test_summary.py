from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.training.summary import summarize_training
from tests.unit.runs.conftest import PROVENANCE


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return create_run(tmp_path / "runs", "training", RunConfig(), "ap_grpo+sft", total=60)


def test_the_figures_of_both_stages_before_and_after(layout: RunLayout) -> None:
    with RunWriter(layout, 60) as run:
        run.start(PROVENANCE)
        run.log_evaluation(
            0, {"iog_above_0.3": 0.617, "valid_box_rate": 0.9, "accuracy": 0.5, "failed_share": 0.0}, 200, "a1b2c3"
        )
        for step in range(1, 41):
            run.log_step(
                step,
                "ap_grpo",
                {
                    "kl": step / 400,
                    "memory_mib": 2048.0,
                    "reward": step / 40,
                    "loss": 0.1,
                    "valid_box_rate": 1.0,
                    "failed_share": 0.1,
                },
            )
        for step in range(41, 61):
            run.log_step(step, "sft", {"loss": 100.0 / step})
        with run.saving_checkpoint(60, "sft", is_kept=True):
            pass
        run.log_evaluation(60, {"iog_above_0.3": 0.92, "valid_box_rate": 1.0, "accuracy": 0.75}, 200, "a1b2c3")
        run.warn("1 rows of data.jsonl are left out: no\x1b answer")
    assert summarize_training(layout).lines() == [
        "steps: 60 of 60, 0 s, peak memory 2.0 GiB",
        "ap_grpo: reward 0.138 -> 0.887 (means of 10 steps), valid boxes 100.0 % -> 100.0 %, "
        "KL 0.0138 -> 0.0887, failed samples 10.0 %",
        "sft: loss 2.21 -> 1.81 (means of 10 steps)",
        "held-out, 200 questions, step 0 -> 60: IoG > 0.3 61.7 % -> 92.0 %, valid boxes 90.0 % -> 100.0 %, "
        "accuracy 50.0 % -> 75.0 %",
        f"checkpoint: {layout.checkpoint_of(60)}",
        "warnings: 1",
        "  1 rows of data.jsonl are left out: no answer",
    ]


def test_steps_that_were_done_again_count_once_and_what_is_missing_is_said(layout: RunLayout) -> None:
    with pytest.raises(RuntimeError), RunWriter(layout, 60) as run:
        run.start(PROVENANCE)
        run.log_evaluation(0, {"iou": 0.25}, 8, "a1b2c3")
        run.log_step(1, "sft", {"loss": 9.0})
        run.log_step(2, "sft", {"loss": float("nan")})
        raise RuntimeError
    with RunWriter(layout, 60) as run:
        run.start(PROVENANCE)
        run.log_step(1, "sft", {"loss": 8.0})
        run.log_step(2, "sft", {"loss": 4.0})
        run.mark_stopping()
    assert summarize_training(layout).lines() == [
        "steps: 2 of 60, 0 s",
        "sft: loss 8 -> 4 (first and last step)",
        "checkpoint: none",
        "warnings: 0",
    ]
