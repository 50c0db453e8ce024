"""Rate limit per address, with bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MAX_TRIES: Final = 10
"""Attempts per period. Project default."""
PERIOD_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 4096
"""Tracked addresses; the oldest are dropped first."""


class RateLimiter:
    """Counts attempts per address."""

    def __init__(
        self,
        tries: int = MAX_TRIES,
        seconds: float = PERIOD_SECONDS,
        addresses: int = MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty counter.

        Args:
            tries: Attempts per period.
            seconds: Length of the period.
            addresses: Tracked addresses.
            clock: Replaced in tests.
        """
        self._tries, self._seconds, self._addresses, self._clock = tries, seconds, addresses, clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, address: str) -> bool:
        """Count an attempt; returns False without counting if the address is over the limit."""
        now = self._clock()
        with self._lock:
            times = self._times.setdefault(address, deque())
            self._times.move_to_end(address)
            while len(self._times) > self._addresses:
                self._times.popitem(last=False)
            if not self._is_below_limit(times, now):
                return False
            times.append(now)
            return True

    def is_below_limit(self, address: str) -> bool:
        """Whether the address has an attempt left, without counting one."""
        with self._lock:
            return self._is_below_limit(self._times.get(address, deque()), self._clock())

    def _is_below_limit(self, times: deque[float], now: float) -> bool:
        while times and times[0] <= now - self._seconds:
            times.popleft()
        return len(times) < self._tries
