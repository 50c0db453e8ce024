"""Test servers to attack: an open one, a read-only one, one behind a login."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.targets import PASSWORD, Canary, Target, serve_target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that every client may use."""
    with serve_target(tmp_path_factory.mktemp("target")) as served:
        yield served


@pytest.fixture(scope="module")
def closed_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A read-only server."""
    with serve_target(tmp_path_factory.mktemp("closed"), is_open=False) as served:
        yield served


@pytest.fixture(scope="module")
def login_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server behind a login."""
    with serve_target(tmp_path_factory.mktemp("login"), login=("ada", PASSWORD)) as served:
        yield served


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """A server that must not be called; the test fails at the end if it was."""
    found = Canary()
    yield found
    found.close()
    assert found.hits == []
