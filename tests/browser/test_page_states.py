"""What the pages must not mix up, lose or do unasked: late answers, other visitors' files, keys, focus, long logs."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import list_runs
from hart_studio.runs.writer import create_run
from hart_studio.ui.api import launch as launch_module
from tests.browser.conftest import PATIENCE_MS
from tests.browser.run_pages import end_runs, fill_form, find_layout, open_tab, start, state_is, write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that have printed something."""
    root = tmp_path_factory.mktemp("states")
    for name in ("early", "late"):
        layout = write_run(root, name, steps=range(1, 4))
        layout.log_of(1).write_text(f"log of {name}\n" + f"{name} continues\n" * (3 if name == "early" else 9))
    return root


@pytest.fixture(scope="module")
def shelf_url(serve: Callable[..., str], image_folder: Path, shelf: Path) -> str:
    return serve(None, image_folder, shelf)


def choose(page: Page, name: str) -> None:
    page.select_option(".hs-run-picker", page.locator(".hs-run-picker option", has_text=name).get_attribute("value"))


def watch(page: Page, name: str) -> None:
    open_tab(page, "Watch")
    page.wait_for_selector(".hs-rollout")
    choose(page, name)
    expect(page.locator(".hs-run-title")).to_have_text(name)
    expect(page.locator(".hs-log pre")).not_to_be_empty()


def hold_first(page: Page, function: str, run: str) -> list[Route]:
    """The first call of a function about a run waits here until someone lets it go."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        asked = route.request.post_data or ""
        if not held and f'"{function}"' in asked and run in asked:
            held.append(route)
        else:
            route.continue_()

    page.route(re.compile("component_server"), hold)
    return held


def wait_until_held(page: Page, held: list[Route]) -> None:
    for _ in range(100):
        if held:
            break
        page.wait_for_timeout(100)


def test_an_answer_about_the_run_before_is_dropped(open_page: OpenPage, shelf_url: str, shelf: Path) -> None:
    late = find_layout(shelf, "late").run_id
    page = open_page(shelf_url)
    watch(page, "early")
    held = hold_first(page, "poll", late)
    choose(page, "late")
    wait_until_held(page, held)
    choose(page, "early")
    held[0].continue_()
    page.wait_for_timeout(2500)
    expect(page.locator(".hs-run-title")).to_have_text("early")
    expect(page.locator(".hs-step")).to_have_text("step 3")
    assert page.locator(".hs-log pre").text_content() == "log of early\n" + "early continues\n" * 3


def test_rollouts_of_the_run_before_are_dropped(open_page: OpenPage, shelf_url: str, shelf: Path) -> None:
    """Chosen while the rollouts of another are on their way, a run without any shows none."""
    new = create_run(shelf, "training", RunConfig.model_validate({"name": "unborn"}), "ap_grpo", total=4)
    try:
        page = open_page(shelf_url)
        open_tab(page, "Watch")
        choose(page, "early")
        expect(page.locator(".hs-rollout").first).to_be_visible()
        held = hold_first(page, "rollouts", find_layout(shelf, "late").run_id)
        choose(page, "late")
        wait_until_held(page, held)
        choose(page, "unborn")
        expect(page.locator(".hs-rollout-viewer-empty")).to_contain_text("No rollouts yet")
        held[0].continue_()
        page.wait_for_timeout(1500)
        expect(page.locator(".hs-rollout-viewer-empty")).to_contain_text("No rollouts yet")
        expect(page.locator(".hs-rollout")).to_have_count(0)
    finally:
        shutil.rmtree(new.folder)


def test_a_progress_bar_writes_over_itself_between_polls(open_page: OpenPage, shelf_url: str, shelf: Path) -> None:
    layout = write_run(shelf, "bar")
    log = layout.log_of(1)
    log.write_text("loading\n 10%\r 20%")
    page = open_page(shelf_url)
    watch(page, "bar")
    text = page.locator(".hs-log pre")
    expect(text).to_have_text("loading\n 20%", use_inner_text=False)
    append(layout, "\r 30%")
    expect(text).to_contain_text(" 30%")
    append(layout, "\r 40%\r")
    append(layout, " 50%\ndone\n")
    expect(text).to_contain_text("done")
    assert text.text_content() == "loading\n 50%\ndone\n"


def append(layout: RunLayout, text: str) -> None:
    with layout.log_of(1).open("a") as file:
        file.write(text)


def test_the_shortcut_asks_only_where_the_question_is_seen(open_page: OpenPage, studio: str) -> None:
    page = open_page(studio)
    page.click(".hs-example >> nth=0")
    page.wait_for_selector("#result-a .hs-viewer:not(.hs-is-empty)")
    open_tab(page, "Train")
    page.locator("#set-name input, #set-name textarea").focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(1500)
    open_tab(page, "Ask")
    assert page.locator("#result-a .hs-card").count() == 0
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result-a .hs-card")


def test_a_browser_that_stores_nothing_shows_the_page_all_the_same(browser: Browser, studio: str) -> None:
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    page = context.new_page()
    page.goto(f"{studio}?tab=runs")
    expect(page.get_by_role("tab", name="Runs", exact=True)).to_have_attribute("aria-selected", "true")
    page.click("#theme-button")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    context.close()


def test_saved_settings_are_those_of_this_page(open_page: OpenPage, shelf_url: str, tmp_path: Path) -> None:
    mine, other = open_page(shelf_url), open_page(shelf_url)
    open_tab(mine, "Train")
    assert save(mine)["name"] == "", "the preset, before anything is changed"
    for page, name in ((mine, "mine"), (other, "theirs")):
        fill_form(page, tmp_path, name)
        expect(page.locator("#train-command textarea")).to_have_value(re.compile(f"name={name}"))
    assert save(mine)["name"] == "mine"


def save(page: Page) -> dict[str, object]:
    with page.expect_download() as download:
        page.click("#train-save")
    found: dict[str, object] = json.loads(Path(download.value.path()).read_text())
    return found


STAND_IN = """
import json, sys, time
if "--preflight" in sys.argv:
    print(json.dumps(dict(topic="Settings", state="good", text="fine", advice="")))
