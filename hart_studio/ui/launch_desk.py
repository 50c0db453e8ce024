"""Starting, stopping and resuming runs for the pages: everything goes through the queue and the launcher."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import DataError, HartError, InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import Gpu, list_gpus
from hart_studio.runs.launcher import stop_run
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.overrides import to_arguments
from hart_studio.runs.queue import LaunchPlan, RunQueue, find_plan, plan_launch
from hart_studio.runs.reader import summarize_run
from hart_studio.runs.writer import create_run

TRAINING_MODULE: Final = "hart_studio.training"
"""What ``python -m`` starts to train."""

SETUPS: Final = {
    "ddp": "DDP: a whole model on every GPU",
    "fsdp": "FSDP: weights shared out",
    "deepspeed_zero2": "DeepSpeed ZeRO-2: optimizer shared out",
    "deepspeed_zero3": "DeepSpeed ZeRO-3: weights shared out",
}
"""How several GPUs share a model: the files of accelerate that come with the package -> what they do."""

OPEN_VARIABLE: Final = "HART_STUDIO_TRAINING"
"""Environment variable that opens training on a Space of one's own, when it is 1."""

CLOSED: Final = (
    f"training is switched off on a public page; duplicate the Space and set {OPEN_VARIABLE}=1 there, "
    "or run python app.py yourself"
)
"""Why nothing is started here."""

DOUBLE_CLICK_SECONDS: Final = 3.0
"""The same command twice within this time is one wish."""

_PROJECT: Final = Path(__file__).resolve().parents[2]
_SETUP_FOLDER: Final = _PROJECT / "hart_studio" / "training" / "accelerate_configs"
_PREFLIGHT_SECONDS: Final = 300.0


