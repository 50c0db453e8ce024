"""Exports of the Label tab: where they go, what the preview says and costs."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.labeling.export_loss import preview_export
from hart_studio.labeling.export_plan import NO_BACKGROUND, ExportOptions
from hart_studio.labeling.importing import import_samples
from hart_studio.records import Box, Sample
from hart_studio.ui.api.exports import LabelExportApi, make_export_folder
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.labels import LabelApi
from tests.labels import draw_image
from tests.large_projects import make_large_project
from tests.unit.labeling.conftest import add_label


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


def measure_preview(folder: Path, count: int) -> tuple[float, int]:
    """CPU seconds and peak bytes of a preview of so many labels."""
    project = make_large_project(folder, count)
    options = ExportOptions(classes=project.settings.classes)
    tracemalloc.start()
    preview = preview_export(project, "yolo", options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.process_time()
    preview_export(project, "yolo", options)
    seconds = time.process_time() - began
    assert preview.items == count
    assert {loss.what: loss.count for loss in preview.losses}["labels"] == count
    return seconds, peak


def test_a_preview_takes_time_and_memory_for_counts_alone(tmp_path: Path) -> None:
    """Of twice the labels it takes about twice the time and no more memory; no image is opened, for there is none.

    Measured in a process of its own: threads that other tests have left would be counted, too.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = {
            count: pool.submit(measure_preview, tmp_path / str(count), count).result() for count in (4_000, 16_000)
        }
    assert found[16_000][0] < 12 * found[4_000][0]
    assert found[16_000][1] < 8 * 2**20


def test_the_page_shows_what_the_labels_lose(tmp_path: Path) -> None:
    make_large_project(tmp_path / "projects" / "large", 100)
    outputs = LabelExportApi(LabelApi(tmp_path / "projects"), tmp_path / "served")
    response = call_handler(
        outputs.describe_export_loss, {"project": "large", "format": "coco", "statuses": ["accepted"]}
    )
    assert response["items"] == 50
    assert "evidence of 50 labels, except the answer from the crops" in response["losses"]
    assert sum(response["excluded"].values()) == 50 and all(
        reason.startswith("status ") for reason in response["excluded"]
    )


def test_no_image_with_an_undecided_question_is_background_in_an_export_of_the_page(tmp_path: Path) -> None:
    label_api = LabelApi(tmp_path / "projects")
    call_handler(label_api.create, {"name": "signs"})
    project = label_api.open_project("signs")
    for place in range(3):
        image = draw_image(tmp_path / f"{place}.png")
        questions = (f"Sign {place}?", f"Car {place}?") if place else (f"Sign {place}?",)
        samples = [Sample(id=text, image=str(image), question=text, choices=()) for text in questions]
        import_samples(project, LoadedSamples("streets", tuple(samples)))
    for item in list(project.items()):
        if item.sample.question.startswith("Sign"):
            add_label(project, item.id, status="accepted", origin="human", boxes=(), reviewer="Ada")
    outputs = LabelExportApi(label_api, tmp_path / "served")
    request = {"project": "signs", "format": "pascal_voc", "splits": [1, 0, 0]}
    preview, done = call_handler(outputs.describe_export_loss, request), call_handler(outputs.export, request)
    assert preview["items"] == done["items"] == 1
    assert preview["excluded"] == done["excluded"] == {NO_BACKGROUND: 2, "status new": 2}


def test_classes_of_a_project_are_set_on_the_page_and_exported(tmp_path: Path) -> None:
    label_api = LabelApi(tmp_path / "projects")
    call_handler(label_api.create, {"name": "signs", "classes": "sign, car, sign"})
    outputs = LabelExportApi(label_api, tmp_path / "served")
    project = label_api.open_project("signs")
    assert project.settings.classes == ("sign", "car")
    assert call_handler(outputs.change_classes, {"project": "signs", "classes": " car,  traffic light ,"}) == {
        "classes": ["car", "traffic light"]
    }
    assert project.settings.classes == ("car", "traffic light")
    for bad in ("", " , ", "a" * 101, "a\nb", None):
        with pytest.raises(InputError, match="Invalid classes"):
            call_handler(outputs.change_classes, {"project": "signs", "classes": bad})
    assert project.settings.classes == ("car", "traffic light")


def test_an_export_of_the_page_has_the_project_classes_and_can_be_repeated(tmp_path: Path) -> None:
    label_api = LabelApi(tmp_path / "projects")
    call_handler(label_api.create, {"name": "signs", "classes": "sign"})
    project = label_api.open_project("signs")
    image = draw_image(tmp_path / "a.png")
    sample = Sample(id="a", image=str(image), question="Where?", source="s")
    import_samples(project, LoadedSamples("s", (sample,)))
    (item,) = project.items()
    add_label(project, item.id, boxes=(Box.from_xyxy((1, 1, 9, 9), "Z"),), status="auto_accepted", score=0.9)
    outputs = LabelExportApi(label_api, tmp_path / "served")
    wanted = {"project": "signs", "format": "coco", "splits": [1, 0, 0]}
    for number in ("001", "002"):
        response = call_handler(outputs.export, wanted)
        assert response["items"] == 1
        assert Path(response["folder"]).name == f"{number}-coco"
    coco = json.loads((Path(response["folder"]) / "annotations/instances_train.json").read_text())
    assert [each["name"] for each in coco["categories"]] == ["sign"]
    assert coco["annotations"][0]["score"] == 0.9
    shutil.rmtree(Path(response["folder"]).with_name("001-coco"))
    assert Path(call_handler(outputs.export, wanted)["folder"]).name == "003-coco"
    with pytest.raises(InputError):
        call_handler(outputs.export, {**wanted, "format": "yolo"})
    assert sorted(path.name for path in (project.folder / "exports").iterdir()) == ["002-coco", "003-coco"]
