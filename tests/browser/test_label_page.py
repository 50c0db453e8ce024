"""The Label page: a project from its first row to its export, with a real labeling run in between."""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hart_studio.data.rows import InvalidRow, LoadedSamples
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, prepare_run
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ItemFilter
from hart_studio.needle.dataset import iterate_items, write_item
from hart_studio.needle.scenes import SceneSettings
from hart_studio.runs.launcher import start_run
from tests.browser.label_projects import create, drag, make_project, open_label_tab, start_review
from tests.unit.labeling.conftest import change_settings

pytestmark = pytest.mark.browser
RUN_MS = 240_000
"""For a real labeling run of a few items, on a machine that is busy with something else."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("label_work") / "labels"


@pytest.fixture(scope="module")
def studio(serve: Callable[..., str], image_folder: Path, labels: Path) -> str:
    """With the built-in model."""
    return serve(None, image_folder, labels_root=labels)


@pytest.fixture(scope="module")
def needle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("needle")
    (folder / "images").mkdir()
    for item in iterate_items("val", 4, settings=SceneSettings(width=2048, height=1536)):
        write_item(item, folder)
    return folder


@pytest.fixture(scope="module")
def default_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene with the default settings, which the shipped calibrations are valid for."""
    folder = tmp_path_factory.mktemp("default_scene")
    (folder / "images").mkdir()
    for item in iterate_items("val", 1):
        write_item(item, folder)
    return folder


def import_source(page: Page, source: Path) -> None:
    page.locator(".hs-source").fill(str(source))
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("added", timeout=60_000)


