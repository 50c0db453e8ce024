import threading

import pytest

from hart_studio.ui.pages.display import Running
from hart_studio.ui.progress_stream import follow


def run(work):
    steps, seen = follow(work), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as done:
            return seen, done.value


def test_reports_arrive_in_order_and_the_result_last():
    def work(progress):
        progress(0.25, "locating")
        progress(0.5, "answering")
        return "five"

    assert run(work) == ([Running(0.25, "locating"), Running(0.5, "answering")], "five")


def test_a_share_outside_zero_to_one_is_clamped():
    seen, _ = run(lambda progress: (progress(-1.0, "a"), progress(7.0, "b")))
    assert [report.fraction for report in seen] == [0.0, 1.0]


def test_an_error_reaches_the_reader_after_the_reports():
    def work(progress):
        progress(0.1, "locating")
        raise ValueError("broken")

    steps = follow(work)
    assert next(steps).stage == "locating"
    with pytest.raises(ValueError, match="broken"):
        next(steps)


def test_work_goes_on_when_the_reader_leaves():
    left, finished = threading.Event(), threading.Event()

    def work(progress):
        progress(0.1, "locating")
        left.wait(30)
        finished.set()

    steps = follow(work)
    next(steps)
    steps.close()
    left.set()
    assert finished.wait(30)
