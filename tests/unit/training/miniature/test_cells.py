from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.training.miniature.cells import (
    CELLS,
    FULL,
    QUICK,
    QUICK_CELLS,
    StudySize,
    base_config,
    cell_config,
    choose_cells,
)

TRAINED = [cell for cell in CELLS.values() if cell.method is not None]


def test_a_seed_has_the_runs_of_the_paper_s_table_7() -> None:
    titles = {cell.title for cell in TRAINED}
    alone = {"GRPO", "MGPO", "AP-GRPO, k 0.15", "AP-GRPO, k 0.3", "AP-GRPO, k 0.6"}
    assert titles == alone | {f"{title} + SFT" for title in alone} | {"SFT", "SFT + AP-GRPO, k 0.6"}
    assert len(TRAINED) == 12
    assert set(CELLS) - {cell.name for cell in TRAINED} == {"base"}


def test_every_cell_comes_after_what_it_is_trained_from() -> None:
    names = list(CELLS)
    assert all(cell.parent is None or names.index(cell.parent) < names.index(name) for name, cell in CELLS.items())
    assert CELLS["mgpo_sft"].parent == "mgpo" and CELLS["sft_ap_grpo_060"].parent == "sft"


def test_the_protocol_is_that_of_the_rl_stage() -> None:
    assert {name: cell.protocol for name, cell in CELLS.items() if not name.startswith("ap_")} == {
        "base": "direct",
        "sft": "direct",
        "grpo": "direct",
        "mgpo": "full_and_crops",
        "grpo_sft": "direct",
        "mgpo_sft": "full_and_crops",
        "sft_ap_grpo_060": "crops_only",
    }
    assert CELLS["ap_grpo_015"].protocol == CELLS["ap_grpo_015_sft"].protocol == "crops_only"


@pytest.mark.parametrize("size", [FULL, QUICK], ids=["full", "quick"])
def test_budgets_are_equal_and_only_the_objective_differs(size: StudySize) -> None:
    base = base_config(size, "", Path("/data/train"))
    configs = [cell_config(cell, base, 3, "/models/parent") for cell in TRAINED]
    assert {config.schedule for config in configs} == {base.schedule}
    assert {config.rollout for config in configs} == {base.rollout}
    assert {config.optim for config in configs} == {base.optim}
    assert {config.data.path for config in configs} == {"/data/train"}
    assert {config.model.id for config in configs} == {"/models/parent"}
    assert {config.seed for config in configs} == {3}
    assert {config.total_steps for config in configs if config.method.chain != "sft"} == {base.schedule.rl_steps}
    assert {config.total_steps for config in configs if config.method.chain == "sft"} == {base.schedule.sft_steps}
    scales = {config.method.preference_scale for config in configs if config.method.chain == "ap_grpo"}
    assert scales == {0.15, 0.3, 0.6}
    assert {config.method.beta for config in configs} == {base.method.beta}


@pytest.mark.parametrize("size", [FULL, QUICK], ids=["full", "quick"])
def test_there_are_questions_for_every_part(size: StudySize) -> None:
    data = base_config(size, "", Path("/data/train")).data
    assert data.rl_count + (data.sft_count or 0) + data.eval_count <= data.needle_count


def test_chosen_cells_bring_along_what_they_are_trained_from() -> None:
    assert [cell.name for cell in choose_cells(["sft_ap_grpo_060", "grpo"])] == [
        "base",
        "grpo",
        "sft",
        "sft_ap_grpo_060",
    ]
    assert {cell.name for cell in choose_cells(QUICK_CELLS)} == set(QUICK_CELLS)
    with pytest.raises(InputError, match="got 'ppo'"):
        choose_cells(["grpo", "ppo"])
