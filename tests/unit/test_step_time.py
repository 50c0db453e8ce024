"""The step-time benchmark: report of measurements, and scripted boxes."""

from __future__ import annotations

import pytest

from benchmarks.step_time_model import FULL, LIGHT, SMALL, Sizes
from benchmarks.step_time_report import Ratio, Results, Target, count_operations, find_targets, pair_ratio, write_report


def results() -> Results:
    step = {
        "phases": {"rollout": 1.0, "reference": 2.0, "update": 3.0},
        "tokens": {"sampled": 100, "trained": 40, "patches": 16},
        "visual_tokens": {"grounding": [900, 900], "answer": [160, 256]},
    }
    return Results(
        seconds={
            "vanilla": [10.0, 20.0, 40.0],
            "grpo shared": [2.0, 2.0, 2.0],
            "ap_grpo shared": [3.0, 8.0, 8.0],
            "grpo plain": [9.0],
        },
        memory={
            "vanilla": {"loaded": 700.0, "step": 1000.0},
            "grpo shared": {"loaded": 700.0, "step": 250.0},
            "ap_grpo shared": {"loaded": 710.0, "step": 510.0},
        },
        turn_one={4: [1.0, 2.0, 1.0], 16: [1.5, 3.0, 1.7]},
        steps={
            "vanilla": step,
            "ap_grpo shared": {**step, "tokens": {"sampled": 50, "trained": 20, "patches": 8}},
        },
        weights={"text": 10.0, "patch": 2.0},
        about={"threads": 2},
    )


def test_ratios_are_taken_within_rounds() -> None:
    assert pair_ratio([3.0, 8.0, 8.0], [10.0, 20.0, 40.0]) == Ratio(0.3, 0.2, 0.4)
    assert pair_ratio([9.0], [10.0, 20.0]) == Ratio(0.9, 0.9, 0.9)


def test_verdicts_follow_from_the_medians() -> None:
    targets = find_targets(results())
    assert [target.ratio.median for target in targets] == [0.3, 0.1, 0.51, 0.25, 1.5]
    assert [target.is_held for target in targets] == [True, True, False, True, True]
    assert Target("", 0.3, Ratio(0.3, 0.1, 0.9)).is_held, "at the limit"


def test_operations_are_counted_by_hand() -> None:
    # 2 x (10 x (100 + 3 x 40) + 2 x 16)
    assert count_operations({"sampled": 100, "trained": 40, "patches": 16}, {"text": 10.0, "patch": 2.0}) == 4464.0


def test_the_report_says_what_was_measured_beside_what_was_published() -> None:
    lines = write_report(results(), with_profile=True).splitlines()

    def cells(start: str) -> list[str]:
        (line,) = (line for line in lines if line.strip().startswith(start))
        return line.strip().removeprefix(start).split()

    assert cells("step time, s: published (7B, GPU)") == ["21.0", "30.7", "46.0"]
    assert cells("memory, MiB: published (7B, GPU)") == ["17422", "19130", "18770"]
    assert cells("step time, s: TRL") == ["20.00", "-", "-"]
    assert cells("step time, s: HART Studio, shared") == ["2.00", "-", "8.00"]
    assert cells("memory, MiB: HART Studio, shared") == ["250", "-", "510"]
    assert cells("visual tokens, vanilla") == ["grounding", "900,", "answer", "160", "to", "256"]
    assert [line.split()[-1] for line in lines if line.startswith("  ap_grpo shared")] == ["pairs", "0.500"]
    assert [line.split()[-1] for line in lines[-5:]] == ["held", "held", "missed", "held", "held"]
    assert "sampled" not in write_report(results(), with_profile=False).split("Targets")[0].split("grounding turn")[0]


@pytest.mark.parametrize("sizes", [FULL, LIGHT, SMALL])
def test_crops_have_the_wanted_number_of_visual_tokens(sizes: Sizes) -> None:
    least, most = sizes.crop_tokens
    assert len(sizes.crop_grids) >= sizes.group_size, "every rollout has a crop of its own"
    assert all(
        least <= columns * rows <= most and max(columns, rows) <= sizes.overview_side * sizes.zoom
        for columns, rows in sizes.crop_grids
    )
