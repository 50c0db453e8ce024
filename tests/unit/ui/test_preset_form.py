"""A preset fills the whole form; what a person entered stays only where it fits, and is named."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import PRESETS
from hart_studio.ui.preset_form import FilledForm, fill_from_preset
from hart_studio.ui.train_form import FIELDS, read_values, write_values

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
