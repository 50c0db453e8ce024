"""Compare two lists of boxes within a tolerance, in linear time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

from hart_studio.geometry import XYXY

NamedBox = tuple[str, XYXY]
"""Class and edges of a box, pixels."""

_ROUNDING: Final = 1e-9
"""Added to a tolerance in the cell lookup, pixels, so that a difference equal to the tolerance is found."""

_GridCell = tuple[str, int, int, int, int]


def get_unmatched_box(
    boxes: Sequence[NamedBox], others: Sequence[NamedBox], tolerance: tuple[float, float]
) -> NamedBox | None:
    """Return the first box without an equal one in ``others``, or None.

    Args:
        boxes: Boxes to find.
        others: Boxes to search. One of them may equal several boxes.
        tolerance: Maximum difference of edges, horizontal and vertical, pixels.

    """
    across, down = tolerance
    limits = (across, down, across, down)
    cells: dict[_GridCell, list[XYXY]] = defaultdict(list)
    for name, edges in set(others):
        first, second, third, fourth = (
            math.floor(edge / _cell_size(limit)) for edge, limit in zip(edges, limits, strict=True)
        )
        cells[name, first, second, third, fourth].append(edges)
    for box in boxes:
        near = (edges for cell in _get_grid_cells(box, limits) for edges in cells.get(cell, ()))
        if not any(_is_close(box[1], edges, limits) for edges in near):
            return box
    return None


def _cell_size(limit: float) -> float:
    return 2 * (limit + _ROUNDING)


def _get_grid_cells(box: NamedBox, limits: XYXY) -> Iterator[_GridCell]:
    """Cells that can hold a box within the tolerance: each edge falls in one or two."""
    spans = []
    for edge, limit in zip(box[1], limits, strict=True):
        size, reach = _cell_size(limit), limit + _ROUNDING / 2
        spans.append(range(math.floor((edge - reach) / size), math.floor((edge + reach) / size) + 1))
    for first, second, third, fourth in product(*spans):
        yield box[0], first, second, third, fourth


def _is_close(edges: XYXY, others: XYXY, limits: XYXY) -> bool:
    return all(abs(one - other) <= limit for one, other, limit in zip(edges, others, limits, strict=True))
