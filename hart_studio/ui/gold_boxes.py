"""True boxes of a run's questions, for people to compare with. The page reads them from the data set itself.

A run's own files hold none: training never sees them, and what training writes cannot contain them.
"""

from __future__ import annotations

import threading
from typing import Final

from hart_studio.errors import HartError
from hart_studio.records import Box
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout

MOST_RUNS: Final = 4
"""Data sets that are kept in memory."""


class GoldBoxes:
    """Reads a data set when it is first asked about, and remembers the boxes."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, tuple[Box, ...]]] = {}

    def find(self, layout: RunLayout, config: RunConfig, sample_id: str) -> tuple[Box, ...]:
        """The true boxes of a question; none when the data set has none, or cannot be read any more."""
        key = config.data.model_dump_json()
        with self._lock:
            if key not in self._known:
                while len(self._known) >= MOST_RUNS:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = _load(layout, config)
            return self._known[key].get(sample_id, ())


def _load(layout: RunLayout, config: RunConfig) -> dict[str, tuple[Box, ...]]:
    # Reading a data set of the hub imports its library, which takes seconds.
    from hart_studio.data.run_samples import load_samples  # noqa: PLC0415

    if config.data.source == "hf":  # it might be fetched, which nobody asked for
        return {}
    try:
        source = load_samples(config.data, layout.folder / "pictures", makes_folder=False)
    except HartError:
        return {}
    return {sample.id: sample.gold_boxes for sample in source.loaded.samples}
