"""Responses of polls, and values cached until their files change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.ui.api.changes import StampedCache, delta, file_stamp


def test_a_state_is_sent_once() -> None:
    state = {"runs": [{"loss": float("nan"), "path": Path("x"), "text": "\ud800"}], "n": 1}
    first = delta(state, "")
    assert first is not None and {**state, "signature": first["signature"]} == first
    assert delta({"n": 1, "runs": state["runs"]}, first["signature"]) is None, "whatever the order of its keys"
    assert delta({**state, "n": 2}, first["signature"]) is not None


@pytest.fixture
def make() -> Callable[[], int]:
    """Counts its calls."""
    made: list[int] = []

    def count() -> int:
        made.append(len(made))
        return made[-1]

    return count


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(tmp_path: Path, make: Callable[[], int]) -> None:
    cache: StampedCache[int] = StampedCache(4)
    file = tmp_path / "a.zip"
    file.write_bytes(b"PK")

    def get(key: object) -> int:
        return cache.get(key, lambda: file_stamp(file), make)

    assert [get("a") for _ in range(3)] == [0, 0, 0]
    assert get("b") == 1, "another key"
    os.utime(file, ns=(1, 1))
    assert get("a") == 2
    assert cache.newest("a") == (file_stamp(file), 2)
    file.unlink()
    assert [get("a"), get("a")] == [3, 4], "nothing is cached without a file"


@pytest.mark.parametrize("name", ["gone.zip", "a\0.zip", "x" * 300])
def test_a_file_that_is_not_there_has_no_stamp(tmp_path: Path, name: str) -> None:
    assert file_stamp(tmp_path / name) is None


def test_a_refusal_is_not_cached(make: Callable[[], int]) -> None:
    def refuse() -> int:
        raise InputError("not yours")

    cache: StampedCache[int] = StampedCache(4)
    for _ in range(2):
        with pytest.raises(InputError):
            cache.get("a", lambda: 1, refuse)
    assert cache.get("a", lambda: 1, make) == 0


def test_what_changes_while_it_is_read_is_read_again(make: Callable[[], int]) -> None:
    stamps = iter([1, 1, 2, 2, 2, 2])
    cache: StampedCache[int] = StampedCache(4)
    assert [cache.get("a", lambda: next(stamps), make) for _ in range(2)] == [0, 1]


def test_the_least_recently_used_one_is_evicted(make: Callable[[], int]) -> None:
    cache: StampedCache[int] = StampedCache(2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda: 1, make)
    cache.keep("d", 1, 9)
    assert len(cache) == 2 and cache.newest("c") == (1, 2) and cache.newest("d") == (1, 9)
    assert cache.newest("a") is None and cache.newest("b") is None


def test_calls_with_one_key_wait_and_those_with_another_do_not(make: Callable[[], int]) -> None:
    cache: StampedCache[int] = StampedCache(4)
    is_making, go_on = threading.Event(), threading.Event()

    def wait() -> int:
        is_making.set()
        assert go_on.wait(20)
        return make()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, "a", lambda: 1, wait)
        assert is_making.wait(20)
        same = threads.submit(cache.get, "a", lambda: 1, make)
        assert cache.get("b", lambda: 1, make) == 0
        assert not same.done()
        go_on.set()
        assert first.result(20) == same.result(20) == 1
