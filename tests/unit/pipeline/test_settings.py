from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hart_studio.errors import InputError
from hart_studio.models.chat import SamplingParams
from hart_studio.pipeline.settings import LoopSettings, read_settings


def test_the_turns_share_the_decoding_settings_but_no_random_numbers() -> None:
    settings = LoopSettings(temperature=0.7, max_new_tokens=64, seed=5)
    assert settings.sampling == SamplingParams(temperature=0.7, max_new_tokens=64, seed=5)
    assert settings.grounding_sampling == SamplingParams(temperature=0.7, max_new_tokens=64, seed=5 + 2**32)
    assert LoopSettings().grounding_sampling == LoopSettings().sampling == SamplingParams(0.0, 512, None)


def test_training_default_never_falls_back_to_the_full_image() -> None:
    assert LoopSettings().fallback == "none"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("padding", -0.1),
        ("padding", float("nan")),
        ("padding", "wide"),
        ("min_side", 0),
        ("max_aspect", 1.0),
        ("max_boxes", 0),
        ("temperature", -1.0),
        ("temperature", float("inf")),
        ("max_new_tokens", 0),
        ("overview_max_pixels", 0),
        ("crop_max_pixels", 100),
        ("fallback", "full"),
        ("seed", -1),
        ("seed", 2**32),
        ("tint", "red"),
    ],
)
def test_a_bad_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"the setting {name} is "):
        read_settings(**{name: value})
    with pytest.raises(ValidationError):
        LoopSettings(**{name: value})
