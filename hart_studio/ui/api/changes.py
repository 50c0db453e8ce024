"""What has changed: responses of polls, and values that are cached until their files change."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

_Value = TypeVar("_Value")


def delta(state: Mapping[str, Any], signature: str) -> dict[str, Any] | None:
    """The state with its ``signature``; None if that is the signature of the last response."""
    text = json.dumps(state, sort_keys=True, default=str)
    now = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
    return None if now == signature else {**state, "signature": now}


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Identity, size and time of a file; None if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class _Entry(Generic[_Value]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: tuple[object, _Value] | None = None


class StampedCache(Generic[_Value]):
    """LRU cache of values made from files; a value is made again when the stamp of its files has changed."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._entries: OrderedDict[object, _Entry[_Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: object, find_stamp: Callable[[], object], make: Callable[[], _Value]) -> _Value:
        """Return the cached value, or make it; calls with the same key wait for each other.

        Args:
            key: Identifies the value.
            find_stamp: Stamp of the files now, such as ``file_stamp``; None = do not cache.
            make: Makes the value. Its exceptions are passed on and not cached, and neither is a value whose files
                change meanwhile.
        """
        if find_stamp() is None:
            return make()
        entry = self._find(key)
        with entry.lock:
            stamp = find_stamp()
            if entry.known is not None and entry.known[0] == stamp:
                return entry.known[1]
            value = make()
            if stamp is not None and find_stamp() == stamp:
                entry.known = (stamp, value)
            return value

    def newest(self, key: object) -> tuple[object, _Value] | None:
        """(stamp, value) cached last, whether its files have changed or not; None without one."""
        entry = self._entries.get(key)
        return entry.known if entry else None

    def keep(self, key: object, stamp: object, value: _Value) -> None:
        """Cache a value that was made elsewhere."""
        self._find(key).known = (stamp, value)

    def _find(self, key: object) -> _Entry[_Value]:
        """The entry of a key, made the most recently used one."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
            return entry