def may_train(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether visitors may start runs: on a Space they are anybody, and its disk forgets what they make."""
    return not environment.get("SPACE_ID") or environment.get(OPEN_VARIABLE) == "1"


@dataclass(frozen=True)
class Order:
    """A run that somebody wants.

    Attributes:
        config: Its settings.
        preset: Name of the preset that the command starts from.
        gpus: Processors by the driver's numbers; none = the CPU.
        setup: Key of ``SETUPS``, used with several processors.
    """

    config: RunConfig
    preset: str
    gpus: tuple[int, ...] = ()
    setup: str = "ddp"


class LaunchDesk:
    """Takes orders.

    Attributes:
        runs_root: Folder of all runs, absolute.
        queue: Starts what is ordered.
        is_open: Whether runs may be started here; a public demo says no.
    """

    def __init__(
        self, runs_root: Path, *, is_open: bool = True, find_gpus: Callable[[], list[Gpu]] = list_gpus
    ) -> None:
        """Open the queue, so that what waits from before goes on.

        Args:
            runs_root: May be missing.
            is_open: Whether runs may be started here.
            find_gpus: The seam for tests.
        """
        self.runs_root = runs_root.resolve()
        self.is_open = is_open
        self.queue = RunQueue(self.runs_root)
        self._find_gpus = find_gpus
        self._lock = threading.Lock()
        self._last: tuple[tuple[str, ...], float, str] | None = None
        if is_open:
            self.queue.open()

    def close(self) -> None:
        """Start nothing any more. Jobs go on, and what waits stays in the queue."""
        self.queue.close()

    def gpus(self) -> list[Gpu]:
        """The processors of this machine."""
        return self._find_gpus()

    def command(self, order: Order) -> list[str]:
        """The command that is run for an order, and that does the same in a terminal."""
        if order.setup not in SETUPS:
            raise InputError(f"expected one of {', '.join(SETUPS)}, got {order.setup!r}")
        arguments = [*to_arguments(order.config, order.preset), "--runs-root", str(self.runs_root)]
        return [*_program(order.gpus, order.setup), *arguments]

    def command_line(self, order: Order) -> str:
        """The command as a line to copy, with the processors that it sees."""
        seen = f"CUDA_VISIBLE_DEVICES={','.join(map(str, order.gpus))} " if order.gpus else ""
        return f"cd {shlex.quote(str(_PROJECT))} && {seen}{shlex.join(self.command(order))}"

    def check(self, order: Order) -> Iterator[dict[str, str]]:
        """Findings of ``--preflight``, one at a time as they come.

        Yields:
            ``topic``, ``state`` (good, check, bad), ``text`` and ``advice``.

        Raises:
            InputError: If the check itself cannot run.
        """
        argv = [*self.command(order), "--preflight", "--json"]
        environment = {**os.environ, **LaunchPlan(argv=tuple(argv), gpus=order.gpus).environment}
        count, last = 0, ""
        with subprocess.Popen(
            argv, cwd=_PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            alarm = threading.Timer(_PREFLIGHT_SECONDS, process.kill)
            alarm.start()
            try:
                for line in process.stdout or ():
                    finding = _read_finding(line)
                    if finding is not None:
                        count += 1
                        yield finding
                    elif line.strip():
                        last = line.strip()
            finally:
                alarm.cancel()
                process.kill()
        if not count:
            raise InputError(f"expected the check to run, it ended with {process.returncode}: {last[:300]}")

    def place(self, order: Order) -> str:
        """Put an order into the queue.

        Returns:
            The id of its run; that of the last one when the same order came a moment ago.

        Raises:
            InputError: If runs cannot be started here, or the folder of runs cannot be made.
        """
        self._check_open()
        argv = tuple(self.command(order))
        with self._lock:
            if self._last and self._last[0] == argv and time.monotonic() - self._last[1] < DOUBLE_CLICK_SECONDS:
                return self._last[2]
            config = order.config
            try:
                layout = create_run(self.runs_root, "training", config, config.method.chain, config.total_steps)
            except OSError as error:
                raise InputError(f"expected a folder of runs at {self.runs_root}, got {error.strerror}") from error
            plan_launch(layout, LaunchPlan(argv=argv, gpus=order.gpus))
            self._last = (argv, time.monotonic(), layout.run_id)
        return layout.run_id

    def stop(self, request: Mapping[str, Any]) -> None:
        """Ask a run to save and to end, and make it end when it does not; returns at once.

        Raises:
            InputError: If there is no such run.
        """
        self._check_open()
        layout = find_run(self.runs_root, str(request.get("run")))
        layout.stop.touch()
        threading.Thread(target=_stop_quietly, args=(layout,), name="stop", daemon=True).start()

    def resume(self, request: Mapping[str, Any]) -> None:
        """Put the next attempt of a run that ended early into the queue: it goes on from its newest checkpoint.

        Raises:
            InputError: If there is no such run, or it is completed or still runs.
        """
        self._check_open()
        layout = find_run(self.runs_root, str(request.get("run")))
        earlier = find_plan(layout)
        gpus = earlier.gpus if earlier else ()
        setup = next((name for name in SETUPS if earlier and f"{name}.yaml" in " ".join(earlier.argv)), "ddp")
        argv = [*_program(gpus, setup), "--resume", layout.run_id, "--runs-root", str(self.runs_root)]
        plan_launch(layout, LaunchPlan(argv=tuple(argv), gpus=gpus))

    def place_in_queue(self, run_id: str) -> int | None:
        """How many runs come before this one; None when it does not wait."""
        try:
            return self.queue.place_of(find_run(self.runs_root, run_id))
        except HartError:
            return None

    def _check_open(self) -> None:
        if not self.is_open:
            raise InputError(CLOSED)


def _program(gpus: tuple[int, ...], setup: str) -> list[str]:
    if len(gpus) < 2:
        return [sys.executable, "-m", TRAINING_MODULE]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(_SETUP_FOLDER / f"{setup}.yaml")]
    return [*start, "--num_processes", str(len(gpus)), "-m", TRAINING_MODULE]


def _read_finding(line: str) -> dict[str, str] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    keys = ("topic", "state", "text", "advice")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in keys):
        return None
    return {key: found[key] for key in keys}


def _stop_quietly(layout: RunLayout) -> None:
    """A run that cannot be stopped shows as running; there is nobody here to be told."""
    try:
        stop_run(layout)
    except (InputError, DataError, OSError):
        summarize_run(layout)
