import pytest

from hart_studio.algorithms.methods import DEFAULT_STAGES, METHODS, STAGE_SEQUENCE_TITLES, STAGE_SEQUENCES, parse_stages
from hart_studio.errors import InputError


def test_the_table() -> None:
    rows = {
        name: (row.name, row.protocol, row.has_grounding_turn, row.is_rl, row.has_preference_weights)
        for name, row in METHODS.items()
    }
    assert rows == {
        "sft": ("sft", "direct", False, False, False),
        "grpo": ("grpo", "direct", False, True, False),
        "mgpo": ("mgpo", "full_and_crops", True, True, False),
        "ap_grpo": ("ap_grpo", "crops_only", True, True, True),
    }
    assert [row.label for row in METHODS.values()] == ["SFT", "GRPO", "MGPO", "AP-GRPO"]


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        METHODS["dpo"] = METHODS["sft"]  # type: ignore[index]


def test_every_chain_has_the_stages_it_names() -> None:
    assert {stages: "+".join(stage.name for stage in parse_stages(stages)) for stages in STAGE_SEQUENCES} == {
        c: c for c in STAGE_SEQUENCES
    }
    assert set(METHODS) < set(STAGE_SEQUENCES), "any single stage can be run"
    assert parse_stages() == parse_stages(DEFAULT_STAGES) == (METHODS["ap_grpo"], METHODS["sft"])


@pytest.mark.parametrize("text", ["", "dpo", "sft+sft", "sft+grpo", "ap_grpo+sft+sft", "ap_grpo + sft", "AP_GRPO"])
def test_another_chain_is_refused_with_the_list(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_stages(text)
    assert repr(text) in str(caught.value)
    assert "ap_grpo, ap_grpo+sft, sft+ap_grpo, grpo, grpo+sft" in str(caught.value)


def test_every_chain_has_a_title() -> None:
    assert set(STAGE_SEQUENCE_TITLES) == set(STAGE_SEQUENCES)
    assert STAGE_SEQUENCE_TITLES["sft+ap_grpo"] == f"{METHODS['sft'].label}, then {METHODS['ap_grpo'].label}"
