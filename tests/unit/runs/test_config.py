from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hart_studio.errors import InputError
from hart_studio.runs.config import ModelConfig, RunConfig, ScheduleConfig, Section
from hart_studio.runs.overrides import read_config


def fields_of(section: type[Section]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= {f"{name}.{inner}": value for inner, value in fields_of(kind).items()}
        found[name] = field
    return found


def test_every_field_can_become_a_form_field() -> None:
    fields = fields_of(RunConfig)
    assert len(fields) > 50
    assert [name for name, field in fields.items() if not field.description] == []
    assert [name for name, field in fields.items() if field.is_required()] == []
    assert fields["method.preference_scale"].description.startswith("k of Eq. 5 and 6")
    numbers = [name for name, field in fields.items() if field.annotation in (int, float)]
    assert "optim.learning_rate" in numbers
    assert [name for name in numbers if not fields[name].metadata] == []


def test_the_defaults_of_the_method() -> None:
    config = RunConfig()
    assert config.method.stages == "ap_grpo+sft"
    assert config.method.stage_names == ("ap_grpo", "sft")
    assert (config.method.preference_scale, config.method.beta, config.method.clip_epsilon) == (0.6, 0.04, 0.2)
    assert (config.method.trained_turns, config.method.loss_aggregation) == ("both", "turn")
    assert (config.method.format_reward_weight, config.method.area_penalty_weight) == (0.0, 0.0)
    assert config.rollout.group_size == 8
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("method", "preference_scale", 1.0),
        ("method", "preference_scale", -0.1),
        ("method", "beta", -0.01),
        ("method", "beta", float("inf")),
        ("method", "stages", "grpo+ap_grpo"),
        ("method", "clip_epsilon", 0.0),
        ("rollout", "group_size", 1),
        ("rollout", "temperature", 0.0),
        ("rollout", "overview_max_pixels", 100),
        ("optim", "learning_rate", 0.0),
        ("optim", "learning_rate", float("nan")),
        ("optim", "betas", (0.9, 1.0)),
        ("schedule", "rl_steps", 0),
        ("schedule", "rl_steps", True),
        ("schedule", "save_total_limit", 0),
        ("data", "sft_samples", -1),
        ("data", "columns", {"pixels": "image"}),
        ("model", "attn_implementation", "flash"),
        ("model", "id", False),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(section: str, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{section}\.{name}[.:]"):
        read_config({section: {name: value}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"schedule": {"rl_batch_size": 6, "rl_micro_batch_size": 4}},
            r"rl_batch_size \(6\) must be divisible by rl_micro_batch_size \(4\)",
        ),
        ({"schedule": {"sft_batch_size": 3}}, r"sft_batch_size \(3\) must be divisible by sft_micro_batch_size \(2\)"),
        ({"data": {"source": "jsonl"}}, "source=jsonl needs a path"),
        ({"data": {"columns": {"question": "query"}}}, "columns can be set for source=hf only"),
        ({"data": {"needle_samples": 600}}, "at least rl_samples [+] sft_samples [+] eval_samples = 680, got 600"),
        ({"data": {"rl_samples": 0}}, "data.rl_samples above 0 for the stages ap_grpo[+]sft"),
        ({"data": {"sft_samples": 0}}, "data.sft_samples above 0 or None"),
        ({"model": {"attn_implementation": "flash_attention_2", "device": "cpu"}}, "expected CUDA and bfloat16"),
        ({"model": {"attn_implementation": "flash_attention_2", "dtype": "float32"}}, "expected CUDA and bfloat16"),
        ({"trackers": ["wandb", "wandb"]}, "each tracker once"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(values)


def test_what_a_stage_does_not_use_may_be_empty() -> None:
    assert read_config({"method": {"stages": "sft"}, "data": {"rl_samples": 0}}).data.rl_samples == 0
    assert read_config({"method": {"stages": "grpo"}, "data": {"sft_samples": 0}}).data.sft_samples == 0
    read_config({"data": {"path": "scenes", "rl_samples": 10_000}})


@pytest.mark.parametrize("name", ["", "a", "A run 2.5_x-y", "x" * 60, "Müller Versuch"])
def test_a_name_for_people(name: str) -> None:
    assert RunConfig(name=name).name == name


@pytest.mark.parametrize("name", [" a", "../up", "a/b", "a\n", "x" * 61, '"; touch x #', "<b>", "ä\u202e"])
def test_a_name_that_could_be_something_else(name: str) -> None:
    with pytest.raises(ValidationError):
        RunConfig(name=name)


def test_a_secret_is_refused_and_not_repeated() -> None:
    token = "hf_" + "aB3" * 8
    for values in ({"model": {"id": token}}, {"data": {"source": "hf", "path": f"https://me:{token}@hub/x"}}):
        with pytest.raises(InputError, match="the value has the form of an access token") as caught:
            read_config(values)
        assert token not in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        RunConfig().schedule.rl_steps = 5  # type: ignore[misc]


def test_what_is_probably_not_meant_is_said() -> None:
    assert "Eq. 6" in read_config({"method": {"beta": 0}}).warnings[0]
    assert "Eq. 5" in read_config({"method": {"preference_scale": 0}}).warnings[0]
    assert "nothing is evaluated" in read_config({"data": {"eval_samples": 0}}).warnings[0]
    assert read_config({"method": {"stages": "grpo", "beta": 0, "preference_scale": 0}}).warnings == ()


def test_only_the_built_in_model_is_taught_words_by_itself() -> None:
    assert RunConfig().answer_format == "option_text"
    assert read_config({"model": {"id": "owner/model"}}).answer_format == "boxed_letter"
    assert read_config({"method": {"answer_format": "boxed_letter"}}).answer_format == "boxed_letter"
    assert (
        read_config({"model": {"id": "owner/model"}, "method": {"answer_format": "option_text"}}).answer_format
        == "option_text"
    )


def test_total_steps_counts_every_stage() -> None:
    schedule = {"rl_steps": 7, "sft_steps": 5}
    totals = {"ap_grpo+sft": 12, "sft+ap_grpo": 12, "sft": 5, "mgpo": 7}
    for stages, total in totals.items():
        assert read_config({"method": {"stages": stages}, "schedule": schedule}).total_steps == total


def test_micro_batches_divide_a_step_over_processes() -> None:
    schedule = ScheduleConfig(rl_batch_size=24, rl_micro_batch_size=2, sft_batch_size=48, sft_micro_batch_size=4)
    assert schedule.count_micro_batches("ap_grpo") == 12
    assert schedule.count_micro_batches("ap_grpo", processes=4) == 3
    assert schedule.count_micro_batches("sft", processes=4) == 3
    with pytest.raises(
        InputError, match=r"rl_batch_size \(24\) must be divisible by rl_micro_batch_size x 5 processes \(10\)"
    ):
        schedule.count_micro_batches("ap_grpo", processes=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": "off"}, "expected adapters with quantization=4bit"),
        ({"freeze_vision_tower": False}, "expected freeze_vision_tower=true with quantization=4bit"),
        ({"device": "mps"}, "quantization=4bit needs CUDA or the CPU"),
    ],
)
def test_quantized_weights_are_not_trained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"quantization": "4bit", **changes})
    assert ModelConfig(quantization="8bit").lora == "auto"
