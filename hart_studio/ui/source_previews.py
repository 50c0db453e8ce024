"""Cache of source previews: an unchanged zip is read once, however often its preview is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

MAX_PREVIEWS: Final = 16
"""Previews that are kept, each some KB; the one that was not used for longest goes first. Project default."""


class SourcePreviews:
    """Keeps the newest previews; one is made at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, dict[str, Any]] = OrderedDict()

    def get(self, source: object, column: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the preview of a source, from memory if it is a zip that has not changed.

        Only a zip is kept: the preview of a table depends on the images beside it, too.

        Args:
            source: What the page sent; only ``make`` decides whether it may be read.
            column: Column of the images that a person has chosen.
            make: Checks and reads the source. What it raises is raised, and nothing is kept.
        """
        with self._lock:
            key = _find_key(source, column)
            if key is None or key not in self._kept:
                found = make()
                if key is None or key != _find_key(source, column):
                    return found
                self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_PREVIEWS:
                self._kept.popitem(last=False)
            return self._kept[key]


def _find_key(source: object, column: str) -> tuple[object, ...] | None:
    """Path, identity, size, and time of a zip, and the column; None for any other source."""
    if not isinstance(source, str) or not source.strip().lower().endswith(".zip"):
        return None
    try:
        status = Path(source.strip()).stat()
    except (OSError, ValueError):
        return None
    return (source.strip(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, column)
