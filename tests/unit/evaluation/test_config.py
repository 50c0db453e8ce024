"""How many questions an evaluation asks, as far as that is known before they are read."""

from __future__ import annotations

from typing import Any

import pytest

from hart_studio.evaluation.config import DRAWN_QUESTIONS, EvaluationConfig


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, DRAWN_QUESTIONS),
        ({"limit": 8}, 8),
        ({"limit": 5000}, 5000),
        ({"path": "/data/needle-test"}, None),
        ({"path": "/data/needle-test", "limit": 8}, None),
        ({"benchmark": "vstar"}, 191),
        ({"benchmark": "vstar", "path": "craigwu/vstar_bench"}, 191),
        ({"benchmark": "vstar", "limit": 50}, 50),
        ({"benchmark": "vstar", "limit": 500}, 191),
        ({"benchmark": "vstar", "path": "/data/vstar"}, None),
        ({"benchmark": "unheard-of"}, None),
    ],
)
def test_the_count_is_told_where_nothing_has_to_be_read_for_it(settings: dict[str, Any], count: int | None) -> None:
    assert EvaluationConfig(**settings).known_count == count
