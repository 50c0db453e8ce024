"""Exports of the Label page: where they go, what the preview says and costs."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hart_studio.ui.label_outputs import make_export_folder


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
