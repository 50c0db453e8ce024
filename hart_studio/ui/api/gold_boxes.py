"""Load gold boxes of the questions of a run from the dataset, for display.

The files of a run contain no gold boxes, because training never gets them.
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
"""Datasets kept in memory."""

MAX_BYTES: Final = 64 * 2**20
"""Largest dataset file that the server reads for this. Project default."""


class GoldBoxLoader:
    """Loads datasets on demand and caches their gold boxes."""

    def __init__(self) -> None:
        """Create an empty cache."""
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, tuple[Box, ...]]] = {}

    def find(self, layout: RunLayout, config: RunConfig, sample_id: str) -> tuple[Box, ...]:
        """Gold boxes of a question; empty if the dataset has none, is too large, or cannot be read."""
        if config.data.source == "needle" and not config.data.path:
            # Imports libraries, which takes seconds.
            from hart_studio.data.run_samples import get_needle_sample  # noqa: PLC0415

            # The config may ask for a million scenes: generate only this one.
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
    # Imports libraries, which takes seconds.
    from hart_studio.data.run_samples import load_samples  # noqa: PLC0415

    if config.data.source == "hf":  # avoid a download
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
