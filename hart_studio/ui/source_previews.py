"""Cache of source previews: an unchanged zip is read once, however often its preview is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

MAX_PREVIEWS: Final = 16
"""Maximum number of cached previews, some KB each; the least recently used is evicted. Project default."""


class SourcePreviews:
    """LRU cache of previews; creates one preview at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, dict[str, Any]] = OrderedDict()

    def get(self, source: object, column: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the preview of a source, from memory if it is a zip that has not changed.

        Only a zip is kept: the preview of a table depends on the images beside it, too.

        Args:
            source: Untrusted value from the page; ``make`` checks it.
            column: Selected column of images.
            make: Checks and reads the source; its exceptions are passed on and not cached.
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