@pytest.mark.core
def test_from_the_first_row_to_the_export(
    open_page: Callable[..., Page], studio: str, labels: Path, needle: Path, tmp_path: Path
) -> None:
    page = open_page(studio)
    create(page, "Whole path")
    import_source(page, needle)
    expect(page.locator(".hs-import-message")).to_have_text(
        "4 added, 0 updated, 0 already in the project, 0 invalid rows"
    )
    import_again = page.locator(".hs-import-button")
    import_again.click()
    expect(page.locator(".hs-import-message")).to_have_text(
        "0 added, 0 updated, 4 already in the project, 0 invalid rows", timeout=60_000
    )

    page.locator("[data-panel=propose]").click()
    page.locator(".hs-rollouts").fill("2")
    page.locator(".hs-no-auto-accept").check()
    page.locator(".hs-start-run").click()
    expect(page.locator(".hs-pill-completed")).to_be_visible(timeout=RUN_MS)
    expect(page.locator(".hs-status-list")).to_contain_text("4waiting for review")

    start_review(page)
    expect(page.locator(".hs-review [data-box]")).not_to_have_count(0)
    first = page.locator(".hs-review-question").inner_text()
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".hs-review-badge")).not_to_have_text("verifying…", timeout=60_000)
    page.keyboard.press("a")
    expect(page.locator(".hs-review-message")).to_have_text("")
    expect(page.locator(".hs-review-question")).not_to_have_text(first)
    page.keyboard.press("u")
    expect(page.locator(".hs-review-question")).to_have_text(first)
    page.keyboard.press("y")
    expect(page.locator(".hs-review-question")).not_to_have_text(first)
    page.keyboard.press("a")
    expect(page.locator(".hs-review > header")).to_contain_text("2 decided")
    page.keyboard.press("Escape")
    expect(page.locator(".hs-review")).to_be_hidden()

    page.locator("[data-panel=quality]").click()
    expect(page.locator(".hs-quality")).to_contain_text("Known-answer")
    expect(page.locator(".hs-quality")).to_contain_text("Gold boxes")
    expect(page.locator(".hs-figures img")).not_to_have_count(0)
    assert page.evaluate("[...document.querySelectorAll('.hs-figures img')].every((image) => image.naturalWidth > 0)")

    for kind in ("SVG", "PNG"):
        with page.expect_download() as drawn:
            page.get_by_role("button", name=f"areas as {kind}").click()
        drawn.value.save_as(tmp_path / f"areas.{kind.lower()}")
    assert (tmp_path / "areas.svg").read_text().startswith("<svg")
    assert (tmp_path / "areas.png").read_bytes().startswith(b"\x89PNG") and (
        tmp_path / "areas.png"
    ).stat().st_size > 5000

    page.locator("[data-panel=quality]").press("ArrowRight")
    expect(page.locator("[data-panel=export]")).to_be_focused()
    page.locator(".hs-format").select_option("coco")
    page.locator(".hs-split-train").fill("100")
    page.locator(".hs-split-val").fill("0")
    page.locator(".hs-split-test").fill("0")
    page.locator(".hs-export").click()
    with page.expect_download() as download:
        page.locator(".hs-download-link").click()
    download.value.save_as(tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        coco = json.loads(archive.read("annotations/instances_train.json"))
    assert len(coco["annotations"]) >= 2
    page.locator(".hs-train-on").click()
    expect(page.locator("#train-command textarea")).to_have_value(re.compile(r"data\.source=jsonl"))
    expect(page.locator("#train-command textarea")).to_have_value(re.compile(r"whole-path/training/samples\.jsonl"))

    project = Project(labels / "whole-path")
    statuses = project.count_by("status")
    assert (statuses["edited"], statuses["accepted"]) == (1, 1)


def test_columns_are_guessed_shown_and_mapped(
    open_page: Callable[..., Page], studio: str, needle: Path, labels: Path
) -> None:
    table = needle / "table.csv"
    name = json.loads((needle / "samples.jsonl").read_text().splitlines()[0])["image"]
    table.write_text(f"photo,ask,said,A,B\n{name},What is it?,B,red,blue\ngone.png,What?,A,x,y\n")
    page = open_page(studio)
    create(page, "Mapped")
    page.locator(".hs-source").fill(str(table))
    page.locator(".hs-preview-button").click()
    expect(page.locator(".hs-preview td").first).to_have_text(name)
    expect(page.locator("[data-field=choices]")).to_have_value("A, B")
    page.locator("[data-field=image]").select_option("photo")
    page.locator("[data-field=question]").select_option("ask")
    page.locator("[data-field=answer]").select_option("said")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text(
        "1 added, 0 updated, 0 already in the project, 1 invalid rows", timeout=60_000
    )
    expect(page.locator(".hs-invalid-rows")).to_contain_text("image not found")
    assert next(Project(labels / "mapped").items()).sample.answer == "B"


def test_what_was_left_out_is_there_in_another_studio(
    open_page: Callable[..., Page], serve: Callable[..., str], image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    project = make_project(tmp_path / "labels", "earlier", 1)
    import_samples(project, LoadedSamples("table", (), (InvalidRow("line 7", "image not found"),)))
    page = open_page(serve(None, image_folder, labels_root=tmp_path / "labels"))
    open_label_tab(page, "earlier")
    expect(page.locator(".hs-invalid-rows")).to_contain_text("table, line 7")
    expect(page.locator(".hs-invalid-rows")).to_contain_text("image not found")


def test_a_missing_source_is_reported(open_page: Callable[..., Page], studio: str) -> None:
    page = open_page(studio)
    create(page, "Nowhere")
    page.locator(".hs-source").fill("/no/such/place.csv")
    page.locator(".hs-import-button").click()
    expect(page.locator(".hs-import-message")).to_contain_text("Cannot read")
    page.locator("[data-panel=propose]").click()
    page.locator(".hs-start-run").click()
    expect(page.locator(".hs-label-message")).to_contain_text("No item to label")


def test_the_list_is_filtered_and_accepted_at_once_after_a_question(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    labels.mkdir(exist_ok=True)
    project = make_project(labels, "bulk", 6)
    *_, one, other = project.items()
    for item, changed in ((one, {"boxes": ()}), (other, {"score": None})):
        with project.database.writing() as connection:
            project.append_label(connection, item.id, item.label.model_copy(update={"revision": 2, **changed}))
    page = open_page(studio)
    open_label_tab(page, "bulk")
    page.locator("[data-panel=review]").click()
    page.locator(".hs-reviewer").fill("Ada")
    page.locator(".hs-filter-text").fill("sign 3")
    expect(page.locator(".hs-list tbody tr")).to_have_count(1)
    page.locator(".hs-filter-text").fill("sign")
    page.locator(".hs-filter-score").fill("0.23")
    page.locator(".hs-filter-score").blur()
    expect(page.locator(".hs-list-count")).to_have_text("2 items")
    expect(page.locator(".hs-accept-all")).to_have_text("Accept all 1")
    page.locator(".hs-filter-score").fill("")
    page.locator(".hs-filter-score").blur()
    expect(page.locator(".hs-accept-all")).to_have_text("Accept all 5")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.locator(".hs-accept-all").click()
    assert project.count_by("status") == {"proposed": 6}
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator(".hs-accept-all").click()
    expect(page.locator(".hs-status-list")).to_contain_text("5accepted")
    expect(page.locator(".hs-label-message")).to_have_text("5 labels accepted.")
    assert "Accept 5 labels" in asked[0]
    assert "1 has no calibrated score" in asked[0]
    assert "1 label without a box is skipped" in asked[0]
    assert project.count_by("status") == {"accepted": 5, "proposed": 1}


def test_a_run_that_does_not_stop_can_be_ended_at_once(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    labels.mkdir(exist_ok=True)
    project = make_project(labels, "hung", 2)
    layout = prepare_run(project, LabelingConfig(item_filter=ItemFilter()))
    work = (
        "import sys, time\nfrom pathlib import Path\nfrom hart_studio.runs.layout import RunLayout\n"
        "from hart_studio.runs.writer import RunWriter\n"
        "with RunWriter(RunLayout(Path(sys.argv[1])), total=2) as run:\n    time.sleep(600)\n"
    )
    start_run(layout, [sys.executable, "-c", work, str(layout.folder)])
    page = open_page(studio)
    open_label_tab(page, "hung")
    page.locator("[data-panel=propose]").click()
    line = page.locator(".hs-label-run")
    expect(line.locator(".hs-pill")).to_have_text("running")
    line.get_by_role("button", name="Stop").click()
    expect(line.locator(".hs-pill")).to_have_text("stopping")
    expect(line.get_by_role("button", name="Pause")).to_have_count(0)
    line.get_by_role("button", name="Force stop").click()
    expect(line.locator(".hs-pill")).to_have_text("stopped")
    expect(line.get_by_role("button", name="Resume")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_of_the_tabs_are_whole_on_a_phone_and_scroll_bars_are_of_the_theme(
    open_page: Callable[..., Page], studio: str, theme: str
) -> None:
    page = open_page(studio, (390, 844), theme)
    tabs = page.locator("#tabs > .tab-wrapper .tab-container:not(.visually-hidden) [role=tab]")
    expect(tabs).not_to_have_count(0)
    cut = tabs.evaluate_all(
        "nodes => nodes.filter((n) => n.scrollWidth > n.clientWidth || n.getBoundingClientRect().right > innerWidth)"
        ".map((n) => n.textContent)"
    )
    assert cut == []
    scheme, colors = page.evaluate(
        "() => { const s = getComputedStyle(document.documentElement); return [s.colorScheme, s.scrollbarColor]; }"
    )
    assert (scheme, colors != "auto") == (theme, True)


def test_what_waits_why_and_what_the_scores_rest_on(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    labels.mkdir(exist_ok=True)
    project = make_project(labels, "waiting", 4)
    change_settings(project, audit_share=1.0)
    items = list(project.items())
    for item, status, cautions in ((items[0], "proposed", ("scattered",)), (items[1], "auto_accepted", ())):
        changes = {"cautions": cautions, "necessity": None, "full_correct": False}
        check = item.label.check and item.label.check.model_copy(update=changes)
        changed = {"revision": 2, "status": status, "score": 0.98, "check": check}
        with project.database.writing() as connection:
            project.append_label(connection, item.id, item.label.model_copy(update=changed))
    page = open_page(studio)
    open_label_tab(page, "waiting")
    head, bar = page.locator(".hs-label-head").bounding_box(), page.locator(".hs-status-bar").bounding_box()
    assert head and bar and 0 <= bar["y"] - head["y"] - head["height"] <= 16, "no empty band while there is no message"
    expect(page.locator(".hs-status-list")).to_contain_text("3waiting for review")
    expect(page.locator(".hs-status-list")).to_contain_text("1auto-accepted, 1 of them to audit")

    page.locator("[data-panel=propose]").click()
    notes = page.locator(".hs-score-notes")
    expect(notes).to_contain_text("Choose a model. The built-in models only support synthetic needle scenes")
    expect(page.locator(".hs-label-model")).to_have_value("")
    expect(page.locator(".hs-start-run")).to_be_disabled()
    page.locator(".hs-label-model").fill("built-in-hart")
    expect(notes.locator(".hs-warning")).to_contain_text("its answers on images of this project are not meaningful.")
    expect(notes.locator(".hs-warned")).to_contain_text("4 of 4 items will be uncalibrated")
    page.locator(".hs-label-model").fill("org/other")
    expect(notes.locator(".hs-warned")).to_contain_text("no calibration for this model")
    page.locator(".hs-rollouts").fill("1")
    expect(notes.locator(".hs-warned")).to_contain_text("rollouts: Input should be greater than or equal to 2")

    page.locator("[data-panel=review]").click()
    tags = page.locator(".hs-list .hs-caution")
    expect(tags).to_have_text(["scattered"])
    expect(tags).to_have_attribute("title", "Never auto-accepted: rollouts predict different regions, or none")
    page.locator(".hs-reviewer").fill("Ada")
    page.get_by_role("button", name="Which number is on sign 0?").click()
    expect(page.locator(".hs-review > header")).to_contain_text("3 waiting · 1 to audit · 0 decided")
    expect(page.locator(".hs-review-facts")).to_contain_text(
        "Region necessary (masking test)inconclusive: full-image answer is wrong"
    )


def test_a_built_in_model_on_photographs_starts_only_after_a_question(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    labels.mkdir(exist_ok=True)
    project = make_project(labels, "photographs", 3)
    items = list(project.items())
    changed = {"revision": 2, "score": None, "uncalibrated": "images"}
    with project.database.writing() as connection:
        project.append_label(connection, items[0].id, items[0].label.model_copy(update=changed))
    page = open_page(studio)
    open_label_tab(page, "photographs")
    page.locator("[data-panel=propose]").click()
    page.locator(".hs-label-model").fill("built-in-hart")
    page.locator(".hs-item-scope").select_option("open")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.locator(".hs-start-run").click()
    page.wait_for_timeout(1000)
    assert (
        "hart-tiny was trained only on synthetic needle scenes" in asked[0]
        and "Start with this model anyway?" in asked[0]
    )
    expect(page.locator(".hs-label-run")).to_have_count(0)

    page.locator("[data-panel=review]").click()
    scores = page.locator(".hs-list tbody td.hs-number")
    expect(scores).to_have_text(["Uncalibrated", "0.21", "0.22"])
    expect(scores.nth(0)).to_have_attribute("title", "images differ from those of the calibration")
    page.locator(".hs-filter-uncalibrated").check()
    expect(scores).to_have_text(["Uncalibrated"])


def test_the_built_in_model_is_suggested_for_drawn_scenes(
    open_page: Callable[..., Page], studio: str, default_scene: Path
) -> None:
    page = open_page(studio)
    create(page, "Drawn scenes")
    import_source(page, default_scene)
    page.locator("[data-panel=propose]").click()
    expect(page.locator(".hs-label-model")).to_have_value("built-in-hart")
    expect(page.locator(".hs-start-run")).to_be_enabled()
    notes = page.locator(".hs-score-notes")
    expect(notes).to_contain_text("Scores are calibrated on needle, 500 questions of needle-val, with 8 rollouts")
    expect(notes.locator(".hs-warned, .hs-warning")).to_have_count(0)
    page.locator(".hs-rollouts").fill("4")
    expect(notes.locator(".hs-warned")).to_contain_text("number of rollouts or temperature")
    page.locator(".hs-rollouts").fill("8")
    page.locator(".hs-refine-boxes").check()
    expect(notes.locator(".hs-warned")).to_contain_text("box refinement differs")


def test_the_built_in_model_is_suggested_for_scenes_with_other_settings_and_gives_no_score(
    open_page: Callable[..., Page], studio: str, needle: Path
) -> None:
    page = open_page(studio)
    create(page, "Smaller scenes")
    import_source(page, needle)
    page.locator("[data-panel=propose]").click()
    expect(page.locator(".hs-label-model")).to_have_value("built-in-hart")
    expect(page.locator(".hs-score-notes")).to_contain_text("4 of 4 items will be uncalibrated")
    expect(page.locator(".hs-score-notes .hs-warning")).to_have_count(0)


def test_the_figures_of_quality_are_whole_and_of_what_is_there(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    labels.mkdir(exist_ok=True)
    make_project(labels, "figures", 3)
    page = open_page(studio)
    open_label_tab(page, "figures")
    page.locator("[data-panel=quality]").click()
    quality = page.locator(".hs-quality")
    expect(quality).to_contain_text("0.0 % (0.0 % – 56.1 %)")
    assert not re.search(r"\d%", quality.inner_text()), "one spelling of percent"
    expect(quality).to_contain_text(
        "No label of this project has a score from agreement, so that reliability diagram is missing"
    )
    names = [image.get_attribute("alt") or "" for image in quality.locator("img").all()]
    assert names == ["scores known answer", "areas", "reliability known answer"]
    for image in quality.locator("img").all()[:2]:
        drawn = urllib.parse.unquote(image.get_attribute("src") or "")
        texts = set(re.findall(r"<text[^>]*>([^<]*)<", drawn))
        assert {"0", "1", "2", "3"} <= texts and "1.5" not in texts, "counts of labels"
        assert not re.search(r"\d%<", drawn)


def test_a_certain_item_can_be_opened_from_the_list(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    labels.mkdir(exist_ok=True)
    project = make_project(labels, "pick", 3)
    page = open_page(studio)
    open_label_tab(page, "pick")
    page.locator("[data-panel=review]").click()
    page.locator(".hs-reviewer").fill("Ada")
    page.get_by_role("button", name="Which number is on sign 2?").click()
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 2?")
    page.keyboard.press("r")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 0?")
    assert [item.label.status for item in project.items()] == ["proposed", "proposed", "rejected"]


def test_an_edit_is_verified_by_the_built_in_model_in_two_seconds(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    labels.mkdir(exist_ok=True)
    make_project(labels, "quick", 2)
    page = open_page(studio)
    open_label_tab(page, "quick")
    start_review(page)
    drag(page, (1000.0, 1000.0), (2000.0, 1800.0))  # loads the model
    expect(page.locator(".hs-review-badge")).not_to_have_text("verifying…", timeout=60_000)
    took = page.evaluate(
        """async () => {
            const badge = document.querySelector(".hs-review-badge");
            const press = (key) => document.querySelector(".hs-review .hs-canvas")
                .dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            const started = performance.now();
            press("ArrowRight");
            while (badge.textContent === "verifying…") await new Promise((done) => setTimeout(done, 10));
            return performance.now() - started;
        }"""
    )
    # 0.25 s of it is the wait for the next change; the limit leaves a margin for a busy machine.
    assert took < 6000, f"{took:.0f} ms"


def test_projects_and_panel_survive_a_reload(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    labels.mkdir(exist_ok=True)
    make_project(labels, "aaa-first", 1)
    make_project(labels, "zzz-last", 1)
    page = open_page(studio)
    open_label_tab(page, "zzz-last")
    assert "project=zzz-last" in page.url
    page.reload()
    expect(page.locator(".hs-project")).to_have_value("zzz-last")


def test_a_public_page_makes_nothing(
    open_page: Callable[..., Page], serve: Callable[..., str], image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    make_project(tmp_path / "labels", "shown", 1)
    url = serve(None, image_folder, is_open=False, labels_root=tmp_path / "labels")
    page = open_page(url)
    open_label_tab(page, "shown")
    expect(page.locator(".hs-label-closed")).to_be_visible()
    expect(page.locator(".hs-create")).to_be_hidden()
    expect(page.locator(".hs-import-button")).to_be_hidden()


@pytest.mark.parametrize(("size", "theme"), [((1280, 900), "light"), ((1920, 1080), "dark")])
def test_nothing_is_wider_than_the_window(
    open_page: Callable[..., Page], studio: str, labels: Path, size: tuple[int, int], theme: str
) -> None:
    labels.mkdir(exist_ok=True)
    name = f"wide-{theme}"
    make_project(labels, name, 2, "A very long question " * 12 + "{n}?")
    page = open_page(studio, size, theme)
    open_label_tab(page, name)
    for panel in ("import", "propose", "review", "quality", "export"):
        page.locator(f"[data-panel={panel}]").click()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), panel
    start_review(page)
    assert page.evaluate("document.querySelector('.hs-review').scrollWidth <= window.innerWidth")


def test_two_runs_are_compared(open_page: Callable[..., Page], studio: str, labels: Path, needle: Path) -> None:
    page = open_page(studio)
    create(page, "Compared")
    import_source(page, needle)
    page.locator("[data-panel=propose]").click()
    page.locator(".hs-rollouts").fill("2")
    for model in ("built-in", "built-in-hart"):
        page.locator(".hs-label-model").fill(model)
        page.locator(".hs-item-scope").select_option("open")
        page.locator(".hs-start-run").click()
        expect(page.locator(".hs-label-run-line", has_text=f"{model} ")).to_have_count(0)
        expect(page.locator(".hs-pill-completed")).to_have_count(1 + (model == "built-in-hart"), timeout=RUN_MS)
    page.locator(".hs-compare-start").click()
    expect(page.locator(".hs-label-diff")).to_contain_text("Now correct from crop")
    numbers = page.locator(".hs-label-diff tbody tr").first.locator("td").all_inner_texts()[1:]
    assert sum(int(number) for number in numbers) == 4
