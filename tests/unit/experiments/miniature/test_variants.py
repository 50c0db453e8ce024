from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.experiments.miniature.variants import (
    FULL,
    QUICK,
    QUICK_VARIANTS,
    VARIANTS,
    StudySize,
    base_config,
    select_variants,
    variant_config,
)

TRAINED = [variant for variant in VARIANTS.values() if variant.method is not None]


def test_a_seed_has_the_runs_of_the_paper_s_table_7() -> None:
    titles = {variant.title for variant in TRAINED}
    alone = {"GRPO", "MGPO", "AP-GRPO, k 0.15", "AP-GRPO, k 0.3", "AP-GRPO, k 0.6"}
    assert titles == alone | {f"{title} + SFT" for title in alone} | {"SFT", "SFT + AP-GRPO, k 0.6"}
    assert len(TRAINED) == 12
    assert set(VARIANTS) - {variant.name for variant in TRAINED} == {"base"}


def test_every_cell_comes_after_what_it_is_trained_from() -> None:
    names = list(VARIANTS)
    assert all(
        variant.parent is None or names.index(variant.parent) < names.index(name) for name, variant in VARIANTS.items()
    )
    assert VARIANTS["mgpo_sft"].parent == "mgpo" and VARIANTS["sft_ap_grpo_060"].parent == "sft"


def test_the_protocol_is_that_of_the_rl_stage() -> None:
    assert {name: variant.protocol for name, variant in VARIANTS.items() if not name.startswith("ap_")} == {
        "base": "direct",
        "sft": "direct",
        "grpo": "direct",
        "mgpo": "full_and_crops",
        "grpo_sft": "direct",
        "mgpo_sft": "full_and_crops",
        "sft_ap_grpo_060": "crops_only",
    }
    assert VARIANTS["ap_grpo_015"].protocol == VARIANTS["ap_grpo_015_sft"].protocol == "crops_only"


@pytest.mark.parametrize("size", [FULL, QUICK], ids=["full", "quick"])
def test_budgets_are_equal_and_only_the_objective_differs(size: StudySize) -> None:
    base = base_config(size, "", Path("/data/train"))
    configs = [variant_config(variant, base, 3, "/models/parent") for variant in TRAINED]
    assert {config.schedule for config in configs} == {base.schedule}
    assert {config.rollout for config in configs} == {base.rollout}
    assert {config.optim for config in configs} == {base.optim}
    assert {config.data.path for config in configs} == {"/data/train"}
    assert {config.model.id for config in configs} == {"/models/parent"}
    assert {config.seed for config in configs} == {3}
    assert {config.total_steps for config in configs if config.method.stages != "sft"} == {base.schedule.rl_steps}
    assert {config.total_steps for config in configs if config.method.stages == "sft"} == {base.schedule.sft_steps}
    scales = {config.method.preference_scale for config in configs if config.method.stages == "ap_grpo"}
    assert scales == {0.15, 0.3, 0.6}
    assert {config.method.beta for config in configs} == {base.method.beta}


@pytest.mark.parametrize("size", [FULL, QUICK], ids=["full", "quick"])
def test_there_are_questions_for_every_part(size: StudySize) -> None:
    data = base_config(size, "", Path("/data/train")).data
    assert data.rl_samples + (data.sft_samples or 0) + data.eval_samples <= data.needle_samples


def test_selected_variants_include_their_parents() -> None:
    assert [variant.name for variant in select_variants(["sft_ap_grpo_060", "grpo"])] == [
        "base",
        "grpo",
        "sft",
        "sft_ap_grpo_060",
    ]
    assert {variant.name for variant in select_variants(QUICK_VARIANTS)} == set(QUICK_VARIANTS)
    with pytest.raises(InputError, match="Unknown variant 'ppo'"):
        select_variants(["grpo", "ppo"])
