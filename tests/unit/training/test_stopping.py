import os
import signal
import threading

import pytest

from hart_studio.training.stopping import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_one_acts(number: signal.Signals) -> None:
    reached: list[int] = []
    before = signal.signal(number, lambda received, frame: reached.append(received))
    messages: list[str] = []
    try:
        with StopSignals(messages.append) as signals:
            assert signals.received is None
            os.kill(os.getpid(), number)
            assert (signals.received, reached) == (number, [])
            assert messages == [f"{number.name}: stopping after this step and saving; send it again to end at once"]
            os.kill(os.getpid(), number)
            assert reached == [number]
        os.kill(os.getpid(), number)
        assert reached == [number, number], "handlers are not given back"
    finally:
        signal.signal(number, before)


def test_handlers_are_given_back_when_no_signal_came() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(lambda _: None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_leaves_signals_alone() -> None:
    problems: list[BaseException] = []

    def enter() -> None:
        try:
            with StopSignals(lambda _: None) as signals:
                assert signals.received is None
        except BaseException as error:  # a thread would swallow it
            problems.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert problems == []
