"""Ids, display names and file layout of runs. The root folder of all runs is always passed in, never a module constant.

::

    <runs_root>/<run_id>/
      config.json  provenance.json  status.json  events.jsonl  launch.json  lock  stop  pause
      rollouts/step_000010.jsonl   rollouts/held_out_000020.jsonl   rollouts/images/
      checkpoints/step_000100/     logs/attempt_1.log
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError
from hart_studio.files import resolve_inside

_RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[a-z0-9_]+(?:-[a-z0-9_]+)*-[0-9a-f]{6}")
_STEP: Final = re.compile(r"(?:step|held_out)_(\d{6,9})(?:\.jsonl)?")

MAX_NAME_CHARS: Final = 60
"""Maximum number of characters of a name."""

_PUNCTUATION: Final = frozenset(" ._-")

_ALLOWED: Final = (
    f"up to {MAX_NAME_CHARS} letters, digits, spaces, dots, hyphens and underscores, a letter or digit first"
)


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run. Creates and reads nothing.

    Attributes:
        folder: Folder of the run, absolute.
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
        """Event log, append-only."""
        return self.folder / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Lock of the writing process."""
        return self.folder / "lock"

    @property
    def stop(self) -> Path:
        """Present = stop at the next step and save.

        It contains the signals that the stop request has sent to end the job without waiting for the step.
        """
        return self.folder / "stop"

    @property
    def pause(self) -> Path:
        """Present = a labeling run pauses, with its model in memory, until the file is removed."""
        return self.folder / "pause"

    @property
    def launch(self) -> Path:
        """Launch plan of the next attempt; missing for a run started from a terminal."""
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
        """Folder of the logs of all attempts."""
        return self.folder / "logs"

    def rollouts_of(self, step: int, *, is_held_out: bool = False) -> Path:
        """File with the rollouts of a step: training rollouts, or those of held-out questions."""
        return self.rollouts / f"{'held_out' if is_held_out else 'step'}_{step:06d}.jsonl"

    def checkpoint_of(self, step: int) -> Path:
        """The folder with the checkpoint of a step."""
        return self.checkpoints / f"step_{step:06d}"

    def log_of(self, attempt: int) -> Path:
        """Log file of an attempt."""
        return self.logs / f"attempt_{attempt:d}.log"

    def config_of(self, attempt: int) -> Path:
        """Copy of the settings at the start of an attempt."""
        return self.logs / f"attempt_{attempt:d}.config.json"


def make_run_id(method: str, now: datetime | None = None) -> str:
    """Create an id such as ``20260824-101500-ap_grpo-sft-3fa2c1``: ids sort by time and contain the method.

    Args:
        method: The stages, or the kind of job: lower-case letters, digits and underscores, joined by ``+``.
        now: The time; None = now.

    Raises:
        InputError: If the method contains other characters.
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
    """Find a run by id, which may come from a client.

    Raises:
        InputError: If the id is invalid, or there is no such run.
    """
    if not is_run_id(run_id):
        raise InputError(f"Invalid run id {run_id!r}: expected an id such as {make_run_id('ap_grpo')}")
    folder = resolve_inside(runs_root, run_id)
    if not folder.is_dir() or folder.name != run_id:  # links to other runs are refused
        raise InputError(f"There is no run {run_id!r} in {runs_root}. Refresh the list.")
    return RunLayout(folder)


def read_step(name: str) -> int | None:
    """The step in the name of a checkpoint or of a file of rollouts; None for other names."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def read_name(text: str) -> str:
    """Validate and normalize a name (Unicode NFC); empty = none.

    Raises:
        ValueError: If it contains other characters than letters, digits and a few signs; suggests a valid name.
    """
    name = unicodedata.normalize("NFC", text)
    if not name or (len(name) <= MAX_NAME_CHARS and _begins_well(name) and all(map(_is_allowed, name))):
        return name
    shown = text if len(text) <= MAX_NAME_CHARS + 20 else f"{text[:MAX_NAME_CHARS]}..."
    found = suggest_name(text)
    advice = f"for example {found!r}" if found else "choose another name, or leave it empty"
    raise ValueError(f"expected {_ALLOWED}, got {shown!r}; {advice}")


def suggest_name(text: str) -> str:
    """Suggest a similar valid name; empty if there is none."""
    plain = "".join(character if _is_allowed(character) else " " for character in unicodedata.normalize("NFKC", text))
    words = " ".join(plain.split())
    start = next((position for position in range(len(words)) if _begins_well(words[position:])), len(words))
    return words[start:][:MAX_NAME_CHARS].rstrip(" -_.")


def _begins_well(name: str) -> bool:
    return unicodedata.category(name[0])[0] in "LN"


def _is_allowed(character: str) -> bool:
    """Whether a character is a letter, a combining mark, a digit, or an allowed sign."""
    return character in _PUNCTUATION or unicodedata.category(character)[0] in "LMN"
