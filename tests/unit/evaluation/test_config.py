"""Number of questions known before they are read, and limits of the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hart_studio.evaluation.config import DRAWN_QUESTIONS, MAX_QUESTIONS, EvaluationConfig
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.runs.config import RunConfig


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
        ({"benchmark": "vstar", "subsets": ("relative_position",)}, None),
        ({"benchmark": "vstar", "without": "/data/other"}, None),
        ({"benchmark": "unheard-of"}, None),
    ],
)
def test_the_count_is_reported_where_nothing_has_to_be_read_for_it(settings: dict[str, Any], count: int | None) -> None:
    assert EvaluationConfig(**settings).known_count == count


@pytest.mark.parametrize("limit", [0, MAX_QUESTIONS + 1, 10**20])
def test_a_limit_that_no_page_could_show_is_refused(limit: int) -> None:
    with pytest.raises(ValidationError, match="limit"):
        EvaluationConfig(limit=limit)
    assert EvaluationConfig(limit=MAX_QUESTIONS).limit == MAX_QUESTIONS


@pytest.mark.parametrize("kind", [EvaluationConfig, LoopSettings, RunConfig])
def test_every_whole_number_of_the_settings_has_a_bound_that_can_be_sent(kind: type[BaseModel]) -> None:
    for model, name, info in list_fields(kind):
        if int in (info.annotation, *get_args(info.annotation)):
            with pytest.raises(ValidationError, match=name):
                model.model_validate({name: 2**64})


def list_fields(kind: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str, FieldInfo]]:
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from list_fields(info.annotation)
        else:
            yield kind, name, info
