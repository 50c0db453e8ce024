from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from hart_studio.pipeline.question_stream import WINDOW_FACTOR, stream_questions, stream_width


def test_results_come_in_the_order_of_the_questions() -> None:
    def run(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number * number

    assert list(stream_questions(run, range(40), 8)) == [(number, number * number) for number in range(40)]
    assert list(stream_questions(run, [], 8)) == []


def test_a_slow_question_delays_no_other_within_the_window() -> None:
    is_last_started = threading.Event()

    def run(number: int) -> bool:
        if number == 0:  # waits for one that is behind it
            return is_last_started.wait(timeout=20)
        if number == 11:
            is_last_started.set()
        return True

    assert [found for _, found in stream_questions(run, range(12), 3)] == [True] * 12


def test_questions_are_read_as_they_are_needed() -> None:
    read = 0

    def questions() -> Iterator[int]:
        nonlocal read
        while read < 1000:
            read += 1
            yield read

    stream = stream_questions(lambda number: number, questions(), 2)
    assert next(stream) == (1, 1)
    assert read <= 2 * WINDOW_FACTOR
    stream.close()
    assert read <= 2 * WINDOW_FACTOR


def test_stop_ends_the_stream_while_a_question_runs() -> None:
    is_stopped, is_released, ran = threading.Event(), threading.Event(), []

    def run(number: int) -> int:
        ran.append(number)
        if number == 1:
            is_stopped.set()
            is_released.wait(timeout=20)
        return number

    began = time.monotonic()
    found = list(stream_questions(run, range(100), 1, is_stopped.is_set))
    is_released.set()
    assert time.monotonic() - began < 10
    assert found in ([], [(0, 0)])
    time.sleep(0.05)
    assert ran == [0, 1]


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("inside")])
def test_an_exception_ends_the_stream_in_order(error: Exception) -> None:
    def run(number: int) -> int:
        if number == 2:
            raise error
        return number

    stream = stream_questions(run, range(5), 2)
    assert [next(stream), next(stream)] == [(0, 0), (1, 1)]
    with pytest.raises(type(error)):
        next(stream)


def test_enough_questions_for_all_requests() -> None:
    class Model:
        concurrency = 64

        def close(self) -> None:
            """Nothing to end."""

    assert stream_width(Model()) > 64
    assert 8 < stream_width(Model(), 8) < stream_width(Model())
