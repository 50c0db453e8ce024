from __future__ import annotations

import io

import pytest

from hart_studio import progress as module
from hart_studio.progress import MAX_WARNINGS, PLAIN_PERIOD_SECONDS, ProgressReporter, format_duration, printable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_gets_a_line_per_kind_of_phase_and_one_per_period(clock: Clock) -> None:
    log = io.StringIO()
    with ProgressReporter("step", 6000, ("loss", "reward"), log) as progress:
        progress.set_phase("loading the model")
        progress.begin(0, 6000)
        for done in range(0, 160, 16):
            progress.set_phase(f"evaluating held-out questions, {done} of 160")
        for step in range(1, 6001):
            clock.now += 1
            progress.update(step, {"loss": 0.5, "reward": None, "kl": 3.0}, "ap_grpo")
            if step % 10 == 0:
                progress.set_phase("saving a checkpoint")
                progress.set_phase("")
    lines = log.getvalue().splitlines()
    assert lines[:2] == ["loading the model", "evaluating held-out questions, 0 of 160"]
    assert sum(line.startswith("saving a checkpoint") for line in lines) <= len(lines) / 2
    assert "step 25 of 6,000, 1 s each, about 1.7 h left; ap_grpo, loss 0.5, reward not finite" in lines
    assert len(lines) <= 6000 / PLAIN_PERIOD_SECONDS + 4, "a long run leaves a short log"


def test_the_rate_is_that_of_this_command(clock: Clock) -> None:
    log = io.StringIO()
    progress = ProgressReporter("question", stream=log)
    progress.begin(100, 200)
    clock.now += 20
    progress.update(110, {})
    assert log.getvalue() == "question 110 of 200, 2 s each, about 3 min left\n"


def test_a_terminal_gets_one_line_that_is_updated() -> None:
    terminal = Terminal()
    with ProgressReporter("step", 4, ("loss",), terminal) as progress:
        progress.set_phase("loading the model")
        progress.begin(1, 4)
        progress.set_phase("evaluating held-out questions, 16 of 40")
        for step in (2, 3, 4):
            progress.update(step, {"loss": 0.25})
        progress.warn("one bad\nsample")
    output = terminal.getvalue()
    assert "loading the model" in output and "evaluating held-out questions, 16 of 40" in output
    assert "4/4" in output and "loss 0.25" in output
    assert "warning: one bad sample\n" in output and output.endswith("\n")


def test_warnings_are_printed_up_to_a_number_and_all_counted() -> None:
    log = io.StringIO()
    progress = ProgressReporter(stream=log)
    for number in range(MAX_WARNINGS + 50):
        progress.warn(f"sample {number}: \x1b[31mno box")
    lines = log.getvalue().splitlines()
    assert progress.warning_count == MAX_WARNINGS + 50
    assert lines[0] == "warning: sample 0: [31mno box"
    assert len(lines) == MAX_WARNINGS + 1 and "only counted" in lines[-1]


def test_a_log_that_cannot_be_written_ends_no_job(clock: Clock) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    progress = ProgressReporter(stream=Full())
    progress.set_phase("loading the model")
    progress.warn("x")
    assert progress.warning_count == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_control_characters_become_blanks() -> None:
    assert printable("a\x1b]0;x\x07b\n") == "a ]0;x b "
