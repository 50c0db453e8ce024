from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hart_studio.models.families import PixelBudget
from hart_studio.models.served_settings import ServedSettings

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "file:///etc/passwd",
        "host:8000/v1",
        "",
        "http://",
        "http:///v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://user:hunter22@host/v1",
        "http://token@host/v1",
        "http://user:hunter22@ho\u2100st/v1",
        "http://[::1/v1",
        "http://host/v1?api-key=hunter22",
        "http://host/v1#here",
        "http://ho st/v1",
        "http://host/v1\nx: y",
    ],
)
def test_unusable_urls(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServedSettings(url=url, family="qwen3_vl")
    assert caught.value.errors()[0]["loc"] == ("url",)
    assert "hunter22" not in caught.value.errors(include_input=False)[0]["msg"]


def test_a_slash_at_the_end_says_nothing() -> None:
    assert ServedSettings(url=f"{URL}/", family="qwen3_vl").url == URL


@pytest.mark.parametrize(
    "more",
    [
        {"family": "gpt"},
        {"concurrency": 0},
        {"timeout_seconds": 0},
        {"retries": -1},
        {"processor_min_pixels": 4},
        {"processor_max_pixels": 4},
        {"processor_min_pixels": 5, "processor_max_pixels": 4},
        {"extra_fields": {"temperature": 1}},
        {"extra_fields": {"messages": []}},
        {"api_key": "sk-secret"},
    ],
)
def test_unusable_values(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServedSettings(**{"url": URL, "family": "qwen3_vl", **more})


def test_names_and_budgets() -> None:
    settings = ServedSettings(url=URL, family="internvl", model="a/b", processor_min_pixels=3, processor_max_pixels=9)
    assert settings.title == f"a/b at {URL}"
    assert settings.family_row.title == "InternVL3"
    assert settings.processor_budget == PixelBudget(3, 9)
    assert ServedSettings(url=URL, family="internvl").processor_budget is None
    assert ServedSettings.model_validate_json(settings.model_dump_json()) == settings
