"""Where everything of a run lies. The root of all runs is always passed in, never a constant of a module.

::

    <runs_root>/<run_id>/
      config.json  provenance.json  status.json  events.jsonl  launch.json  lock  stop  pause
      rollouts/step_000010.jsonl   rollouts/held_out_000020.jsonl   rollouts/images/
      checkpoints/step_000100/     logs/attempt_1.log
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError
from hart_studio.files import resolve_inside

_RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[a-z0-9_]+(?:-[a-z0-9_]+)*-[0-9a-f]{6}")
_STEP: Final = re.compile(r"(?:step|held_out)_(\d{6,9})(?:\.jsonl)?")


@dataclass(frozen=True)
class RunLayout:
    """The paths of one run. Nothing is made or read here.

    Attributes:
        folder: The run's folder, absolute.
    """

    folder: Path

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def config(self) -> Path:
        """The resolved settings, written once."""
        return self.folder / "config.json"

    @property
    def provenance(self) -> Path:
        """Versions, command and device of the newest attempt."""
        return self.folder / "provenance.json"

    @property
    def status(self) -> Path:
        """The state, replaced atomically."""
        return self.folder / "status.json"

    @property
    def events(self) -> Path:
        """What happened, append-only."""
        return self.folder / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the process that may write."""
        return self.folder / "lock"

    @property
    def stop(self) -> Path:
        """Present = stop at the next step, then save; names the signals that were sent when that was not waited for."""
        return self.folder / "stop"

    @property
    def pause(self) -> Path:
        """Present = a labeling run waits, with its model in memory, until it goes."""
        return self.folder / "pause"

    @property
    def launch(self) -> Path:
        """How its next attempt is started from a page; missing for a run from a terminal."""
        return self.folder / "launch.json"

    @property
    def rollouts(self) -> Path:
        """Folder of the recorded rollouts."""
        return self.folder / "rollouts"

    @property
    def images(self) -> Path:
        """Folder of their images."""
        return self.rollouts / "images"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def logs(self) -> Path:
        """Folder of what the attempts printed."""
        return self.folder / "logs"

    def rollouts_of(self, step: int, *, is_held_out: bool = False) -> Path:
        """The file with the rollouts of a step: those that were trained on, or those of held-out questions."""
        return self.rollouts / f"{'held_out' if is_held_out else 'step'}_{step:06d}.jsonl"

    def checkpoint_of(self, step: int) -> Path:
        """The folder with the checkpoint of a step."""
        return self.checkpoints / f"step_{step:06d}"

    def log_of(self, attempt: int) -> Path:
        """The file with everything that an attempt printed."""
        return self.logs / f"attempt_{attempt:d}.log"

    def config_of(self, attempt: int) -> Path:
        """Copy of the settings that an attempt began with."""
        return self.logs / f"attempt_{attempt:d}.config.json"


def make_run_id(method: str, now: datetime | None = None) -> str:
    """A new id such as ``20260824-101500-ap_grpo-sft-3fa2c1``: ids sort by time, and name what was run.

    Args:
        method: The chain of stages, or the kind of job: lower-case letters, digits and underscores, joined by ``+``.
        now: The time; None = now.

    Raises:
        InputError: If the method holds anything else.
    """
    time = (now or datetime.now(UTC)).astimezone(UTC)
    run_id = f"{time:%Y%m%d-%H%M%S}-{method.replace('+', '-')}-{secrets.token_hex(3)}"
    if not _RUN_ID.fullmatch(run_id):
        raise InputError(f"expected a method of lower-case letters, digits, _ and +, got {method!r}")
    return run_id


def is_run_id(name: str) -> bool:
    """Whether a name has the form of an id."""
    return _RUN_ID.fullmatch(name) is not None


def find_run(runs_root: Path, run_id: str) -> RunLayout:
    """The run of that id, which may come from a client.

    Raises:
        InputError: If it is no id, or there is no such folder below the root.
    """
    if not is_run_id(run_id):
        raise InputError(f"expected the id of a run such as {make_run_id('ap_grpo')}, got {run_id!r}")
    folder = resolve_inside(runs_root, run_id)
    if not folder.is_dir() or folder.name != run_id:  # a link to another run is none
        raise InputError(f"expected a run in {runs_root}, got {run_id!r}, which is not there; refresh the list")
    return RunLayout(folder)


def read_step(name: str) -> int | None:
    """The step in the name of a checkpoint or of a file of rollouts; None when it is neither."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None
