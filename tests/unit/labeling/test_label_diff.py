from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.label_diff import compare_runs
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Label
from hart_studio.records import Box
from tests.unit.labeling.conftest import BOX, make_check

FAR = Box.from_xyxy((300, 200, 400, 300))


def predict(project: Project, run: str, labels: dict[str, tuple[bool | None, tuple[Box, ...]]]) -> None:
    with project.database.writing() as connection:
        connection.execute("INSERT INTO runs (id, at, model) VALUES (?, '', 'm')", (run,))
        for item_id, (is_right, boxes) in labels.items():
            check = None if is_right is None else make_check(crops_right=is_right)
            label = Label(revision=1, status="proposed", origin="model", boxes=boxes, check=check, at=datetime.now(UTC))
            connection.execute(
                "INSERT INTO predictions (run, item, label) VALUES (?, ?, ?)", (run, item_id, label.model_dump_json())
            )


def test_every_change_by_hand(filled: Project, item_ids: list[str]) -> None:
    before = [(False, (BOX,)), (True, (BOX,)), (True, (BOX,)), (True, (BOX,)), (None, ()), (False, (BOX,))]
    after = [(True, (BOX,)), (False, (FAR,)), (True, (FAR,)), (True, (BOX,)), (True, (BOX,)), (False, ())]
    predict(filled, "one", dict(zip(item_ids, before, strict=True)))
    predict(filled, "two", dict(zip(item_ids, after, strict=True)))
    found = compare_runs(filled, "one", "two")
    assert [change.change for change in found.changes] == ["fixed", "broken", "moved", "same", "unclear", "moved"]
    assert found.counts == {"known_answer": {"fixed": 1, "broken": 1, "moved": 2, "same": 1, "unclear": 1}}
    assert [change.iou for change in found.changes] == [1.0, 0.0, 0.0, 1.0, None, None]


def test_only_items_that_both_runs_have_done(filled: Project, item_ids: list[str]) -> None:
    predict(filled, "one", {item_ids[0]: (True, (BOX,)), item_ids[1]: (True, (BOX,))})
    predict(filled, "two", {item_ids[1]: (True, (BOX,))})
    with filled.database.writing() as connection:
        connection.execute("INSERT INTO predictions (run, item) VALUES ('two', ?)", (item_ids[0],))
    assert [change.item_id for change in compare_runs(filled, "one", "two").changes] == [item_ids[1]]


def test_unknown_runs_and_nothing_in_common(filled: Project, item_ids: list[str]) -> None:
    predict(filled, "one", {item_ids[0]: (True, (BOX,))})
    predict(filled, "two", {item_ids[1]: (True, (BOX,))})
    with pytest.raises(InputError, match="Choose one from the list"):
        compare_runs(filled, "one", "three")
    with pytest.raises(InputError, match="items in common"):
        compare_runs(filled, "one", "two")
