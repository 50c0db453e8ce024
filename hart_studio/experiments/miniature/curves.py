"""Learning curves: the line of a method, its mean over seeds, with a band from the least to the greatest seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hart_studio.evaluation.charts import Series


def join_seeds(name: str, seeds: Sequence[Mapping[int, float]], window: int = 1) -> Series:
    """The line of a method from the figures of its seeds.

    Args:
        name: In the legend.
        seeds: Step -> value, for each seed. Only steps that all of them have are drawn.
        window: Steps whose mean is drawn at their middle; fewer at the ends. 1 = no smoothing.
    """
    if not seeds:
        return Series(name, ())
    steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
    half = window // 2
    points = []
    for index, step in enumerate(steps):
        near = steps[max(0, index - half) : index + half + 1]
        values = [math.fsum(seed[other] for other in near) / len(near) for seed in seeds]
        points.append((step, math.fsum(values) / len(values), min(values), max(values)))
    return Series(name, points)
