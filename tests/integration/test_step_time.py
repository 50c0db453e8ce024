"""The step-time benchmark runs all variants with tiny sizes."""

from __future__ import annotations

import pytest

from benchmarks.step_time_measures import time_turn_one
from benchmarks.step_time_model import SMALL, Setup, make_setup
from benchmarks.step_time_variants import PLAIN, SHARED, VANILLA, Step, Variant

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(SMALL, tmp_path_factory.mktemp("step_time"))


def test_steps_do_the_work_that_is_compared(setup: Setup) -> None:
    steps: dict[str, Step] = {}
    for name in (VANILLA, *SHARED, *PLAIN):
        variant = Variant(name, setup)
        before = {key: weight.clone() for key, weight in variant.trainer.model.named_parameters()}
        steps[name] = variant.step()
        changed = {key for key, weight in variant.trainer.model.named_parameters() if not weight.equal(before[key])}
        assert changed and all("lora_" in key and ".language_model." in key for key in changed), name
        assert steps[name].seconds >= sum(steps[name].phases.values()) * 0.9 > 0
        if name == "ap_grpo shared":
            assert min(time_turn_one(variant, setup, size) for size in (4, 16)) > 0
    group, tokens, overview = SMALL.group_size, SMALL.turn_tokens, SMALL.overview_side**2
    least, most = SMALL.crop_tokens
    for name in ("ap_grpo shared", "ap_grpo plain"):
        seen = steps[name].visual_tokens
        assert seen["grounding"] == [overview] * group
        assert len(seen["answer"]) == group and all(least <= count <= most for count in seen["answer"])
    patches = 4 * overview
    assert steps["grpo shared"].tokens["patches"] == patches, "the image of a group is read once"
    assert steps[VANILLA].tokens["patches"] == 3 * group * patches, "sampling, reference, update"
    trained = {name: step.tokens["trained"] for name, step in steps.items()}
    prompt = trained[VANILLA] // group - tokens
    assert prompt > overview
    assert trained[VANILLA] == group * (prompt + tokens)
    assert trained["grpo plain"] == group * (prompt - 1 + tokens), "what follows the last token is not asked for"
    assert trained["grpo shared"] == prompt - 1 + group * tokens, "a shared prompt is there once"
    assert trained["mgpo shared"] < trained["mgpo plain"]
