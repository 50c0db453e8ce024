"""The review: one item over the whole window, boxes to edit, keys, undo and redo, two people at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.bulk_accept import accept_all
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import BoxCheck, ItemFilter, Label
from hart_studio.records import Box, Sample
from tests.browser.conftest import open_by_name
from tests.browser.label_projects import (
    SIGN_XYXY,
    WH,
    drag,
    make_project,
    open_label_tab,
    screen_point,
    start_review,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("label_work") / "labels"
    root.mkdir()
    return root


@pytest.fixture(scope="module")
def studio(serve: Callable[..., str], image_folder: Path, labels: Path) -> str:
    return serve(lambda name: open_by_name("scripted"), image_folder, labels_root=labels)


@pytest.fixture
def review(
    open_page: Callable[..., Page], studio: str, labels: Path, request: pytest.FixtureRequest
) -> tuple[Page, Project]:
    name = request.node.name.replace("_", "-")[:50].strip("-")
    project = make_project(labels, name)
    page = open_page(studio)
    open_label_tab(page, name)
    start_review(page)
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 0?")
    return page, project


def labels_of(project: Project) -> list[str]:
    return [item.label.status for item in project.items()]


def badge(page: Page) -> str:
    return page.locator(".hs-review-badge").inner_text()


def box_count(page: Page) -> int:
    return page.locator(".hs-review [data-box]").count()


def test_the_item_shows_evidence_for_and_against_it(review: tuple[Page, Project]) -> None:
    page, _ = review
    assert badge(page) == "crops give a wrong answer"
    expect(page.locator(".hs-review-options .hs-known-answer")).to_have_text("A  five")
    facts = page.locator(".hs-review-facts")
    for text in ("(B) six ✕", "(A) five ✓", "25 %", "1.0 %", "scripted"):
        expect(facts).to_contain_text(text)
    expect(page.locator(".hs-review > header")).to_contain_text("8,192 × 5,460 px")
    expect(page.locator(".hs-review > header")).to_contain_text(
        "crops give a wrong answer, the full image the right one"
    )
    expect(page.locator(".hs-review-crops figcaption")).to_have_text("1 · 800 × 600 px")


SIZES = [(1280, 720), (1440, 900), (1920, 1080), (2560, 1440), (390, 844), (1280, 720)]


@pytest.mark.parametrize("wh", [(3000, 400), (600, 3000)])
def test_the_commands_are_in_sight_at_every_size_and_after_every_change_of_it(
    open_page: Callable[..., Page], studio: str, labels: Path, tmp_path: Path, wh: tuple[int, int]
) -> None:
    name = f"sizes-{wh[0]}"
    Image.new("RGB", wh, "navy").save(tmp_path / "wide.png")
    project = create_project(labels / name, name)
    sample = Sample(
        id="q", image=str(tmp_path / "wide.png"), question="A long question " * 12, choices=("a", "b"), answer="A"
    )
    import_samples(project, LoadedSamples("wide", (sample,)))
    check = BoxCheck(kind="known_answer", rollouts=8, sufficiency=0.5, crops_answer="A", crops_correct=True)
    label = Label(
        revision=1, status="proposed", origin="model", check=check, boxes=(Box.from_xyxy((10, 10, 200, 200)),),
        at=datetime.now(UTC),
    )  # fmt: skip
    with project.database.writing() as connection:
        project.append_label(connection, next(project.items()).id, label)
    page = open_page(studio, SIZES[0])
    open_label_tab(page, name)
    start_review(page)
    expect(page.locator(".hs-review [data-box]")).to_have_count(1)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        while page.evaluate("[innerWidth, innerHeight]") != [width, height]:
            page.wait_for_timeout(20)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        frame = {
            part: page.locator(part).bounding_box()
            for part in (
                ".hs-review .hs-canvas",
                ".hs-review aside",
                ".hs-review-commands",
                "[data-key=A]",
                "[data-key=R]",
            )
        }
        stage, aside, bar = (frame[part] for part in list(frame)[:3])
        assert stage and aside and bar
        assert stage["height"] > height / 4 and stage["width"] > width / 2, (width, stage)
        for above in (stage, aside):
            assert above["y"] + above["height"] <= bar["y"] + 1, (width, above, bar)
        for key in ("[data-key=A]", "[data-key=R]", ".hs-review-commands"):
            box = frame[key]
            assert box and box["width"] > 30, (width, key)
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, (width, key, box)
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, (width, key, box)
        assert page.evaluate("document.querySelector('.hs-review').scrollWidth <= innerWidth")


def test_accepting_without_a_box_asks_first(review: tuple[Page, Project]) -> None:
    page, project = review
    page.keyboard.press("1")
    page.keyboard.press("Delete")
    dialog = page.get_by_role("alertdialog", name="Accept without a box")
    page.keyboard.press("a")
    expect(dialog).to_be_visible()
    for key in ("r", "n", "Escape"):
        page.keyboard.press(key)
    expect(dialog).to_be_hidden()
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 0?")
    assert labels_of(project) == ["proposed"] * 5, "no key decided anything beside the question"
    page.locator(".hs-review-commands [data-key=A]").click()
    expect(dialog).to_be_visible()
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    first = next(project.items()).label
    assert (first.status, first.boxes, first.score) == ("edited", (), None)
    for number in (1, 2):
        page.keyboard.press("1")
        page.keyboard.press("Delete")
        if number == 1:
            page.keyboard.press("a")
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("r")  # rejecting stays one key
        expect(page.locator(".hs-review-question")).to_have_text(f"Which number is on sign {number + 1}?")
    assert labels_of(project)[:3] == ["edited", "edited", "rejected"]


def test_what_chance_explains_is_no_green_badge(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    project = make_project(labels, "chance", 2)
    for item, changes in zip(
        list(project.items()),
        ({"rollouts": 8, "sufficiency": 0.375, "crops_answer": "A", "crops_correct": True, "full_correct": False},
         {"rollouts": 8, "consensus": 0.0, "support": None, "crops_answer": None, "crops_correct": None,
          "cautions": ("no_box",)}),
        strict=True,
    ):  # fmt: skip
        check = item.label.check and item.label.check.model_copy(update=changes)
        changed = {
            "revision": 2,
            "check": check,
            **({} if changes.get("crops_correct") else {"boxes": (), "score": None, "uncalibrated": "images"}),
        }
        with project.database.writing() as connection:
            project.append_label(connection, item.id, item.label.model_copy(update=changed))
    page = open_page(studio)
    open_label_tab(page, "chance")
    start_review(page)
    expect(page.locator(".hs-review > header")).to_contain_text("no rollout predicted a box")
    expect(page.locator(".hs-review-facts")).to_contain_text("Warningsno rollout predicted a box")
    expect(page.locator(".hs-review-facts")).to_contain_text(
        "ScoreUncalibrated: images differ from those of the calibration"
    )
    assert "different places" not in page.locator(".hs-review").inner_text()
    page.keyboard.press("n")
    expect(page.locator(".hs-review-badge")).to_have_class("hs-review-badge hs-badge-weak")
    expect(page.locator(".hs-review-chance li")).to_have_text([
        "Chance level with 3 options: 33 %.",
        "Rollouts correct: 3 of 8, not above chance (p = 0.53 for random guessing).",
    ])  # fmt: skip


def test_a_bulk_accept_is_taken_back_from_the_review(review: tuple[Page, Project]) -> None:
    page, project = review
    accept_all(project, "Ada", ItemFilter(), 5)
    page.keyboard.press("u")
    expect(page.locator(".hs-review-message")).to_have_text("Undone: accept of 5 labels")
    assert labels_of(project) == ["proposed"] * 5


@pytest.mark.core
def test_keys_decide_and_the_next_item_comes(review: tuple[Page, Project]) -> None:
    page, project = review
    for number, key in enumerate("arb"):
        expect(page.locator(".hs-review-question")).to_have_text(f"Which number is on sign {number}?")
        page.keyboard.press(key)
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 3?")
    assert labels_of(project) == ["accepted", "rejected", "bad_question", "proposed", "proposed"]
    page.keyboard.press("s")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 4?")
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".hs-review-facts dd").first).to_have_text("none (boxes edited by a person)")
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Queue empty")
    expect(page.locator(".hs-edited")).to_have_count(0)
    for key in "ARBSN":
        expect(page.locator(f".hs-review-commands [data-key={key}]")).to_be_disabled()
    expect(page.locator(".hs-review-finished button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".hs-review")).to_be_hidden()
    expect(page.locator(".hs-status-list")).to_contain_text("1accepted")
    expect(page.locator(".hs-status-list")).to_contain_text("1edited")


def test_undo_and_redo_across_items_and_after_a_reload(review: tuple[Page, Project], studio: str) -> None:
    page, project = review
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    page.keyboard.press("r")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 2?")
    page.reload()
    page.wait_for_selector(".hs-label")
    open_label_tab(page, project.folder.name)
    start_review(page)
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 2?")
    page.keyboard.press("u")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    expect(page.locator(".hs-review-message")).to_have_text("Undone: reject")
    page.keyboard.press("u")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 0?")
    assert labels_of(project)[:2] == ["proposed", "proposed"]
    page.keyboard.press("u")
    expect(page.locator(".hs-review-message")).to_have_text("Nothing to undo.")
    page.keyboard.press("y")
    expect(page.locator(".hs-review-message")).to_have_text("Redone: accept")
    assert labels_of(project)[:2] == ["accepted", "proposed"]


def test_a_box_is_drawn_exactly_and_verified_before_the_reviewer_moves_on(review: tuple[Page, Project]) -> None:
    page, project = review
    with project.database.writing() as connection:  # images that the built-in model was made for
        connection.execute("UPDATE images SET domain = 'needle'")
    page.keyboard.press("1")
    page.keyboard.press("Delete")
    assert box_count(page) == 0
    start, end = (1024.0, 512.0), (2048.0, 1536.0)
    began = time.monotonic()
    drag(page, start, end)
    expect(page.locator(".hs-review-badge")).to_have_text("crops give the correct answer")
    assert time.monotonic() - began < 20
    expect(page.locator(".hs-review-crops figure")).to_have_count(1)
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    label = next(project.items()).label
    assert (label.status, label.origin, label.reviewer) == ("edited", "human", "Ada")
    assert label.check is not None
    assert label.check.crops_correct is True
    # A screen pixel is about eight of the original's here, so the mouse cannot hit closer; whole pixels are stored.
    unit = 1 / page.evaluate("document.querySelector('.hs-review svg').getScreenCTM().a")
    drawn = label.boxes[0].xyxy
    assert all(edge == int(edge) for edge in drawn)
    assert max(abs(a - b) for a, b in zip(drawn, (*start, *end), strict=True)) <= unit


def test_arrows_move_and_resize_by_single_pixels_of_the_original(review: tuple[Page, Project]) -> None:
    page, project = review
    for key in ("1", "ArrowRight", "Shift+ArrowDown", "Alt+ArrowRight", "Alt+Shift+ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    x_min, y_min, x_max, y_max = SIGN_XYXY
    assert next(project.items()).label.boxes[0].xyxy == (x_min + 1, y_min + 10, x_max + 2, y_max + 0)


def test_a_box_cannot_leave_the_image(review: tuple[Page, Project]) -> None:
    page, project = review
    page.keyboard.press("1")
    middle = (4400.0, 2300.0)
    drag(page, middle, (WH[0] + 3000.0, 2300.0))
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    box = next(project.items()).label.boxes[0]
    assert (box.x_max, box.width, box.height) == (WH[0], 800, 600)


def test_box_changes_are_undone_before_actions(review: tuple[Page, Project]) -> None:
    page, project = review
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    assert box_count(page) == 0
    page.keyboard.press("Control+z")
    assert box_count(page) == 1
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+z")
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    label = next(project.items()).label
    assert (label.status, label.boxes[0].xyxy) == ("accepted", SIGN_XYXY), "as it was: that is no edit"


def test_edges_are_dragged_at_high_zoom_without_losing_a_pixel(review: tuple[Page, Project]) -> None:
    page, project = review
    page.keyboard.press("e")
    for _ in range(6):
        page.keyboard.press("+")
    page.locator(".hs-review .hs-canvas").focus()
    x_min, y_min, x_max, y_max = SIGN_XYXY
    handle = page.locator(".hs-review [data-handle=w]").bounding_box()
    if handle is None or handle["x"] < 0:  # zoomed past the edge: go there
        page.keyboard.press("g")
    drag(page, (x_min, (y_min + y_max) / 2), (x_min - 37, (y_min + y_max) / 2))
    page.keyboard.press("a")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    box = next(project.items()).label.boxes[0]
    assert (box.y_min, box.x_max, box.y_max) == (y_min, x_max, y_max)
    unit = 1 / 0.2  # zoomed in by at least the fitted view's fifth
    assert abs(box.x_min - (x_min - 37)) <= unit


def test_two_people_get_different_items_and_do_not_overwrite(
    review: tuple[Page, Project], open_page: Callable[..., Page], studio: str
) -> None:
    page, project = review
    other = open_page(studio)
    open_label_tab(other, project.folder.name)
    start_review(other, "Bo")
    expect(other.locator(".hs-review-question")).to_have_text("Which number is on sign 1?")
    page.keyboard.press("n")
    expect(page.locator(".hs-review-question")).to_have_text("Which number is on sign 2?")
    other.keyboard.press("a")
    expect(other.locator(".hs-review-question")).to_have_text("Which number is on sign 0?")
    assert [item.label.reviewer for item in project.items()][:2] == ["", "Bo"]


def test_a_label_that_changed_meanwhile_is_not_overwritten(review: tuple[Page, Project]) -> None:
    page, project = review
    item = next(project.items())
    newer = item.label.model_copy(update={"revision": 2, "status": "rejected", "reviewer": "Bo"})
    with project.database.writing() as connection:
        project.append_label(connection, item.id, newer)
    page.keyboard.press("a")
    expect(page.locator(".hs-review-message")).to_contain_text("Bo has changed this label")
    assert next(project.items()).label.status == "rejected"


def test_the_keys_are_listed_and_the_focus_stays_inside(review: tuple[Page, Project]) -> None:
    page, _ = review
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_hidden()
    for _ in range(14):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('.hs-review') !== null")


def test_text_of_a_question_is_never_markup(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">${{document.title='owned'}}"
    make_project(labels, "hostile", 1, evil)
    page = open_page(studio)
    open_label_tab(page, "hostile")
    start_review(page)
    expect(page.locator(".hs-review-question")).to_contain_text("<img src=x")
    assert page.title() != "owned"


def test_a_image_that_is_missing_is_reported_and_the_next_item_can_be_reached(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    project = make_project(labels, "gone", 2)
    Path(next(project.items()).image.path).unlink()
    page = open_page(studio)
    open_label_tab(page, "gone")
    start_review(page)
    expect(page.locator(".hs-review-message")).to_contain_text("no file of that name")
    expect(page.locator(".hs-review-message")).to_contain_text("The item is kept")


def test_a_point_of_the_original_is_where_the_screen_shows_it(review: tuple[Page, Project]) -> None:
    page, _ = review
    x, y = screen_point(page, SIGN_XYXY[0], SIGN_XYXY[1])
    shot = page.screenshot(clip={"x": x - 12, "y": y - 12, "width": 24, "height": 24})
    assert shot
    frame = page.locator(".hs-review [data-box='0']").bounding_box()
    assert frame is not None
    assert abs(frame["x"] - x) <= 3 and abs(frame["y"] - y) <= 3


def test_the_next_item_undecided_goes_through_the_queue_and_round(review: tuple[Page, Project]) -> None:
    page, project = review
    for number in (1, 2, 3, 4, 0, 1):
        page.keyboard.press("n")
        expect(page.locator(".hs-review-question")).to_have_text(f"Which number is on sign {number}?")
    assert project.count_by("status") == {"proposed": 5}


def test_what_a_model_says_stands_in_quotation_marks(
    open_page: Callable[..., Page], studio: str, labels: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 48), "navy").save(tmp_path / "way.png")
    project = create_project(labels / "quotes", "quotes")
    sample = Sample(id="q", image=str(tmp_path / "way.png"), question="Left or right?", answer="left")
    import_samples(project, LoadedSamples("ways", (sample,)))
    check = BoxCheck(kind="known_answer", rollouts=2, crops_answer="right", crops_correct=False, full_answer="left")
    label = Label(revision=1, status="proposed", origin="model", check=check, at=datetime.now(UTC))
    with project.database.writing() as connection:
        project.append_label(connection, next(project.items()).id, label)
    page = open_page(studio)
    open_label_tab(page, "quotes")
    start_review(page)
    expect(page.locator(".hs-review-facts")).to_contain_text("Crops alone“right” ✕")
