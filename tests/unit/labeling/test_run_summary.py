from __future__ import annotations

from hart_studio.labeling.job import LabelingConfig, delete_missing_run, prepare_run
from hart_studio.labeling.project import Project
from hart_studio.labeling.run_summary import MAX_REASONS, summarize_run


def test_items_by_status_and_the_most_frequent_reasons(filled: Project) -> None:
    config = LabelingConfig(item_filter={"statuses": ("proposed",)})  # type: ignore[arg-type]
    layout = prepare_run(filled, config)
    assert summarize_run(filled, layout.run_id) == [
        "this run: 0 of 6 items, 0 proposed, 0 auto-accepted, 0 failed, 0 without a box"
    ]
    ids = [item.id for item in filled.items()]
    box = '[{"x_min": 0, "y_min": 0, "x_max": 1, "y_max": 1}]'
    labels = [
        f'{{"status": "proposed", "note": "", "boxes": {box}}}',
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
    assert summarize_run(filled, layout.run_id) == [
        "this run: 5 of 6 items, 2 proposed, 1 auto-accepted, 2 failed, 1 without a box",
        "  2 of the failed items keep their earlier label; use --status to label them again",
        "  2 failed: no image",
    ]
    with filled.database.writing() as connection:
        connection.execute("""UPDATE predictions SET label = '{"status": "failed", "note": "x' || item || '"}'""")
    lines = summarize_run(filled, layout.run_id)
    assert len(lines) == 2 + MAX_REASONS + 1 and lines[-1].startswith("  and 1 other reasons")


def test_a_run_with_a_folder_is_not_forgotten(filled: Project) -> None:
    config = LabelingConfig(item_filter={"statuses": ("proposed",)})  # type: ignore[arg-type]
    layout = prepare_run(filled, config)
    delete_missing_run(filled, layout)
    with filled.database.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM predictions").fetchone()[0] == 6
