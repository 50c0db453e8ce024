"""Intended image domain of a model, and warnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoConfig

from hart_studio.image_domains import NEEDLE, NEEDLE_CUSTOM, embed_domain
from hart_studio.models.catalog import (
    BUILT_IN_FOLDERS,
    describe_domain_mismatch,
    get_domain_warnings,
    read_intended_domain,
)

WARNING = (
    "hart-tiny was trained only on synthetic needle scenes; its answers on this image are not meaningful. "
    "Choose a model such as Qwen/Qwen2.5-VL-3B-Instruct."
)


@pytest.mark.parametrize("name", [*BUILT_IN_FOLDERS, *BUILT_IN_FOLDERS.values()])
def test_the_built_in_models_were_made_for_drawn_scenes(name: str) -> None:
    assert read_intended_domain(name) == NEEDLE
    assert describe_domain_mismatch(name, NEEDLE) == describe_domain_mismatch(name, NEEDLE_CUSTOM) == ""
    assert "was trained only on synthetic needle scenes" in describe_domain_mismatch(name, "")


def test_a_photograph_is_warned_of_and_a_drawn_scene_is_not(tmp_path: Path) -> None:
    photograph, scene = tmp_path / "needle.jpg", tmp_path / "scene.jpg"
    Image.effect_noise((60, 40), 80).convert("RGB").save(photograph)
    scene.write_bytes(embed_domain(photograph.read_bytes(), NEEDLE))
    assert get_domain_warnings("built-in-hart", photograph) == (WARNING,)
    assert get_domain_warnings("built-in-hart", scene) == ()
    assert get_domain_warnings("Qwen/Qwen2.5-VL-3B-Instruct", photograph) == ()


def test_what_is_trained_from_a_built_in_model_inherits_it(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(BUILT_IN_FOLDERS["built-in"])
    config.save_pretrained(tmp_path / "checkpoint")  # as the trainer saves it
    assert read_intended_domain(str(tmp_path / "checkpoint")) == NEEDLE
    AutoConfig.from_pretrained(tmp_path / "checkpoint").save_pretrained(tmp_path / "merged")
    assert read_intended_domain(str(tmp_path / "merged")) == NEEDLE


def test_an_adapter_was_made_for_what_its_base_was(tmp_path: Path) -> None:
    for base, expected in ((BUILT_IN_FOLDERS["built-in"], NEEDLE), ("org/other", "")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        assert read_intended_domain(str(tmp_path)) == expected


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", "{}", '{"made_for": 1}', '{"made_for": "photographs"}', "[" * 100_000, '{"a": "\ud800"}']
)
def test_other_models_have_no_limit(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert read_intended_domain(str(tmp_path)) == ""
    assert read_intended_domain("org/model") == read_intended_domain("a\0b") == ""


def test_a_name_with_control_characters_is_shown_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2Jb"
    folder.mkdir()
    shutil.copy(Path(BUILT_IN_FOLDERS["built-in"]) / "config.json", folder)
    assert describe_domain_mismatch(str(folder), "").startswith("a [2Jb was trained only on")
