from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import create_model

from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import (
    SETTINGS,
    apply_overrides,
    dump_config,
    list_overrides,
    load_config,
    read_config,
    to_arguments,
)
from hart_studio.runs.presets import PRESETS
from tests.examples import example_count

# Texts that could be taken for something else on the way: JSON words, numbers, lists, quotes.
texts = st.sampled_from(
    ["", "123", "true", "null", "a,b", '"quoted"', "x=y", "[1]", "data/scenes ä", "none", "1e5"]
) | (st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "://" not in text))
fractions = st.floats(0, 1, exclude_max=True)
rates = st.floats(0, 1, exclude_min=True)
configs = st.builds(
    lambda **values: read_config(values),
    model=st.fixed_dictionaries(
        {"id": texts, "lora": st.sampled_from(["auto", "on", "off"]), "lora_alpha": st.floats(0.5, 4096)}
    ),
    data=st.fixed_dictionaries(
        {
            "source": st.just("hf"),
            "path": texts.filter(bool),
            "sft_samples": st.none() | st.integers(1, 10**9),
            "split_by_image": st.booleans(),
            "columns": st.dictionaries(st.sampled_from(["image", "question", "answer"]), texts),
        }
    ),
    rollout=st.fixed_dictionaries(
        {"group_size": st.integers(2, 256), "overview_max_pixels": st.none() | st.integers(784, 10**7)}
    ),
    method=st.fixed_dictionaries(
        {
            "stages": st.sampled_from(["sft", "mgpo", "ap_grpo", "sft+ap_grpo", "grpo+sft"]),
            "preference_scale": fractions,
            "beta": st.floats(0, 10),
        }
    ),
    optim=st.fixed_dictionaries({"learning_rate": rates, "betas": st.tuples(fractions, fractions)}),
    schedule=st.fixed_dictionaries(
        {"rl_batch_size": st.integers(1, 64).map(lambda count: 4 * count), "rl_micro_batch_size": st.just(4)}
    ),
    seed=st.integers(0, 2**32 - 1),
    trackers=st.lists(st.sampled_from(["tensorboard", "trackio", "wandb"]), unique=True),
    name=st.from_regex(r"[A-Za-z0-9ü][A-Za-z0-9ü ._-]{0,59}", fullmatch=True),
)


@given(config=configs)
@settings(max_examples=example_count(cost=6))
def test_a_file_round_trip_changes_nothing(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@given(config=configs, preset=st.sampled_from([*PRESETS]))
@settings(max_examples=example_count(cost=6))
def test_the_command_repeats_the_settings(config: RunConfig, preset: str) -> None:
    argv = shlex.split(shlex.join(to_arguments(config, preset)))
    assert argv[:2] == ["--preset", preset] and set(argv[2::2]) <= {"--set"}
    assert apply_overrides(PRESETS[preset].config, argv[3::2]) == config


def test_the_command_names_only_what_differs() -> None:
    demo = PRESETS["cpu-demo"].config
    assert to_arguments(demo, "cpu-demo") == ["--preset", "cpu-demo"]
    changes = ["data.sft_samples=7", "optim.learning_rate=3e-05", 'trackers=["wandb"]']
    assert to_arguments(apply_overrides(demo, changes), "cpu-demo") == [
        "--preset", "cpu-demo", "--set", changes[0], "--set", changes[1], "--set", changes[2],
    ]  # fmt: skip
    assert list_overrides(RunConfig(name="a"), RunConfig(name="b")) == ["name=a"]
    with pytest.raises(InputError, match="choose one of cpu-demo"):
        to_arguments(demo, "gpu-demo")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.learning_rate=1e-5", 1e-5),
        ("schedule.rl_steps=200", 200),
        ("data.split_by_image=true", True),
        ("data.split_by_image=True", True),
        ("data.sft_samples=null", None),
        ("data.sft_samples=None", None),
        ("model.lora=on", "on"),
        ("model.id=123", "123"),
        ("model.id=null", "null"),
        ("model.id=a,b", "a,b"),
        ("model.id=", ""),
        ("model.id=C:=x", "C:=x"),
        ("optim.betas=0.8,0.9", (0.8, 0.9)),
        ("optim.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("trackers=tensorboard,wandb", ("tensorboard", "wandb")),
        ("trackers=[]", ()),
        ("name=2026", "2026"),
    ],
)
def test_a_value_is_read_as_its_setting_wants_it(override: str, value: Any) -> None:
    found: Any = apply_overrides(RunConfig(), [override])
    for part in override.partition("=")[0].split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_a_pair_that_is_only_valid_together_can_be_given_in_either_order() -> None:
    pair = ["schedule.rl_micro_batch_size=16", "schedule.rl_batch_size=32"]
    for overrides in (pair, pair[::-1]):
        assert apply_overrides(RunConfig(), overrides).schedule.rl_micro_batch_size == 16
    with pytest.raises(InputError, match="divisible by"):
        apply_overrides(RunConfig(), pair[:1])


def test_the_last_of_several_wins() -> None:
    assert apply_overrides(RunConfig(), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("optim.learnin_rate", "did you mean optim.learning_rate"),
        ("learning_rate", "did you mean optim.learning_rate or optim.sft_learning_rate"),
        ("group_size", "did you mean rollout.group_size"),
        ("method.k", "available: method.stages, method.preference_scale, "),
        ("optimm.betas", "did you mean optim.betas"),
        ("optim", "available: optim.learning_rate, "),
        ("", "available: model.id, "),
    ],
)
def test_an_unknown_name_gets_similar_names(name: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides(RunConfig(), [f"{name}=1"])
    assert f"unknown setting {name!r}" in str(caught.value)
    assert near in str(caught.value)


def test_an_unknown_key_in_a_file_gets_similar_names(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"optimm": {}, "optim": {"learning-rate": 1}}))
    with pytest.raises(InputError, match=r"'optimm'; did you mean optim\?") as caught:
        load_config(path)
    assert "'optim.learning-rate'; did you mean optim.learning_rate" in str(caught.value)


@pytest.mark.parametrize("override", ["seed", "--seed", "seed 5"])
def test_an_override_without_a_sign_is_refused(override: str) -> None:
    with pytest.raises(InputError, match="expected name=value"):
        apply_overrides(RunConfig(), [override])


@pytest.mark.parametrize(
    "override", ["optim.learning_rate=fast", "optim.learning_rate=NaN", "optim.betas=0.9", "schedule.rl_steps=true"]
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(override: str) -> None:
    with pytest.raises(InputError, match=override.partition("=")[0]):
        apply_overrides(RunConfig(), [override])


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides(RunConfig(), ["rollout.group_size=1", "optim.learning_rate=0"])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "rollout.group_size",
        "optim.learning_rate",
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"seed": NaN}', b'{"optim": {"learning_rate": NaN}}'])
def test_a_file_that_is_no_settings(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="contains invalid settings"):
        load_config(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_config(tmp_path / "none.json")


def test_names_are_in_the_order_of_the_sections() -> None:
    names = tuple(SETTINGS)
    assert names[0] == "model.id"
    assert names[-3:] == ("seed", "trackers", "name")
    assert len(names) == len(set(names)) > 50


def test_a_path_that_is_not_utf8_is_an_error_in_words() -> None:
    config = create_model("Config", path=(str, ...))
    with pytest.raises(InputError, match="not UTF-8"):
        dump_config(config(path="x\udcff"))
