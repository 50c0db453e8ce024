"""Studios to attack: one that anyone may work on, one that is closed, one behind a login."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.targets import PASSWORD, Canary, Target, serve_target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A studio of one's own: everyone who reaches it may work there."""
    with serve_target(tmp_path_factory.mktemp("target")) as served:
        yield served


@pytest.fixture(scope="module")
def closed_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A studio that shows and makes nothing."""
    with serve_target(tmp_path_factory.mktemp("closed"), is_open=False) as served:
        yield served


@pytest.fixture(scope="module")
def login_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A studio behind a login."""
    with serve_target(tmp_path_factory.mktemp("login"), login=("ada", PASSWORD)) as served:
        yield served


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """A server that no one may call; the test fails at the end when someone did."""
    found = Canary()
    yield found
    found.close()
    assert found.hits == []
