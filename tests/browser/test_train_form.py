"""The Train form: presets set their data, and the start button agrees with the reason that is shown."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hart_studio.runs.reader import list_runs
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from tests.browser.conftest import PATIENCE_MS
from tests.browser.run_pages import fill_form, open_tab

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
OpenPage = Callable[..., Page]
FINDING = {"topic": "Memory", "state": "good", "text": "enough", "advice": ""}
NEEDS_DATA = "This preset needs your own dataset: data/MME-RealWorld does not exist. Choose a dataset under Data."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def url(serve: Callable[..., str], image_folder: Path, root: Path) -> str:
    return serve(None, image_folder, root)


def choose_preset(page: Page, title: str) -> None:
    page.click("#train-preset input")
    page.get_by_role("option", name=title, exact=True).click()


def test_a_preset_brings_its_data_and_start_waits_for_what_is_missing(
    open_page: OpenPage, url: str, root: Path, tmp_path: Path
) -> None:
    page = open_page(url)
    open_tab(page, "Train")
    start, problem, notes = page.locator("#train-start"), page.locator(".hs-finding-bad"), page.locator(".hs-findings")
    needles = page.locator("#set-data-needle-samples input")
    page.locator("#train-form button.label-wrap", has_text="Data").click()
    needles.fill("2000")
    page.keyboard.press("Tab")
    expect(page.locator(".hs-facts")).to_contain_text("needle scenes, 2,000 generated for the run")
    page.click("#train-preview")
    expect(page.locator(".hs-sample img").first).to_be_visible()
    page.locator("#train-form button.label-wrap", has_text="Data").click()
    expect(needles).to_be_hidden()

    choose_preset(page, "Qwen2.5-VL-3B, LoRA")
    expect(problem).to_have_text(f"✕Data{NEEDS_DATA}")
    expect(start).to_be_disabled()
    expect(page.locator(".hs-facts")).to_contain_text("MME-RealWorld folder: data/MME-RealWorld")
    expect(page.locator(".hs-facts")).to_contain_text("10,000 RL, all other samples for SFT, 200 held out")
    expect(notes).to_contain_text("Replaced by the preset: “Needle samples”.")
    expect(page.locator("#set-data-path input, #set-data-path textarea")).to_be_visible()  # the group has opened
    expect(needles).to_be_hidden()
    expect(page.locator(".hs-sample").first).to_be_hidden()

    own = tmp_path / "own.jsonl"
    own.write_text("{}\n")
    page.locator("#set-data-path input, #set-data-path textarea").fill(str(own))
    page.keyboard.press("Tab")
    expect(problem).to_have_count(0)
    expect(start).to_be_enabled()

    choose_preset(page, "InternVL3-8B, LoRA")
    expect(notes).to_contain_text(f"Kept: your dataset {own} with its sample counts.")
    expect(start).to_be_enabled()
    choose_preset(page, "CPU demo, 10 minutes")
    expect(notes).to_contain_text(f"Your dataset {own} is not used")
    expect(page.locator(".hs-facts")).to_contain_text("needle scenes, 1,000 generated for the run")
    expect(needles).to_have_value("1000")
    expect(start).to_be_enabled()
    choose_preset(page, "Qwen2.5-VL-3B, LoRA")
    expect(problem).to_contain_text(NEEDS_DATA)
    expect(start).to_be_disabled()
    assert list_runs(root) == []


def test_settings_from_a_file_leave_no_preset_chosen_and_a_preset_no_file(
    open_page: OpenPage, url: str, tmp_path: Path
) -> None:
    page = open_page(url)
    fill_form(page, tmp_path, "from a file")
    expect(page.locator("#train-preset input")).to_have_value("")
    choose_preset(page, "CPU demo, 10 minutes")
    expect(page.locator("#set-name input, #set-name textarea")).to_have_value("")
    expect(page.locator("#train-form input[type=file]")).to_be_attached()  # the field is empty again
    expect(page.locator("#train-command textarea")).to_have_value(re.compile(r"--preset cpu-demo --runs-root"))


def test_a_check_of_settings_that_have_changed_is_dropped(
    open_page: OpenPage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def check(launcher: RunLauncher, launch_request: LaunchRequest) -> Iterator[dict[str, str]]:
        yield {**FINDING, "text": "of the old settings"}
        goes_on.wait(30)
        yield {**FINDING, "text": "of the old settings, too"}

    monkeypatch.setattr(RunLauncher, "check", check)
    page = open_page(url)
    open_tab(page, "Train")
    report, start = page.locator(".hs-report"), page.locator("#train-start")
    page.click("#train-check")
    try:
        expect(report).to_contain_text("of the old settings")
        expect(start).to_be_disabled()
        page.fill("#set-rollout-group-size input", "1")
        page.keyboard.press("Tab")
        expect(page.locator(".hs-finding-bad")).to_contain_text("Group size G")
        expect(start).to_be_disabled()
        expect(start).to_have_text("Start training")
    finally:
        goes_on.set()
    page.wait_for_timeout(1500)
    expect(report).not_to_contain_text("of the old settings")
    expect(report).not_to_contain_text("Ready to start")
    expect(start).to_be_disabled()
    page.fill("#set-rollout-group-size input", "8")
    page.keyboard.press("Tab")
    expect(start).to_be_enabled()


def test_start_is_off_after_a_check_that_failed_until_something_changes(
    open_page: OpenPage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RunLauncher, "check", lambda launcher, launch_request: iter([{**FINDING, "state": "bad", "text": "little"}])
    )
    page = open_page(url)
    open_tab(page, "Train")
    start = page.locator("#train-start")
    page.click("#train-check")
    expect(page.locator(".hs-outcome-bad")).to_contain_text("Preflight failed")
    expect(start).to_be_disabled()
    monkeypatch.setattr(RunLauncher, "check", lambda launcher, launch_request: iter([FINDING]))
    page.click("#train-check")
    expect(page.locator(".hs-outcome")).to_have_text("Ready to start.")
    expect(start).to_be_enabled()
