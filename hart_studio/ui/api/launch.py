"""Start, stop and resume training runs through the queue."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from hart_studio.errors import HartError, InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import Gpu, list_gpus
from hart_studio.runs.launcher import PACKAGE_PARENT, job_environment, stop_in_background, stop_run
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.overrides import to_arguments
from hart_studio.runs.queue import LaunchPlan, RunQueue, enqueue_launch, read_unverified_plan, write_plan
from hart_studio.runs.writer import create_run
from hart_studio.ui.api.runs import RunIdRequest, read_device
from hart_studio.ui.security.access import CLOSED
from hart_studio.ui.security.config_check import Origin, check_config, check_resumable, hash_new_config
from hart_studio.ui.security.model_allowlist import ModelAllowlist

TRAINING_MODULE: Final = "hart_studio.training"
"""Module that ``python -m`` runs for training."""

SETUPS: Final = {
    "ddp": "DDP: full model on each GPU",
    "fsdp": "FSDP: sharded weights",
    "deepspeed_zero2": "DeepSpeed ZeRO-2: sharded optimizer",
    "deepspeed_zero3": "DeepSpeed ZeRO-3: sharded weights",
}
"""Multi-GPU strategies: name of the accelerate config in the package -> title."""

DOUBLE_CLICK_SECONDS: Final = 3.0
"""The same command twice within this time starts one run."""

_SETUP_FOLDER: Final = PACKAGE_PARENT / "hart_studio" / "training" / "accelerate_configs"
_PREFLIGHT_SECONDS: Final = 300.0
_END_SECONDS: Final = 2.0


class StopRequest(RunIdRequest):
    """Request to stop a run."""

    now: bool = Field(default=False, strict=True)
    """Whether to stop without waiting."""


@dataclass(frozen=True)
class LaunchRequest:
    """A run to start.

    Attributes:
        config: Settings of the run.
        preset: Preset that the command line is based on.
        gpus: GPU indices of the driver; empty = CPU.
        setup: Key of ``SETUPS``, used with more than one GPU.
    """

    config: RunConfig
    preset: str
    gpus: tuple[int, ...] = ()
    setup: str = "ddp"


class RunLauncher:
    """Starts, stops and resumes training runs.

    Attributes:
        runs_root: Folder of all runs, absolute.
        queue: Starts the queued runs.
        is_open: Whether runs may be started here at all; ``Permissions`` decides who may.
        allowed: Base models that runs may use; by default any.
    """

    def __init__(
        self,
        runs_root: Path,
        *,
        is_open: bool = True,
        find_gpus: Callable[[], list[Gpu]] = list_gpus,
        allowed: ModelAllowlist | None = None,
    ) -> None:
        """Open the queue, which continues with runs that were waiting; ``find_gpus`` is replaced in tests."""
        self.runs_root = runs_root.resolve()
        self.is_open = is_open
        self.allowed = allowed or ModelAllowlist()
        self.queue = RunQueue(self.runs_root)
        self._find_gpus = find_gpus
        self._lock = threading.Lock()
        self._last: dict[type, tuple[object, float, str]] = {}
        self._has_gpus = False
        if is_open:
            self.queue.open()

    def close(self) -> None:
        """Stop starting runs. Running jobs continue, and waiting runs stay in the queue."""
        self.queue.close()

    def ensure_open(self) -> None:
        """Raise unless runs may be started here.

        Raises:
            InputError: If this is a public page.
        """
        if not self.is_open:
            raise InputError(CLOSED)

    def gpus(self) -> list[Gpu]:
        """GPUs of this machine with their current memory use."""
        found = self._find_gpus()
        self._has_gpus = bool(found)
        return found

    def command(self, launch_request: LaunchRequest) -> list[str]:
        """Command of a run, for the queue and for a terminal."""
        if launch_request.setup not in SETUPS:
            raise InputError(f"expected one of {', '.join(SETUPS)}, got {launch_request.setup!r}")
        arguments = [*to_arguments(launch_request.config, launch_request.preset), "--runs-root", str(self.runs_root)]
        return [*_program(launch_request.gpus, launch_request.setup), *arguments]

    def command_line(self, launch_request: LaunchRequest) -> str:
        """Shell command line of a run, with GPU selection and working folder."""
        return self.shell_line(self._plan(launch_request))

    def shell_line(self, plan: LaunchPlan) -> str:
        """Shell command line of a plan."""
        variables = plan.environment if plan.gpus or self._has_gpus else {}
        place = Path.cwd()
        if place != PACKAGE_PARENT:
            variables = {"PYTHONPATH": str(PACKAGE_PARENT), **variables}
        words = [*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(plan.argv)]
        return f"cd {shlex.quote(str(place))} && {' '.join(words)}"

    def check(self, launch_request: LaunchRequest) -> Iterator[dict[str, str]]:
        """Run ``--preflight`` and yield its findings; the last one is bad if the check ended early.

        Yields:
            ``topic``, ``state`` (good, check, bad), ``text`` and ``advice``.

        Raises:
            InputError: If runs cannot be started here, because a check reads the files that its settings name, or if
                the check cannot run.
        """
        self.ensure_open()
        check_config(launch_request.config, self.allowed)
        plan = self._plan(launch_request)
        states, last = set(), ""
        with subprocess.Popen(
            [*plan.argv, "--preflight", "--json"], env=job_environment(plan.environment), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            alarm = threading.Timer(_PREFLIGHT_SECONDS, _end_group, [process])
            alarm.start()
            try:
                for line in process.stdout or ():
                    finding = _read_finding(line)
                    if finding is not None:
                        states.add(finding["state"])
                        yield finding
                    elif line.strip():
                        last = line.strip()
                process.wait()
            finally:
                alarm.cancel()
                _end_group(process)
        if process.returncode == 0 or "bad" in states:
            return
        end = f"ended early with exit code {process.returncode}: {last[:300]}"
        if not states:
            raise InputError(f"Preflight check {end}")
        yield {
            "topic": "Check",
            "state": "bad",
            "text": f"Preflight check {end}",
            "advice": "Fix this error and run preflight again.",
        }

    def enqueue(self, launch_request: LaunchRequest) -> str:
        """Queue a run.

        Returns:
            The run id; that of the last run if the same request was sent a moment ago.

        Raises:
            InputError: If runs cannot be started here, the settings may not be used here (``check_config``), or the
                folder of runs cannot be made.
        """
        self.ensure_open()
        check_config(launch_request.config, self.allowed)
        plan, config = self._plan(launch_request), launch_request.config
        return self.create_once(
            plan,
            lambda: create_run(
                self.runs_root, "training", config, config.method.stages, config.total_steps,
                lambda layout: write_plan(layout, plan),
            ),
        )  # fmt: skip

    def create_once(self, wanted: object, create: Callable[[], RunLayout]) -> str:
        """Create a run, unless the same was wanted a moment ago.

        Args:
            wanted: What identifies a second click.
            create: Creates the run.

        Returns:
            The run id; that of the last run for a second click.

        Raises:
            InputError: If the folder of runs cannot be written.
        """
        with self._lock:
            last, at, run_id = self._last.get(type(wanted), (None, 0.0, ""))
            if last == wanted and time.monotonic() - at < DOUBLE_CLICK_SECONDS:
                return run_id
            try:
                run_id = create().run_id
            except OSError as error:
                raise InputError(
                    f"Cannot create a run in {self.runs_root}: {error.strerror}. Check --runs-root."
                ) from error
            self._last[type(wanted)] = (wanted, time.monotonic(), run_id)
            return run_id

    def stop(self, request: StopRequest) -> None:
        """Request a run to save and stop, and kill it if it does not; returns at once.

        Raises:
            InputError: If there is no such run.
        """
        self.ensure_open()
        stop_in_background(find_run(self.runs_root, request.run), now=request.now)

    def resume(self, request: RunIdRequest) -> None:
        """Queue the next attempt of a run that ended early; it continues from the newest checkpoint.

        Raises:
            InputError: If there is no such run, it is completed or running, it was started in a terminal on GPUs, or
                its config may not be used here (``check_resumable``).
        """
        self.ensure_open()
        layout = find_run(self.runs_root, request.run)
        sha256 = check_resumable(layout, RunConfig, self.allowed, self.origin(layout, TRAINING_MODULE))
        earlier = read_unverified_plan(layout)
        device = read_device(layout)
        if earlier is None and "cuda" in device:
            again = shlex.join(["--resume", layout.run_id, "--runs-root", str(self.runs_root)])
            raise InputError(
                f"This run was started in a terminal on {device}, so this page cannot choose its GPUs. Resume it in a "
                f"terminal with the same command and {again}"
            )
        gpus = earlier.gpus if earlier else ()
        setup = next((name for name in SETUPS if earlier and f"{name}.yaml" in " ".join(earlier.argv)), "ddp")
        argv = [*_program(gpus, setup), "--resume", layout.run_id, "--runs-root", str(self.runs_root)]
        enqueue_launch(layout, LaunchPlan(argv=tuple(argv), gpus=gpus, config_sha256=sha256))

    def queue_position(self, run_id: str) -> int | None:
        """Number of runs before this one; None if it is not waiting."""
        try:
            return self.queue.position_of(find_run(self.runs_root, run_id))
        except HartError:
            return None

    def origin(self, layout: RunLayout, module: str) -> Origin:
        """Location of a run, and the command that resumes it in a terminal.

        Args:
            layout: The run.
            module: Module that ``python -m`` runs.
        """
        argv = ("python", "-m", module, "--resume", layout.run_id, "--runs-root", str(self.runs_root))
        return Origin(self.runs_root, (self.runs_root,), self.runs_root, argv)

    def _plan(self, launch_request: LaunchRequest) -> LaunchPlan:
        return LaunchPlan(
            argv=tuple(self.command(launch_request)),
            gpus=launch_request.gpus,
            config_sha256=hash_new_config(launch_request.config),
        )


def stop_immediately(layout: RunLayout) -> None:
    """Kill a run without waiting; a run that cannot be killed keeps the state running."""
    with suppress(HartError, OSError):
        stop_run(layout, save_seconds=0.0, end_seconds=_END_SECONDS)


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


def _end_group(process: subprocess.Popen[str]) -> None:
    """Kill a check and its child processes."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
