"""The form shows every setting, reads what it shows, and refuses what a file would refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.algorithms.methods import CHAIN_TITLES
from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import SETTINGS
from hart_studio.runs.presets import PRESETS
from hart_studio.ui.train_form import (
    FIELDS,
    GROUPS,
    HIDDEN,
    label_problems,
    list_widgets,
    name_labels,
    read_values,
    write_values,
)

WIDGETS = {widget.field.name: widget for widget in list_widgets()}


def test_every_setting_has_a_widget_or_is_hidden_with_a_reason() -> None:
    shown = [field.name for field in FIELDS]
    assert sorted([*shown, *HIDDEN]) == sorted(SETTINGS)
    assert all(HIDDEN.values()) and {field.group for field in FIELDS} == set(GROUPS)
    assert all(widget.info for widget in WIDGETS.values()), "every setting explains itself"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_form_that_is_left_alone_means_its_preset(preset: str) -> None:
    config = PRESETS[preset].config
    assert read_values(write_values(config), config) == config


def test_widgets_carry_kind_and_choices() -> None:
    group = WIDGETS["rollout.group_size"]
    assert (group.kind, group.is_whole) == ("number", True)
    scale = WIDGETS["method.preference_scale"]
    assert (scale.kind, scale.is_whole) == ("number", False)
    pixels = WIDGETS["rollout.overview_max_pixels"]
    assert (pixels.kind, pixels.is_whole) == ("number or nothing", True)
    assert WIDGETS["data.split_by_image"].kind == "switch" and WIDGETS["model.id"].kind == "text"
    assert [value for _, value in WIDGETS["model.lora"].choices] == ["auto", "on", "off"]
    assert WIDGETS["method.chain"].choices[0] == ("AP-GRPO", "ap_grpo") and len(WIDGETS["method.chain"].choices) == 8
    assert WIDGETS["trackers"].kind == "several" and len(WIDGETS["trackers"].choices) == 3


def test_settings_are_used_where_their_stage_is_trained() -> None:
    used = {chain: {field.name for field in FIELDS if field.is_used(chain, "needle")} for chain in CHAIN_TITLES}
    names = {field.name for field in FIELDS} - {"data.image_root"}
    of_sft = {name for name in names if "sft" in name} | {"method.answer_format"}
    assert used["ap_grpo+sft"] == used["sft+ap_grpo"] == names
    assert used["ap_grpo"] == names - of_sft
    assert used["grpo"] == used["mgpo"] == used["ap_grpo"] - {"method.preference_scale"}
    assert of_sft | {"name", "seed", "data.eval_samples", "rollout.max_boxes"} <= used["sft"]
    assert not used["sft"] & {"schedule.rl_steps", "rollout.group_size", "method.preference_scale", "method.beta"}


def values_with(**changes: object) -> list[object]:
    names = [field.name for field in FIELDS]
    values = write_values(RunConfig())
    for name, value in changes.items():
        values[names.index(name.replace("__", "."))] = value
    return values


def test_what_a_browser_sends_becomes_settings() -> None:
    config = read_values(
        values_with(
            rollout__group_size=4.0,
            data__sft_samples=" ",
            data__needle_samples=2000.0,
            rollout__crop_max_pixels="",
            rollout__overview_max_pixels="200704",
            optim__learning_rate=3e-5,
            trackers=["tensorboard"],
            name=" mine ",
        ),
        RunConfig(),
    )
    assert (config.rollout.group_size, config.data.sft_samples, config.rollout.crop_max_pixels) == (4, None, None)
    assert (config.rollout.overview_max_pixels, config.data.needle_samples) == (200704, 2000)
    assert (config.optim.learning_rate, config.trackers, config.name) == (3e-5, ("tensorboard",), "mine")


def test_what_the_form_does_not_show_is_kept() -> None:
    base = RunConfig.model_validate(
        {"optim": {"betas": (0.5, 0.6)}, "data": {"source": "hf", "path": "a/b", "columns": {"id": "key"}}}
    )
    config = read_values(write_values(base), base)
    assert config.optim.betas == (0.5, 0.6) and config.data.columns == {"id": "key"}


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("rollout__group_size", 1, "Group size G"),
        ("rollout__group_size", 2.5, "Group size G"),
        ("rollout__group_size", None, "Group size G"),
        ("rollout__overview_max_pixels", "many", "Overview max pixels"),
        ("rollout__overview_max_pixels", "1", "Overview max pixels"),
        ("optim__learning_rate", "fast", "RL learning rate"),
        ("method__chain", "ppo", "Method"),
        ("name", "<script>", "Run name"),
        ("model__id", "hf_" + "a" * 34, "Base model"),
        ("trackers", ["mlflow"], "Settings"),
    ],
)
def test_a_problem_is_named_by_its_label(name: str, value: object, label: str) -> None:
    with pytest.raises(InputError) as caught:
        read_values(values_with(**{name: value}), RunConfig())
    problems = label_problems(str(caught.value))
    assert any(found == label for found, _ in problems) or label == "Settings", problems
    assert all(text for _, text in problems)


def test_problems_between_settings_have_no_label_of_their_own() -> None:
    with pytest.raises(InputError) as caught:
        read_values(values_with(data__source="jsonl"), RunConfig())
    assert label_problems(str(caught.value))[0][1].startswith("source=jsonl needs a path")


@given(st.lists(st.one_of(st.none(), st.floats(), st.text(), st.booleans(), st.lists(st.text())), max_size=70))
def test_whatever_a_browser_sends_is_settings_or_a_clear_refusal(values: list[object]) -> None:
    filled = write_values(RunConfig())
    filled[: len(values)] = values[: len(filled)]
    try:
        assert isinstance(read_values(filled, RunConfig()), RunConfig)
    except InputError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (
            "schedule: rl_batch_size (2) must be divisible by rl_micro_batch_size (8).",
            "Schedule",
            "“RL batch size” (2) must be divisible by “RL micro-batch size” (8).",
        ),
        (
            "data: source=jsonl needs a path; set data.path",
            "Data",
            "source=jsonl needs a path; set “Dataset path”",
        ),
        (
            "settings: expected data.rl_samples above 0 for the chain ap_grpo+sft, got 0",
            "Settings",
            "expected “RL samples” above 0 for the chain ap_grpo+sft, got 0",
        ),
        ("no rollout.unheard at /data/rl_samples.json or data.path.txt", "Settings", ""),
    ],
)
def test_settings_in_a_problem_are_called_what_the_form_calls_them(text: str, label: str, message: str) -> None:
    assert label_problems(text) == [(label, message or text)]


def test_settings_in_an_advice_are_called_what_the_form_calls_them() -> None:
    assert name_labels("Set model.lora to on; lower rollout.group_size.") == "Set “LoRA” to on; lower “Group size G”."
