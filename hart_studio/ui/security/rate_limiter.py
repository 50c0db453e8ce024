"""Slows down guessing: so many tries in so much time for each address, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MAX_TRIES: Final = 10
"""Tries within the period; project default: a person mistypes a few times."""
PERIOD_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 4096
"""Addresses that are remembered; the oldest are forgotten first."""


class RateLimiter:
    """Counts tries by address."""

    def __init__(
        self,
        tries: int = MAX_TRIES,
        seconds: float = PERIOD_SECONDS,
        addresses: int = MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is counted yet.

        Args:
            tries: Tries within the period.
            seconds: The period.
            addresses: Addresses that are remembered.
            clock: The seam for tests.
        """
        self._tries, self._seconds, self._addresses, self._clock = tries, seconds, addresses, clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, address: str) -> bool:
        """Count a try, unless the address has used up its own; says whether it may continue."""
        now = self._clock()
        with self._lock:
            times = self._times.setdefault(address, deque())
            self._times.move_to_end(address)
            while len(self._times) > self._addresses:
                self._times.popitem(last=False)
            if not self._has_room(times, now):
                return False
            times.append(now)
            return True

    def has_room(self, address: str) -> bool:
        """Whether the address has a try left; nothing is counted."""
        with self._lock:
            return self._has_room(self._times.get(address, deque()), self._clock())

    def _has_room(self, times: deque[float], now: float) -> bool:
        while times and times[0] <= now - self._seconds:
            times.popleft()
        return len(times) < self._tries
