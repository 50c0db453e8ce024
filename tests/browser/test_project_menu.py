"""The project menu of the Label page: rename, duplicate, archive, delete, restore."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.project_locks import hold_run_lock
from tests.browser.label_projects import make_project, open_label_tab, start_review
from tests.fakes import ScriptedModel

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project_menu") / "labels"


@pytest.fixture(scope="module")
def studio(serve: Callable[..., str], image_folder: Path, labels: Path) -> str:
    return serve(lambda name: ScriptedModel(), image_folder, labels_root=labels)


def choose(page: Page, entry: str) -> None:
    page.locator(".hs-menu-button").click()
    page.get_by_role("menu", name="Project menu").get_by_text(entry, exact=True).click()


def answer(page: Page, text: str) -> None:
    page.locator(".hs-project-dialog input").fill(text)
    page.locator(".hs-project-dialog [type=submit]").click()


def test_rename_duplicate_archive_delete_and_restore(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    make_project(labels, "signs", 3)
    create_project(labels / "other", "Other")
    page = open_page(studio)
    open_label_tab(page, "signs")
    listed = page.locator(".hs-project")

    choose(page, "Rename…")
    answer(page, "other")
    expect(page.locator(".hs-dialog-message")).to_contain_text("already exists")
    answer(page, "Street signs")
    expect(listed).to_contain_text("Street signs (3)")
    assert Project(labels / "signs").name == "Street signs"

    choose(page, "Duplicate…")
    answer(page, "Second")
    expect(page.locator(".hs-label-message")).to_contain_text("“Street signs” copied to “Second”")
    expect(listed).to_have_value("second")
    expect(page.locator(".hs-status-list")).to_contain_text("3waiting for review")

    choose(page, "Archive")
    expect(page.locator(".hs-label-message")).to_contain_text("archived.")
    expect(listed).not_to_contain_text("Second")
    choose(page, "Show archived")
    expect(listed).to_contain_text("Second (3) · archived")
    listed.select_option("second")
    choose(page, "Unarchive")
    expect(page.locator(".hs-label-message")).to_contain_text("unarchived")
    choose(page, "Show archived")

    choose(page, "Delete…")
    expect(page.locator(".hs-project-dialog [type=submit]")).to_be_disabled()
    page.locator(".hs-project-dialog input").fill("secon")
    expect(page.locator(".hs-project-dialog [type=submit]")).to_be_disabled()
    answer(page, "Second")
    expect(page.locator(".hs-label-message")).to_contain_text("moved to the trash")
    expect(listed).not_to_contain_text("Second")
    assert not (labels / "second").exists()

    choose(page, "Trash…")
    page.get_by_role("button", name="Restore Second").click()
    expect(listed).to_have_value("second")
    expect(page.locator(".hs-label-message")).to_contain_text("restored")
    assert Project(labels / "second").count() == 3


def test_a_project_at_work_says_which_run_is_in_the_way(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    project = make_project(labels, "busy", 2)
    page = open_page(studio)
    open_label_tab(page, "busy")
    with hold_run_lock(project, "20260101-000000-labeling-abcdef"):
        choose(page, "Delete…")
        answer(page, "busy")
        expect(page.locator(".hs-dialog-message")).to_contain_text(
            "Labeling run 20260101-000000-labeling-abcdef (process"
        )
        page.keyboard.press("Escape")
    expect(page.locator(".hs-project-dialog")).to_be_hidden()
    assert project.count() == 2


def test_a_decision_in_a_project_that_was_removed_is_not_shown_as_saved(
    open_page: Callable[..., Page], studio: str, labels: Path, tmp_path: Path
) -> None:
    project = make_project(labels, "removed", 3)
    page = open_page(studio)
    open_label_tab(page, "removed")
    start_review(page)
    expect(page.locator(".hs-review-crops img")).to_have_count(1, timeout=30_000)
    expect(page.locator(".hs-review.hs-busy")).to_have_count(0, timeout=30_000)
    project.folder.rename(tmp_path / "taken")
    page.get_by_role("button", name="Accept A", exact=True).click()
    expect(page.locator(".hs-review-message")).to_contain_text("No project 'removed'", timeout=30_000)
    assert Project(tmp_path / "taken").count_by("status") == {"proposed": 3}


def test_a_project_that_cannot_be_opened_is_listed_and_says_why(
    open_page: Callable[..., Page], studio: str, labels: Path
) -> None:
    project = create_project(labels / "broken", "Broken")
    CONNECTION_POOL.close_idle(project.folder)
    (project.folder / DATABASE).write_bytes(b"no database" * 100)
    page = open_page(studio)
    page.get_by_role("tab", name="Label", exact=True).click()
    expect(page.locator(".hs-project")).to_contain_text("broken (cannot be opened)")
    page.locator(".hs-project").select_option("broken")
    expect(page.locator(".hs-label-message")).to_contain_text("is no labeling project, or damaged")
    expect(page.locator(".hs-label-body")).to_be_hidden()
    page.locator(".hs-menu-button").click()
    expect(page.get_by_role("menuitem", name="Rename…")).to_be_disabled()
    shutil.rmtree(project.folder)


def test_the_menu_works_by_keyboard_alone(open_page: Callable[..., Page], studio: str, labels: Path) -> None:
    make_project(labels, "keys", 1)
    page = open_page(studio)
    open_label_tab(page, "keys")
    page.locator(".hs-menu-button").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Rename…")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("menuitem", name="Trash…")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu", name="Project menu")).to_be_hidden()
    expect(page.locator(".hs-menu-button")).to_be_focused()
