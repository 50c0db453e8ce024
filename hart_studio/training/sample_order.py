"""Sample order and sampling seeds from hashes, independent of the number of processes and attempts."""

from __future__ import annotations

import hashlib


def order_samples(count: int, wanted: int, seed: int, first_step: int) -> list[int]:
    """Indices of samples in epochs, each in another order.

    Args:
        count: Number of samples, at least 1.
        wanted: Number of indices to return.
        seed: Seed of the run.
        first_step: First step of the stage, so that two stages with the same samples differ.
    """
    passes = -(-wanted // count)
    order = [
        index
        for number in range(passes)
        for _, index in sorted((_digest(seed, "order", first_step, number, index), index) for index in range(count))
    ]
    return order[:wanted]


def step_seed(seed: int, step: int, process: int) -> int:
    """Seed in [0, 2**32) for sampling of one process in one step."""
    return int.from_bytes(_digest(seed, "rollouts", step, process)[:4], "big")


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()
