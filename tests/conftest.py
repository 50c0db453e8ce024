"""Fixtures that every part of the suite may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hart_studio.models.generation import LocalChatModel


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that lets the slow tier run."""
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the slow tier, with its reason, unless it was asked for."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run it with --slow"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a family, built on first use: ``tiny_folder("qwen3_vl")``."""
    root = tmp_path_factory.mktemp("tiny_models")

    def folder(family_key: str) -> Path:
        from tests.tiny_models import build_tiny  # noqa: PLC0415 - the core's tests start without torch

        path = root / family_key
        return path if path.exists() else build_tiny(family_key, path)

    return folder


@pytest.fixture(scope="session")
def load_tiny(tiny_folder: Callable[[str], Path]) -> Callable[[str], LocalChatModel]:
    """The loaded tiny model of a family, one for the whole session: ``load_tiny("qwen3_vl")``."""
    models: dict[str, LocalChatModel] = {}

    def load(family_key: str) -> LocalChatModel:
        from hart_studio.models.loading import load_model  # noqa: PLC0415 - as above

        if family_key not in models:
            models[family_key] = load_model(str(tiny_folder(family_key)), device="cpu")
        return models[family_key]

    return load
