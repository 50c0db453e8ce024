"""The form shows every setting, reads what it shows, and refuses what a file would refuse.

A preset fills the whole form; what a person entered stays only where it fits, and is named.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.algorithms.methods import STAGE_SEQUENCE_TITLES
from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import SETTINGS
from hart_studio.runs.presets import PRESETS
from hart_studio.ui.pages.train_form import (
    FIELDS,
    GROUPS,
    HIDDEN,
    WIDGETS,
    FilledForm,
    fill_from_preset,
    label_problems,
    name_labels,
    read_values,
    write_values,
)

BY_NAME = {widget.field.name: widget for widget in WIDGETS}


def test_every_setting_has_a_widget_or_is_hidden_with_a_reason() -> None:
    shown = [field.name for field in FIELDS]
    assert sorted([*shown, *HIDDEN]) == sorted(SETTINGS)
    assert all(HIDDEN.values()) and {field.group for field in FIELDS} == set(GROUPS)
    assert all(widget.info for widget in WIDGETS), "every setting explains itself"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_form_that_is_left_alone_means_its_preset(preset: str) -> None:
    config = PRESETS[preset].config
    assert read_values(write_values(config), config) == config


def test_widgets_carry_kind_and_choices() -> None:
    group = BY_NAME["rollout.group_size"]
    assert (group.kind, group.is_whole) == ("number", True)
    scale = BY_NAME["method.preference_scale"]
    assert (scale.kind, scale.is_whole) == ("number", False)
    pixels = BY_NAME["rollout.overview_max_pixels"]
    assert (pixels.kind, pixels.is_whole) == ("number or nothing", True)
    assert BY_NAME["data.split_by_image"].kind == "switch" and BY_NAME["model.id"].kind == "text"
    assert [value for _, value in BY_NAME["model.lora"].choices] == ["auto", "on", "off"]
    assert BY_NAME["method.stages"].choices[0] == ("AP-GRPO", "ap_grpo") and len(BY_NAME["method.stages"].choices) == 8
    assert BY_NAME["trackers"].kind == "several" and len(BY_NAME["trackers"].choices) == 3


def test_settings_are_used_where_their_stage_is_trained() -> None:
    used = {
        stages: {field.name for field in FIELDS if field.is_used(stages, "needle")} for stages in STAGE_SEQUENCE_TITLES
    }
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
        ("method__stages", "ppo", "Method"),
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
            "settings: expected data.rl_samples above 0 for the stages ap_grpo+sft, got 0",
            "Settings",
            "expected “RL samples” above 0 for the stages ap_grpo+sft, got 0",
        ),
        ("no rollout.unheard at /data/rl_samples.json or data.path.txt", "Settings", ""),
    ],
)
def test_settings_in_a_problem_are_called_what_the_form_calls_them(text: str, label: str, message: str) -> None:
    assert label_problems(text) == [(label, message or text)]


def test_settings_in_an_advice_are_called_what_the_form_calls_them() -> None:
    assert name_labels("Set model.lora to on; lower rollout.group_size.") == "Set “LoRA” to on; lower “Group size G”."


NAMES = [field.name for field in FIELDS]
DEMO, PAPER = PRESETS["cpu-demo"].config, PRESETS["qwen2.5-vl-7b-lora"].config


def values_of(config: RunConfig, **changes: Any) -> list[Any]:
    values = write_values(config)
    for name, value in changes.items():
        values[NAMES.index(name.replace("__", "."))] = value
    return values


def read(found: FilledForm) -> RunConfig:
    return read_values(found.values, found.base)


@pytest.mark.parametrize(("first", "second"), list(permutations(sorted(PRESETS), 2)))
def test_switching_there_and_back_leaves_no_residue(first: str, second: str) -> None:
    one, other = PRESETS[first].config, PRESETS[second].config
    there = fill_from_preset(write_values(one), one, other)
    assert (read(there), there.notes) == (other, ())
    back = fill_from_preset(there.values, there.base, one)
    assert (read(back), back.notes) == (one, ())


def test_what_was_entered_is_replaced_and_named_and_what_fits_stays() -> None:
    values = values_of(
        DEMO, name="mine", trackers=["tensorboard"], optim__learning_rate=3e-4, data__needle_samples=2000.0
    )
    found = fill_from_preset(values, DEMO, PAPER)
    config = read(found)
    assert (config.name, config.trackers) == ("mine", ("tensorboard",))
    assert (config.data, config.optim, config.model) == (PAPER.data, PAPER.optim, PAPER.model)
    assert found.notes == (
        "Kept from your entries: “Run name”, “Trackers”.",
        "Replaced by the preset: “Needle samples”, “RL learning rate”.",
    )
    back = read(fill_from_preset(found.values, found.base, DEMO))
    assert (back.name, back.data) == ("mine", DEMO.data)


def test_an_own_data_set_stays_where_a_preset_needs_one(tmp_path: Path) -> None:
    own = {"data__source": "jsonl", "data__path": str(tmp_path), "data__rl_samples": 20.0, "data__eval_samples": 5.0}
    found = fill_from_preset(values_of(PAPER, **own), PAPER, PRESETS["qwen2.5-vl-3b-lora"].config)
    config = read(found)
    assert config.model.id == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert (config.data.source, config.data.path, config.data.rl_samples) == ("jsonl", str(tmp_path), 20)
    assert found.notes == (f"Kept: your dataset {tmp_path} with its sample counts.",)
    again = read(fill_from_preset(found.values, found.base, PRESETS["internvl3-8b-lora"].config))
    assert again.data == config.data, "it stays with every preset that needs data"
    dropped = fill_from_preset(found.values, found.base, DEMO)
    assert read(dropped).data == DEMO.data
    assert dropped.notes[0] == f"Your dataset {tmp_path} is not used: this preset trains on generated needle scenes."


def test_columns_go_with_their_data_set() -> None:
    base = RunConfig.model_validate({"data": {"source": "hf", "path": "me/mine", "columns": {"id": "key"}}})
    found = fill_from_preset(write_values(base), base, PAPER)
    assert read(found).data == base.data
    assert read(fill_from_preset(found.values, found.base, DEMO)).data.columns == {}


def test_a_form_that_is_not_valid_is_filled_too() -> None:
    values = values_of(DEMO, rollout__group_size=None, data__source="jsonl", data__eval_samples="many", data__path="x")
    found = fill_from_preset(values, DEMO, PAPER)
    assert read(found) == PAPER
    assert found.notes[0].startswith("Your dataset was not kept: ")
    assert "“Group size G”" in found.notes[-1]
