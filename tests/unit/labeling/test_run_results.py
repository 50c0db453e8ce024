from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.job import LabelingConfig, delete_missing_run, prepare_run
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Label
from hart_studio.labeling.run_results import MAX_REASONS, compare_runs, summarize_run
from hart_studio.records import Box
from tests.unit.labeling.conftest import BOX, make_check


def test_items_by_status_and_the_most_frequent_reasons(filled: Project) -> None:
    config = LabelingConfig(item_filter={"statuses": ("proposed",)})  # type: ignore[arg-type]
    layout = prepare_run(filled, config)
    assert summarize_run(filled, layout.run_id).lines() == [
        "this run: 0 of 6 items, 0 proposed, 0 with a sufficient crop, 0 auto-accepted, 0 failed, 0 without a box",
        "project: 6 proposed",
    ]
    ids = [item.id for item in filled.items()]
    box = '[{"x_min": 0, "y_min": 0, "x_max": 1, "y_max": 1}]'
    labels = [
        f'{{"status": "proposed", "note": "", "boxes": {box}, "check": {{"crops_correct": true}}}}',
        '{"status": "proposed", "note": "", "boxes": []}',
        f'{{"status": "auto_accepted", "note": "", "boxes": {box}}}',
        '{"status": "failed", "note": "no image", "boxes": []}',
        '{"status": "failed", "note": "no image", "boxes": []}',
    ]
    with filled.database.writing() as connection:
        for item_id, label in zip(ids, labels, strict=False):
            connection.execute(
                "UPDATE predictions SET label = ? WHERE run = ? AND item = ?", (label, layout.run_id, item_id)
            )
    assert summarize_run(filled, layout.run_id).lines() == [
        "this run: 5 of 6 items, 2 proposed, 1 with a sufficient crop, 1 auto-accepted, 2 failed, 1 without a box",
        "  2 of the failed items keep their earlier label; name its status to label them again, such as "
        "--status proposed",
        "  2 failed: no image",
        "project: 6 proposed",
    ]
    with filled.database.writing() as connection:
        connection.execute("""UPDATE predictions SET label = '{"status": "failed", "note": "x' || item || '"}'""")
    lines = summarize_run(filled, layout.run_id).lines()
    assert len(lines) == 2 + MAX_REASONS + 2 and lines[-2].startswith("  and 1 other reasons")
    summary = summarize_run(filled, layout.run_id)
    assert summary.has_only_failures and sum(summary.failures.values()) == summary.failed == 6
    assert json.loads(summary.model_dump_json())["statuses"] == {"proposed": 6}


def test_a_run_with_a_folder_is_not_forgotten(filled: Project) -> None:
    config = LabelingConfig(item_filter={"statuses": ("proposed",)})  # type: ignore[arg-type]
    layout = prepare_run(filled, config)
    delete_missing_run(filled, layout)
    with filled.database.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM predictions").fetchone()[0] == 6


FAR = Box.from_xyxy((300, 200, 400, 300))


def predict(project: Project, run: str, labels: dict[str, tuple[bool | None, tuple[Box, ...]]]) -> None:
    with project.database.writing() as connection:
        connection.execute("INSERT INTO runs (id, at, model) VALUES (?, '', 'm')", (run,))
        for item_id, (is_right, boxes) in labels.items():
            check = None if is_right is None else make_check(crops_correct=is_right)
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
