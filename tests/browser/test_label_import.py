"""Import on the Label page: previews, zips, images in other folders; single class of an export."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.bulk_accept import accept_all
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import ItemFilter, LabeledSample
from hart_studio.records import Box
from tests.browser.label_projects import create, make_project, open_label_tab
from tests.fakes import ScriptedModel
from tests.images import encoded
from tests.labels import draw_image

pytestmark = pytest.mark.browser
QUESTION = "Where is the {name}?"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label_import") / "labels"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def studio(serve: Callable[..., str], image_folder: Path, labels: Path) -> str:
    return serve(ScriptedModel([]), image_folder, labels_root=labels)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    images = {f"img/{name}.png": encoded(Image.new("RGB", (64, 48), name), "PNG") for name in ("red", "navy")}
    table = "image,question,answer\n" + "".join(f"{name},Which color?,{name[4:-4]}\n" for name in images)
    for name, data in images.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for name, entries in {"plain": images, "whole": {**images, "questions.csv": table.encode()}}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for entry, data in entries.items():
                archive.writestr(entry, data)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "questions.csv").write_text(table)
    return tmp_path


def test_images_of_a_zip_are_counted_asked_about_and_keep_their_names(
    open_page: Callable[..., Page], studio: str, labels: Path, sources: Path
) -> None:
    page = open_page(studio)
    create(page, "Zip of images")
    expect(page.locator(".hs-question")).to_be_hidden()
    page.locator(".hs-file").set_input_files(sources / "plain.zip")
    expect(page.locator(".hs-preview")).to_have_text("2 images: img/navy.png, img/red.png")
    expect(page.locator(".hs-question")).to_be_visible()
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-label-message")).to_have_text("Enter a question for the images.")
    expect(page.locator(".hs-question")).to_have_attribute("placeholder", QUESTION)
    page.locator(".hs-question").fill("Where is the {label}?")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("The question has {label}")
    page.locator(".hs-question").fill(QUESTION)
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("2 added")
    page.locator("[data-panel=review]").click()
    expect(page.locator(".hs-list tbody")).to_contain_text("navy.png")
    assert {Path(item.image.path).name for item in Project(labels / "zip-of-images").items()} == {
        "navy.png",
        "red.png",
    }


def test_a_table_in_a_zip_is_read(open_page: Callable[..., Page], studio: str, labels: Path, sources: Path) -> None:
    page = open_page(studio)
    create(page, "Zip with a table")
    page.locator(".hs-source").fill(str(sources / "whole.zip"))
    page.locator(".hs-preview-button").click()
    expect(page.locator(".hs-preview")).to_contain_text("Images in the first 2 rows: 2 found.")
    expect(page.locator("[data-field=answer]")).to_have_value("answer")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text(
        "2 added, 0 updated, 0 already in the project, 0 invalid rows"
    )
    assert {item.sample.answer for item in Project(labels / "zip-with-a-table").items()} == {"navy", "red"}


def test_a_table_alone_asks_for_the_folder_of_its_images(
    open_page: Callable[..., Page], studio: str, labels: Path, sources: Path
) -> None:
    page = open_page(studio)
    create(page, "Table alone")
    page.locator(".hs-source").fill(str(sources / "alone" / "questions.csv"))
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("image not found in ")
    page.locator(".hs-preview-button").click()
    expect(page.locator(".hs-preview")).to_contain_text("Set Image folder")
    expect(page.locator(".hs-import-message")).to_be_empty()
    expect(page.locator(".hs-question")).to_be_hidden()
    page.locator("[data-field=answer]").select_option("question")
    page.locator(".hs-image-root").fill(str(sources))
    page.locator(".hs-image-root").blur()
    expect(page.locator(".hs-preview")).to_contain_text("2 found.")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("2 added")
    answers = {item.sample.answer for item in Project(labels / "table-alone").items()}
    assert answers == {"Which color?"}, "the columns stayed as they were mapped"
    page.locator(".hs-source").fill(str(sources / "plain.zip"))
    expect(page.locator(".hs-import-message")).to_be_empty()
    expect(page.locator(".hs-preview")).to_be_empty()
    expect(page.locator(".hs-kind")).to_have_value("auto")
    page.locator(".hs-kind").select_option("coco")
    page.locator(".hs-source").fill(str(sources / "whole.zip"))
    expect(page.locator(".hs-kind")).to_have_value("coco")


def test_a_table_without_heads_asks_for_its_columns(open_page: Callable[..., Page], studio: str, sources: Path) -> None:
    (sources / "bare.csv").write_text("img/none.png,What is it?\nimg/red.png,Which color?\n")
    page = open_page(studio)
    create(page, "Bare table")
    page.locator(".hs-source").fill(str(sources / "bare.csv"))
    page.locator(".hs-preview-button").click()
    expect(page.locator(".hs-preview > p")).to_have_text("Image column not detected. Choose it.")
    for field, title, column in (("image", "image", "img/none.png"), ("question", "question", "What is it?")):
        select = page.locator(f"[data-field={field}]")
        expect(select).to_have_value("")
        page.locator(".hs-import-button").click()
        expect(page.locator(".hs-label-message")).to_have_text(f"Choose the {title} column.")
        select.select_option(column)
    expect(page.locator(".hs-preview > p")).to_contain_text("1 found")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("1 added")


def test_boxes_that_came_in_are_preselected_to_be_verified(
    open_page: Callable[..., Page], studio: str, labels: Path, sources: Path
) -> None:
    project = make_project(labels, "came-in", 1)
    page = open_page(studio)
    open_label_tab(page, "came-in")
    page.locator("[data-panel=propose]").click()
    expect(page.locator(".hs-item-scope")).to_have_value("new")
    given = LabeledSample(
        id="g", image=str(sources / "img" / "red.png"), question="?", boxes=(Box.from_xyxy((1, 2, 30, 40)),)
    )
    import_samples(project, LoadedSamples("boxes", (given,)))
    expect(page.locator(".hs-item-scope")).to_have_value("open")
    page.locator(".hs-label-model").fill("org/general")  # the built-in model is not suggested for these images
    page.locator(".hs-rollouts").fill("65")
    expect(page.locator(".hs-score-notes")).to_contain_text("less than or equal to 64")
    page.locator(".hs-start-run").click()
    expect(page.locator(".hs-label-message")).to_contain_text("less than or equal to 64")
    expect(page.get_by_text("less than or equal to 64")).to_have_count(1)
    page.locator(".hs-item-scope").select_option("new")
    page.locator(".hs-rollouts").fill("2")
    page.locator(".hs-start-run").click()
    expect(page.locator(".hs-label-message")).to_contain_text(
        "No item to label with status new or failed. Import items, or choose other statuses: Items"
    )


def test_a_late_answer_says_nothing_of_another_source(
    open_page: Callable[..., Page], studio: str, sources: Path
) -> None:
    page = open_page(studio)
    create(page, "Late")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if not held and '"preview_source"' in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route(re.compile("component_server"), hold)
    page.locator(".hs-source").fill(str(sources / "whole.zip"))
    with page.expect_request(lambda request: '"preview_source"' in (request.post_data or "")) as asked:
        page.locator(".hs-preview-button").click()
    page.locator(".hs-source").fill(str(sources / "plain.zip"))
    with page.expect_response(lambda response: response.request == asked.value):
        held[0].continue_()
    expect(page.locator(".hs-preview-button")).to_be_enabled()
    expect(page.locator(".hs-preview")).to_be_empty()
    expect(page.locator(".hs-kind")).to_have_value("auto")
    page.locator(".hs-preview-button").click()
    expect(page.locator(".hs-preview")).to_contain_text("2 images")


def test_a_table_that_is_taken_for_images_can_be_asked_about(
    open_page: Callable[..., Page], studio: str, sources: Path
) -> None:
    page = open_page(studio)
    create(page, "Taken for images")
    page.locator(".hs-source").fill(str(sources / "whole.zip"))
    page.locator(".hs-preview-button").click()
    expect(page.locator(".hs-preview")).to_contain_text("2 found")
    page.locator(".hs-kind").select_option("images")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-question")).to_be_focused()
    page.locator(".hs-question").fill(QUESTION)
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("2 added")
    page.locator("[data-panel=review]").click()
    expect(page.locator(".hs-list-count")).to_have_text("2 items")
    page.locator(".hs-new-name").fill("Empty")
    page.locator(".hs-create").click()
    expect(page.locator("[data-panel=import]")).to_have_attribute("aria-selected", "true")
    for field in (".hs-source", ".hs-question"):
        expect(page.locator(field)).to_have_value("")
    expect(page.locator(".hs-kind")).to_have_value("auto")
    page.locator("[data-panel=review]").click()
    expect(page.locator(".hs-list-count")).to_have_text("0 items")


def test_images_with_exif_rotation_are_counted_in_an_export(
    open_page: Callable[..., Page], studio: str, labels: Path, tmp_path: Path
) -> None:
    project = create_project(labels / "turned", "turned")
    samples = []
    for number in range(2):
        path = draw_image(labels.parent / f"turned{number}.jpg", (64, 48), orientation=6)
        box = Box.from_xyxy((4, 8, 12, 40), "sign")
        samples.append(LabeledSample(id=f"q{number}", image=str(path), question="Where?", source="s", boxes=(box,)))
    import_samples(project, LoadedSamples("s", tuple(samples)))
    accept_all(project, "Ada", ItemFilter(statuses=("proposed",)), 2)
    page = open_page(studio)
    open_label_tab(page, "turned")
    page.locator("[data-panel=export]").click()
    page.locator(".hs-exif").select_option("stored")
    expect(page.locator(".hs-label-message")).to_contain_text("copies images unchanged")  # the native format
    page.locator(".hs-format").select_option("coco")
    for choice, text in (("stored", "written as stored, with turned boxes"), ("upright", "written upright")):
        page.locator(".hs-exif").select_option(choice)
        page.locator(".hs-export").click()
        expect(page.locator(".hs-export-message")).to_contain_text("2 images with EXIF rotation were " + text)


def test_one_class_for_all_boxes_of_an_export(
    open_page: Callable[..., Page], studio: str, labels: Path, tmp_path: Path
) -> None:
    project = make_project(labels, "classes", 2)
    accept_all(project, "Ada", ItemFilter(statuses=("proposed",)), 2)
    page = open_page(studio)
    open_label_tab(page, "classes")
    page.locator("[data-panel=export]").click()
    page.locator(".hs-export-class").fill("road sign")
    page.locator(".hs-format").select_option("native")
    expect(page.locator(".hs-label-message")).to_contain_text("keeps the labels of all boxes")
    page.locator(".hs-format").select_option("coco")
    expect(page.locator(".hs-export-loss")).to_contain_text("class names of 2 boxes (replaced by 'road sign')")
    page.locator(".hs-export").click()
    with page.expect_download() as download:
        page.locator(".hs-download-link").click()
    download.value.save_as(tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        (name,) = [name for name in archive.namelist() if name.startswith("annotations/instances_")]
        coco = json.loads(archive.read(name))
    assert [category["name"] for category in coco["categories"]] == ["road sign"]
    assert len(coco["annotations"]) >= 1
