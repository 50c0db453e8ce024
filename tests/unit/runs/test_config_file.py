from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import InputError
from hart_studio.runs import config_file
from hart_studio.runs.config import RunConfig
from hart_studio.runs.config_file import (
    CONFIG_VARIABLE,
    config_variables,
    hash_config,
    read_config_file,
    record_settings,
)
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.overrides import load_run_config
from hart_studio.runs.writer import create_run


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return create_run(tmp_path / "runs", "training", RunConfig(), "ap_grpo", 10)


def test_a_job_works_with_the_config_that_was_checked(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hash_config(layout.config.read_bytes())
    (value,) = config_variables(layout.run_id, sha256).values()
    monkeypatch.setenv(CONFIG_VARIABLE, value)
    assert load_run_config(layout) == RunConfig()
    layout.config.write_text(layout.config.read_text().replace('"seed": 0', '"seed": 1'))
    for read in (read_config_file, load_run_config):
        with pytest.raises(InputError, match="were changed after it was started"):
            read(layout)
    monkeypatch.setenv(CONFIG_VARIABLE, f"{layout.run_id} ")
    with pytest.raises(InputError, match="were changed"):
        read_config_file(layout)


def test_another_run_and_a_terminal_read_it_as_it_is(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_run_config(layout) == RunConfig()
    monkeypatch.setenv(CONFIG_VARIABLE, f"20260101-000000-ap_grpo-000000 {'0' * 64}")
    assert load_run_config(layout) == RunConfig()


def test_a_link_is_not_read(layout: RunLayout, tmp_path: Path) -> None:
    layout.config.rename(tmp_path / "config.json")
    layout.config.symlink_to(tmp_path / "config.json")
    with pytest.raises(OSError, match="not a regular file"):
        read_config_file(layout)
    with pytest.raises(InputError, match="cannot be read"):
        load_run_config(layout)


def change(layout: RunLayout, section: str, **values: Any) -> None:
    settings = json.loads(layout.config.read_text())
    settings[section].update(values)
    layout.config.write_text(json.dumps(settings))


def test_changes_since_the_last_attempt_are_named_once(layout: RunLayout) -> None:
    assert record_settings(layout, 1) == []
    assert record_settings(layout, 2) == []
    change(layout, "optim", learning_rate=0.5)
    (sentence,) = record_settings(layout, 3)
    assert sentence.startswith("optim.learning_rate changed from ")
    assert sentence.endswith(" to 0.5 since attempt 2.")
    assert record_settings(layout, 4) == []


def test_an_attempt_without_a_copy_is_passed_over(layout: RunLayout) -> None:
    record_settings(layout, 1)
    change(layout, "schedule", rl_steps=3)
    (sentence,) = record_settings(layout, 5)
    assert sentence.startswith("schedule.rl_steps changed from ")
    assert sentence.endswith("since attempt 1.")


def test_many_changes_are_counted(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "MAX_SHOWN_CHANGES", 2)
    record_settings(layout, 1)
    change(layout, "optim", **{f"x{number}": number for number in range(5)})
    changes = record_settings(layout, 2)
    assert len(changes) == 3
    assert changes[-1] == "3 other settings changed since attempt 1."


@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"a": '])
def test_settings_that_cannot_be_read_stop_nothing(layout: RunLayout, content: str) -> None:
    record_settings(layout, 1)
    layout.config.write_text(content)
    assert record_settings(layout, 2) == []
