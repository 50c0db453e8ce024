"""Exports of the Label page: where they go, what the preview says and costs."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.lossiness import preview_export
from hart_studio.ui.label_desk import LabelDesk
from hart_studio.ui.label_outputs import LabelOutputs, make_export_folder
from tests.large_projects import make_large_project


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    made = [make_export_folder(exports, "coco") for _ in range(3)]
    assert [folder.name for folder in made] == ["001-coco", "002-coco", "003-coco"]
    shutil.rmtree(made[0])
    assert make_export_folder(exports, "coco").name == "004-coco"
    assert make_export_folder(exports, "yolo").name == "005-yolo"
    (exports / "notes.txt").touch()
    (exports / "0999-mine").mkdir()
    assert make_export_folder(exports, "yolo").name == "1000-yolo"


def test_exports_at_the_same_time_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_export_folder(tmp_path / "exports", "coco"), range(40)))
    assert len({folder.name for folder in made}) == 40


def test_a_preview_takes_time_and_memory_for_counts_alone(tmp_path: Path) -> None:
    """Of twice the labels it takes about twice the time and no more memory; no image is opened, for there is none."""
    found = {}
    for count in (4_000, 16_000):
        project = make_large_project(tmp_path / str(count), count)
        options = ExportOptions(classes=project.settings.classes)
        tracemalloc.start()
        preview = preview_export(project, "yolo", options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        began = time.process_time()
        preview_export(project, "yolo", options)
        found[count] = (time.process_time() - began, peak)
        assert preview.items == count
        assert {loss.what: loss.count for loss in preview.losses}["labels"] == count
    assert found[16_000][0] < 12 * found[4_000][0]
    assert found[16_000][1] < 8 * 2**20


def test_the_page_is_told_what_the_labels_lose(tmp_path: Path) -> None:
    make_large_project(tmp_path / "projects" / "large", 100)
    outputs = LabelOutputs(LabelDesk(tmp_path / "projects"), tmp_path / "served")
    told = outputs.losses({"project": "large", "format": "coco", "statuses": ["accepted"]})
    assert told["items"] == 50
    assert "evidence of 50 labels, but for the answer from the crops" in told["losses"]
