"""Gold boxes of a run's questions, for people to compare with. The page reads them from the data set itself.

A run's own files hold none: training never sees them, and what training writes cannot contain them.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from hart_studio.errors import HartError
from hart_studio.records import Box
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout

MAX_RUNS: Final = 4
"""Data sets that are kept in memory."""

MAX_BYTES: Final = 64 * 2**20
"""Largest file of samples that is read for this, project default: the process of the pages reads it."""


class GoldBoxLoader:
    """Reads a data set when it is first asked about, and remembers the boxes."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, tuple[Box, ...]]] = {}

    def find(self, layout: RunLayout, config: RunConfig, sample_id: str) -> tuple[Box, ...]:
        """The true boxes of a question; none when the data set has none, is too large, or cannot be read any more."""
        if config.data.source == "needle" and not config.data.path:
            # Reading a data set imports libraries, which takes seconds.
            from hart_studio.data.run_samples import get_needle_sample  # noqa: PLC0415

            # Settings that someone copied here may ask for a million scenes: only this one is made.
            sample = get_needle_sample(config.data, sample_id, layout.folder)
            return sample.gold_boxes if sample else ()
        key = config.data.model_dump_json()
        with self._lock:
            if key not in self._known:
                while len(self._known) >= MAX_RUNS:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = _load(layout, config)
            return self._known[key].get(sample_id, ())


def _load(layout: RunLayout, config: RunConfig) -> dict[str, tuple[Box, ...]]:
    # Reading a data set of the hub imports its library, which takes seconds.
    from hart_studio.data.run_samples import load_samples  # noqa: PLC0415

    if config.data.source == "hf":  # it might be fetched, which no one asked for
        return {}
    path = Path(config.data.path)
    files = [path, *path.glob("*.json*")] if path.is_dir() else [path]
    try:
        if any(file.is_file() and file.stat().st_size > MAX_BYTES for file in files):
            return {}
        source = load_samples(config.data, layout.folder / "images", makes_folder=False)
    except (HartError, OSError):
        return {}
    return {sample.id: sample.gold_boxes for sample in source.loaded.samples}
