from __future__ import annotations

import pytest

from hart_studio.evaluation.line_chart import Series
from hart_studio.experiments.miniature.curves import join_seeds


def test_seeds_are_joined_step_by_step() -> None:
    line = join_seeds("x", [{1: 0.0, 2: 1.0, 3: 0.5}, {1: 1.0, 2: 0.0}])
    assert line.points == [(1, 0.5, 0.0, 1.0), (2, 0.5, 0.0, 1.0)], "only steps that both have"
    assert join_seeds("x", []) == Series("x", ())


def test_smoothing_is_a_mean_of_neighbors() -> None:
    line = join_seeds("x", [{1: 0.0, 2: 3.0, 3: 6.0}], window=3)
    assert [mean for _, mean, *_ in line.points] == pytest.approx([1.5, 3.0, 4.5])