else:
    time.sleep(600)
"""


def test_a_job_that_does_not_heed_a_stop_is_ended_when_it_is_asked_again(
    open_page: OpenPage,
    serve: Callable[..., str],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "hung_training.py").write_text(STAND_IN)  # a real job heeds its stop file
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launch_module, "TRAINING_MODULE", "hung_training")
    page = open_page(serve(None, image_folder, tmp_path / "runs"))
    try:
        start(page, tmp_path, "hung")
        deadline = time.monotonic() + 60
        while not any(run.status and run.status.pid for run in list_runs(tmp_path / "runs")):
            assert time.monotonic() < deadline, "the run was not started"
            page.wait_for_timeout(50)  # a run that still waits would stop at once
        page.get_by_role("button", name="Stop and save").click()
        state_is(page, "stopping")
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Force stop").click()
        state_is(page, "stopped")
    finally:
        end_runs(tmp_path / "runs")


def test_keys_of_the_browser_are_left_to_it(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    watch(page, "early")
    for place in (".hs-rollout", ".hs-chart svg"):
        for held in ("altKey", "metaKey", "ctrlKey"):
            assert page.locator(place).first.evaluate(
                """(node, held) => node.dispatchEvent(
                  new KeyboardEvent("keydown", { key: "ArrowLeft", [held]: true, bubbles: true, cancelable: true }))""",
                held,
            ), f"{held} + arrow belongs to the browser on {place}"
    expect(page.locator(".hs-step")).to_have_text("step 3")


def test_focus_stays_where_it_is_when_something_is_redrawn(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    watch(page, "early")
    page.locator(".hs-chart svg").first.focus()
    page.keyboard.press("ArrowLeft")
    value = page.locator(".hs-chart output").first.text_content()
    assert value and value.startswith("step 3")
    page.locator(".hs-smoothing").evaluate("(node) => node.dispatchEvent(new Event('input'))")
    assert page.evaluate("document.activeElement.tagName") == "svg"
    assert page.locator(".hs-chart output").first.text_content() == value
    open_tab(page, "Runs")
    head = page.locator(".hs-runs thead button", has_text="Reward")
    head.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".hs-runs th[aria-sort]")).to_have_text("Rewardmean of last 10 steps")
    assert page.evaluate("document.activeElement.textContent") == "Reward"


def test_the_message_of_a_run_goes_with_it(open_page: OpenPage, shelf_url: str, shelf: Path) -> None:
    write_run(shelf, "short").log_of(1).write_text("log of short\n")
    page = open_page(shelf_url)
    watch(page, "short")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".hs-run-message")).to_have_text("Deleted.")
    choose(page, "early")
    expect(page.locator(".hs-run-message")).to_be_empty()


def test_a_busy_server_is_asked_again_and_its_words_are_shown_in_the_end(open_page: OpenPage, studio: str) -> None:
    page = open_page(studio)
    open_tab(page, "Label")
    asked: list[str] = []

    def refuse(route: Route) -> None:
        if '"create"' not in (route.request.post_data or ""):
            route.continue_()
            return
        asked.append(route.request.url)
        detail = json.dumps({"detail": "Too many requests from this browser or network. Try again in a moment."})
        headers = {"retry-after": "0.1", "content-type": "application/json"}
        route.fulfill(status=429, headers=headers, body=detail)

    page.route(re.compile("component_server"), refuse)
    page.locator(".hs-new-name").fill("Busy")
    page.locator(".hs-create").click()
    expect(page.locator(".hs-label-message")).to_have_text(
        "Too many requests from this browser or network. Try again in a moment."
    )
    assert len(asked) == 3
    page.unroute(re.compile("component_server"))
