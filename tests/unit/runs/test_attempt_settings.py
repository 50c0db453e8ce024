"""A resumed run reports changed settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hart_studio.runs import attempt_settings
from hart_studio.runs.attempt_settings import record_settings
from hart_studio.runs.layout import RunLayout


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
    monkeypatch.setattr(attempt_settings, "MOST_CHANGES", 2)
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
