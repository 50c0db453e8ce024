"""The order of samples and the seeds of sampling, from hashes: the same for every number of processes and attempts."""

from __future__ import annotations

import hashlib


def order_samples(count: int, wanted: int, seed: int, first_step: int) -> list[int]:
    """Indices of samples: pass after pass over all of them, each pass in another order.

    Args:
        count: Samples there are, at least 1.
        wanted: Indices to give.
        seed: Seed of the run.
        first_step: Where the stage begins, so that two stages over the same samples differ.
    """
    passes = -(-wanted // count)
    order = [
        index
        for number in range(passes)
        for _, index in sorted((_digest(seed, "order", first_step, number, index), index) for index in range(count))
    ]
    return order[:wanted]


def step_seed(seed: int, step: int, process: int) -> int:
    """Seed in [0, 2**32) of what one process samples in one step."""
    return int.from_bytes(_digest(seed, "rollouts", step, process)[:4], "big")


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()
