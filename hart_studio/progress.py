"""Progress of a command on standard error: one updating line in a terminal, otherwise a plain line at intervals."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TextIO

from tqdm import tqdm

PLAIN_PERIOD_SECONDS: Final = 15.0
"""Minimum time between two plain lines about the same phase, to keep the log of a long run short. Project default."""
MAX_WARNINGS: Final = 20
"""Maximum number of warnings that a command prints; later ones are only counted. Project default."""
_MAX_WARNING_CHARS: Final = 1000
_UNCOUNTED: Final = "{desc} [{elapsed}]"
"""Format of the tqdm line during a phase without a count."""
_ROWS: Final = 24
_COLUMNS: Final = 100
"""Default size if the terminal does not report one, as in some containers."""


class ProgressReporter:
    """Context manager that reports the phase and the progress of a command.

    Attributes:
        warning_count: Warnings so far, printed or not.
    """

    def __init__(
        self,
        unit: str = "step",
        total: int = 0,
        shown: Sequence[str] = (),
        stream: TextIO | None = None,
        *,
        is_brief: bool = False,
    ) -> None:
        """Write nothing before the first phase or the first update.

        Args:
            unit: Name of the counted item, singular.
            total: Total count; 0 = unknown.
            shown: Names of the metrics to show after the count, in order.
            stream: Output stream; None = standard error.
            is_brief: For short commands: outside a terminal, nothing is written during the first period.
        """
        self.warning_count = 0
        self._stream = stream or sys.stderr
        self._unit = unit
        self._total = total
        self._shown = tuple(shown)
        self._done = self._first = 0
        self._began = time.monotonic()
        self._phase = self._figures = ""
        self._phases: set[str] = set()
        self._is_brief = is_brief
        self._written_at = self._began if is_brief else self._began - PLAIN_PERIOD_SECONDS
        self._last_line = ""
        self._bar: tqdm[Any] | None = None
        self._is_terminal = self._stream.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, done: int = 0, total: int | None = None) -> None:
        """Start counting, for example at the step that a run is resumed from. The rate is measured from here.

        Args:
            done: Items done before this command.
            total: See ``__init__``; None = unchanged.
        """
        self._total = self._total if total is None else total
        self._done = self._first = done
        self._began = time.monotonic()
        if self._is_terminal:
            bar = self._open_bar()
            bar.reset(total=self._total or None)
            bar.initial = bar.n = bar.last_print_n = done
            self._show()

    def set_total(self, total: int) -> None:
        """Set the total, for work that determines it while running."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total or None

    def set_phase(self, phase: str) -> None:
        """Show an activity other than the counted work.

        Args:
            phase: Such as ``loading the model``; details follow a comma. Empty = back to the counted work.
        """
        phase = printable(phase)
        kind = phase.partition(",")[0]
        is_new = bool(kind) and kind not in self._phases
        self._phases.add(kind)
        self._phase = phase
        self._show(is_new=is_new)

    def update(self, done: int, figures: Mapping[str, float | None] | None = None, label: str = "") -> None:
        """Update the count.

        Args:
            done: Items done in total, including those before this command.
            figures: Name -> value, None = not finite; metrics in ``shown`` are written.
            label: Prefix, such as the stage of a training run.
        """
        self._done = done
        self._phase = ""
        if figures is not None:
            parts = [f"{name} {_number(figures[name])}" for name in self._shown if name in figures]
            self._figures = printable(", ".join([label, *parts] if label else parts))
        self._show()

    def warn(self, message: str) -> None:
        """Print a warning above the progress, up to ``MAX_WARNINGS`` of them."""
        self.warning_count += 1
        if self.warning_count <= MAX_WARNINGS:
            self._write(f"warning: {shorten_to_line(message, _MAX_WARNING_CHARS)}")
        elif self.warning_count == MAX_WARNINGS + 1:
            self._write("further warnings are only counted")

    def close(self) -> None:
        """End the updating line; later output starts on a new line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, *, is_new: bool = False) -> None:
        if self._is_terminal:
            bar = self._open_bar()
            is_counted = bool(self._total or self._done)
            bar.bar_format = None if is_counted else _UNCOUNTED
            bar.leave = is_counted
            bar.set_description_str("" if is_counted else self._phase, refresh=False)
            bar.set_postfix_str((self._phase or self._figures) if is_counted else "", refresh=False)
            bar.update(self._done - bar.n)
            if is_new or self._phase:
                bar.refresh()
        elif (is_new and not self._is_brief) or time.monotonic() - self._written_at >= PLAIN_PERIOD_SECONDS:
            line = self._describe()
            if line and line != self._last_line:
                self._last_line = line
                self._written_at = time.monotonic()
                self._write(line)

    def _open_bar(self) -> tqdm[Any]:
        if self._bar is None:
            is_sized = _has_width(self._stream)
            self._bar = tqdm(
                total=self._total or None,
                initial=self._done,
                unit=self._unit,
                file=self._stream,
                dynamic_ncols=is_sized,
                ncols=None if is_sized else _COLUMNS,
                nrows=None if is_sized else _ROWS,
                bar_format=None if self._total or self._done else _UNCOUNTED,
            )
        return self._bar

    def _write(self, line: str) -> None:
        try:
            if self._is_terminal:
                tqdm.write(line, file=self._stream)
            else:
                self._stream.write(f"{line}\n")
                self._stream.flush()
        except OSError:  # a closed pipe or a full disk; the job itself continues
            pass

    def _describe(self) -> str:
        """Text of the plain line."""
        count = f"{self._unit} {self._done:,}" + (f" of {self._total:,}" if self._total else "")
        if self._phase:
            return f"{self._phase} ({count})" if self._done else self._phase
        if not self._done:
            return ""
        made = self._done - self._first
        seconds = (time.monotonic() - self._began) / made if made > 0 else 0.0
        if seconds:
            left = (self._total - self._done) * seconds
            count += f", {seconds:.3g} s each" + (f", about {format_duration(left)} left" if left > 0 else "")
        return f"{count}; {self._figures}" if self._figures else count


def format_duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """Remove control characters, which a terminal would interpret, from text of a model or a file."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def shorten_to_line(text: str, most: int = 200) -> str:
    """Untrusted text as one printable line of at most ``most`` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _has_width(stream: TextIO) -> bool:
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
