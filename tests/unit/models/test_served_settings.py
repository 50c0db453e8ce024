from __future__ import annotations

import argparse
from typing import Any

import pytest
from pydantic import ValidationError

from hart_studio.errors import InputError
from hart_studio.models.families import PixelBudget
from hart_studio.models.served_settings import ServedSettings, add_served_options, describe_endpoint, read_served

URL = "http://127.0.0.1:8000/v1"
NEEDED = ["--served", URL, "--served-family", "qwen2_5_vl"]


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


def read(*words: str) -> ServedSettings | None:
    parser = argparse.ArgumentParser()
    add_served_options(parser)
    return read_served(parser.parse_args(words))


def test_none_without_the_flags() -> None:
    assert read() is None


def test_defaults_are_those_of_the_settings() -> None:
    assert read(*NEEDED) == ServedSettings(url=URL, family="qwen2_5_vl")


def test_every_flag() -> None:
    more = [
        "--served-model",
        "a/b",
        "--served-server",
        "vllm",
        "--served-supports-n",
        "--served-image-format",
        "jpeg",
        "--served-retries",
        "0",
    ]
    more += ["--served-concurrency", "3", "--served-timeout", "1.5", "--served-pixels", "784", "50176"]
    more += ["--served-key-variable", "MY_KEY"]
    more += ["--served-field", "min_p=0.1", "--served-field", 'mm_processor_kwargs={"max_pixels": 7}']
    assert read(*NEEDED, *more) == ServedSettings(
        url=URL,
        family="qwen2_5_vl",
        model="a/b",
        server="vllm",
        supports_n=True,
        concurrency=3,
        timeout_seconds=1.5,
        retries=0,
        image_format="jpeg",
        processor_min_pixels=784,
        processor_max_pixels=50176,
        extra_fields={"min_p": 0.1, "mm_processor_kwargs": {"max_pixels": 7}},
        api_key_variable="MY_KEY",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--served-model", "a"], "The options model need --served URL"),
        (["--served-supports-n"], "The options supports_n need --served URL"),
        (["--served", URL], "--served needs --served-family"),
        ([*NEEDED, "--served-concurrency", "0"], "the concurrency of the served model: .*greater than or equal to 1"),
        ([*NEEDED, "--served-field", "min_p"], "there is no NAME="),
        ([*NEEDED, "--served-field", "=1"], "there is no NAME="),
        ([*NEEDED, "--served-field", "min_p={"], "expected a field such as"),
        ([*NEEDED, "--served-field", "seed=1"], "the extra_fields of the served model"),
    ],
)
def test_unusable_flags(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(*words)


def test_a_password_in_the_url_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        read("--served", "http://me:hunter22@host/v1", "--served-family", "qwen3_vl")
    assert "without user and password" in str(caught.value)
    assert "hunter22" not in f"{caught.value}{caught.value.__cause__}"


def test_the_endpoint_and_the_variable_of_its_key_are_named_and_the_key_is_not() -> None:
    settings = ServedSettings(url=URL, family="qwen2_5_vl", api_key_variable="MY_KEY")
    line = describe_endpoint(settings, {"MY_KEY": "the-key"})
    assert line == f"endpoint: {URL} receives the images; key from environment variable MY_KEY (set)"
    assert "not set" in describe_endpoint(settings, {"MY_KEY": " "}) and "not set" in describe_endpoint(settings, {})
