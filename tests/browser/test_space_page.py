"""The page of a Space in a browser: a tab's project is its own, survives a reload, and no one else's tab has it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from hart_studio.ui.api import labels as labels_module
from tests.browser.conftest import PATIENCE_MS, open_by_name
from tests.evaluations import draw_image, make_records, write_evaluation
from tests.space_sessions import sleep_instead
from tests.spaces import OWNER, Space, serve_space, sign_in

pytestmark = pytest.mark.browser

WELL_KNOWN = re.compile(r"^https://(fonts\.googleapis\.com|huggingface\.co)/")
"""Requests of gradio's own page on a Space; the content policy blocks them, and this machine has no such hosts."""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Iterator[Space]:
    with serve_space(tmp_path_factory.mktemp("space"), open_by_name, image_folder) as served:
        served.launcher.queue.close()
        yield served


@pytest.fixture
def open_tab(browser: Browser, space: Space) -> Iterator[Callable[..., Page]]:
    """``open_tab()``: the Label tab for Too many visitors; with ``sign_in(name)``, as that person sees it."""
    contexts = []

    def load(session: dict[str, str] | None = None) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        if session is not None:
            name, _, value = session["cookie"].partition("=")
            context.add_cookies([{"name": name, "value": value, "url": space.url}])
        context.route(WELL_KNOWN, lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.clock.install()
        page.goto(space.url)
        page.wait_for_selector("#ask-button")
        page.get_by_role("tab", name="Label", exact=True).click()
        return page

    yield load
    for context in contexts:
        context.close()


def test_a_tab_has_projects_of_its_own(
    open_tab: Callable[..., Page], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_tab(), open_tab()
    expect(first.locator(".hs-session-note")).to_contain_text("private to this browser tab")
    expect(first.locator(".hs-source")).to_be_hidden()
    expect(first.locator(".hs-train-on")).to_be_hidden()
    for page, name in ((first, "Signs of mine"), (second, "Others")):
        page.locator(".hs-new-name").fill(name)
        page.locator(".hs-create").click()
        expect(page.locator(".hs-project option")).to_have_text([f"{name} (0)"])

    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(image_folder / "street.png", "street.png")
    first.locator(".hs-file").set_input_files(tmp_path / "images.zip")
    first.locator(".hs-question").fill("Which number is on the sign?")
    first.locator(".hs-import-button").click()
    expect(first.locator(".hs-import-message")).to_contain_text("1 added")

    monkeypatch.setattr(labels_module, "start_run", sleep_instead)
    # On a panel that is not open. The built-in model is not suggested for photographs, and asks before it starts.
    first.locator(".hs-label-model").evaluate(
        "(field) => { field.value = 'built-in-hart'; field.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    first.once("dialog", lambda dialog: dialog.accept())
    first.locator(".hs-start-run").evaluate("button => button.click()")
    run = first.locator(".hs-label-run")
    expect(run.locator("button")).to_have_text(["Stop"])  # a visitor cannot let the only run wait
    expect(first.locator(".hs-keep-image-paths-field")).to_have_css("display", "none")

    first.reload()
    first.wait_for_selector("#ask-button", state="attached")  # the page comes back on the Label tab
    expect(first.locator(".hs-project option")).to_have_text(["Signs of mine (1)"])
    second.goto(first.url)  # with the name of the project in the address, but without the session token
    second.wait_for_selector("#ask-button", state="attached")
    expect(second.locator(".hs-project option")).to_have_text(["Others (0)"])


def test_a_page_in_a_background_tab_keeps_its_session(open_tab: Callable[..., Page]) -> None:
    page = open_tab()
    page.locator(".hs-new-name").fill("Signs of mine")
    page.locator(".hs-create").click()
    expect(page.locator(".hs-project option")).to_have_text(["Signs of mine (0)"])
    page.get_by_role("tab", name="Ask", exact=True).click()
    expect(page.locator(".hs-label")).to_be_hidden()
    page.wait_for_timeout(2000)  # a poll that was on its way
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if '"poll"' in (request.post_data or "") else None)
    page.wait_for_timeout(4000)
    assert not requests, "not every second or two while no one sees it"
    with page.expect_request(lambda request: '"poll"' in (request.post_data or "")):
        page.clock.fast_forward(61_000)


def test_visitors_see_that_runs_belong_to_the_owner(open_tab: Callable[..., Page]) -> None:
    page = open_tab()
    expect(page.locator("#space-login")).to_be_visible()
    expect(page.locator("#space-duplicate")).to_be_visible()
    page.get_by_role("tab", name="Watch", exact=True).click()
    expect(page.locator(".hs-no-run")).to_contain_text("Only the owner of this Space")
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#train-start").click()
    expect(page.locator("#train-report")).to_contain_text("Only the owner of this Space")


def test_the_owners_evaluations_and_those_of_the_examples_have_a_choice_and_a_view_each(
    open_tab: Callable[..., Page], space: Space, tmp_path: Path
) -> None:
    image = draw_image(tmp_path / "sign.png")
    names = {
        space.launcher.runs_root: ("Mine", "Mine too"),
        space.services.examples.api.launch.runs_root: ("One", "Two"),
    }
    for root, titles in names.items():
        for title in titles:
            write_evaluation(root, make_records(image), title=title)
    page = open_tab(sign_in(OWNER))
    page.get_by_role("tab", name="Evaluate", exact=True).click()
    examples, owners = page.locator("#evaluate-page"), page.locator("#evaluate-owner-page")

    def expect_choices() -> None:
        for place, titles, view in ((examples, ("One", "Two"), "Tables"), (owners, ("Mine", "Mine too"), "Figures")):
            for title in titles:
                expect(place.get_by_label(f"Show {title}", exact=True)).to_be_checked()
            expect(place.get_by_role("tab", name=view)).to_have_attribute("aria-selected", "true")

    page.get_by_text("Owner evaluations").click()
    owners.get_by_role("tab", name="Figures").click()
    for place, titles in ((owners, ("Mine", "Mine too")), (examples, ("One", "Two"))):
        for title in titles:
            place.get_by_label(f"Show {title}", exact=True).check()
    expect_choices()
    page.reload()
    page.get_by_text("Owner evaluations").click()
    expect_choices()
