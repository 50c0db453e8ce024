"""Learning curves: mean over seeds, with a band from the minimum to the maximum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hart_studio.evaluation.charts import Series


def join_seeds(name: str, seeds: Sequence[Mapping[int, float]], window: int = 1) -> Series:
    """Learning curve of a method from the values of its seeds.

    Args:
        name: Name in the legend.
        seeds: Step -> value, for each seed. Only steps of all seeds are drawn.
        window: Width of the moving average in steps; smaller at the ends. 1 = no smoothing.
    """
    if not seeds:
        return Series(name, ())
    steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
    half = window // 2
    points = []
    for index, step in enumerate(steps):
        window_steps = steps[max(0, index - half) : index + half + 1]
        values = [math.fsum(seed[other] for other in window_steps) / len(window_steps) for seed in seeds]
        points.append((step, math.fsum(values) / len(values), min(values), max(values)))
    return Series(name, points)
