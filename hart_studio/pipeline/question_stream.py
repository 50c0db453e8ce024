"""Questions to a served model, many at a time: each goes through its turns on its own, without waiting for others.

A batch sends all grounding turns, waits for the slowest, and then sends all answer turns. Here a thread runs one
question from the image to the score, so the requests in flight stay at the limit of the server. Results come in the
order of the questions, whatever their order of completion.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import islice
from typing import Final, Protocol, TypeVar, runtime_checkable

Question = TypeVar("Question")
Result = TypeVar("Result")

WINDOW_FACTOR: Final = 4
"""Questions that are started or finished before the oldest one is done, per thread: a slow one delays no others, and
a killed job loses at most so many results. Project default."""

_POLL_SECONDS: Final = 0.1


@runtime_checkable
class ConcurrentModel(Protocol):
    """A model whose ``generate`` may be called by many threads, such as ``ServedChatModel``."""

    @property
    def concurrency(self) -> int:
        """Maximum number of concurrent requests."""
        ...

    def close(self) -> None:
        """Cancel all requests."""
        ...


def stream_width(model: ConcurrentModel, requests_per_turn: int = 1) -> int:
    """Number of concurrent questions that keeps the requests in flight at the limit of the server.

    Args:
        model: The model.
        requests_per_turn: Concurrent requests of one question.

    Returns:
        Enough questions for all requests, and one per CPU core whose images are being decoded meanwhile.
    """
    return -(-model.concurrency // max(1, requests_per_turn)) + (os.cpu_count() or 1)


def stream_questions(
    run: Callable[[Question], Result],
    questions: Iterable[Question],
    width: int,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Question, Result]]:
    """Run a function on each question in threads; yields results in the order of the questions.

    ``questions`` is read only as far as questions are started. Ends early if ``is_stopped`` returns True or the
    iterator is closed: then questions that have not been started are not run, and results of running ones are dropped.
    The caller ends their requests (``ConcurrentModel.close``).

    Args:
        run: Runs one question. It should return failures as results: an exception ends the stream.
        questions: The questions, in order.
        width: Maximum number of concurrent questions.
        is_stopped: Asked several times a second.

    Raises:
        Exception: The first exception of ``run``, in the order of the questions.
    """
    waiting = iter(questions)
    window: deque[tuple[Question, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(width, thread_name_prefix="question")
    try:
        while not is_stopped():
            for question in islice(waiting, width * WINDOW_FACTOR - len(window)):
                window.append((question, pool.submit(run, question)))
            if not window:
                return
            question, future = window[0]
            try:
                result = future.result(timeout=_POLL_SECONDS)
            except FutureTimeoutError:
                if future.done():
                    raise  # a timeout inside of the question
                continue
            window.popleft()
            yield question, result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
