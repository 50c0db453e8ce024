"""Train, Watch and Runs in a browser, with runs that someone else has made."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest
from playwright.sync_api import Page, Route, expect

from hart_studio.runs.config import RunConfig
from hart_studio.runs.reader import list_runs
from hart_studio.runs.status import read_status, write_status
from hart_studio.runs.writer import KILLED_ON_REQUEST, RunWriter, create_run
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from tests.browser.conftest import PATIENCE_MS
from tests.browser.run_pages import (
    BOX_XYXY,
    PROVENANCE,
    RUN_MS,
    fill_form,
    open_tab,
    state_is,
    write_run,
)
from tests.fake_hub import FakeHub

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
OpenPage = Callable[..., Page]

SHOWN_BY_CHAIN = ("schedule-rl-steps", "schedule-sft-steps", "method-preference-scale")
"""Fields of a setting used by RL stages, one used by SFT, and one used by AP-GRPO only."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of someone else: an ordinary one, one like it with another k, and one full of hostile text."""
    root = tmp_path_factory.mktemp("shelf")
    write_run(root, "plain", steps=range(1, 6))
    write_run(root, "other", steps=range(1, 6), method={"preference_scale": 0.3})
    evil = (
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>${document.title='owned'}"
    )
    layout = write_run(root, "evil", text=evil, question=evil)
    with layout.log_of(1).open("w") as file:
        file.write(evil)
    return root


@pytest.fixture(scope="module")
def shelf_url(serve: Callable[..., str], image_folder: Path, shelf: Path) -> str:
    return serve(None, image_folder, shelf)


def watch(page: Page, name: str) -> None:
    open_tab(page, "Watch")
    value = page.locator(".hs-run-picker option", has_text=name).first.get_attribute("value")
    page.select_option(".hs-run-picker", value)
    expect(page.locator(".hs-run-title")).to_have_text(name)
    page.wait_for_selector(".hs-rollout")


@pytest.mark.core
def test_boxes_land_on_the_right_pixels_and_move_from_step_to_step(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    watch(page, "plain")
    box = """() => {
      const rect = document.querySelector('.hs-boxes rect');
      const image = document.querySelector('.hs-rollout-viewer-image image').getBoundingClientRect();
      const [seen, scale] = [rect.getBBox(), image.width / 1000];
      const shown = rect.getBoundingClientRect();
      return [seen.x, seen.y, seen.x + seen.width, seen.y + seen.height, (shown.left - image.left) / scale];
    }"""
    page.wait_for_timeout(700)  # boxes glide
    left, top, right, bottom = BOX_XYXY
    expect(page.locator(".hs-step")).to_have_text("step 5")
    *seen, on_screen = page.evaluate(box)
    assert seen == pytest.approx([left + 5, top, right + 5, bottom])
    assert on_screen == pytest.approx(left + 5, abs=6)
    page.get_by_role("button", name="Earlier step").click()
    expect(page.locator(".hs-step")).to_have_text("step 4")
    page.wait_for_timeout(700)
    assert page.evaluate(box)[0] == pytest.approx(left + 4)
    page.locator(".hs-rollout").first.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".hs-step")).to_have_text("step 3")


def test_a_question_is_followed_and_rollouts_are_filtered(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    watch(page, "plain")
    expect(page.locator(".hs-rollout")).to_have_count(2)
    page.select_option("select[aria-label='Filter']", "wrong")
    expect(page.locator(".hs-rollout")).to_have_count(1)
    expect(page.locator(".hs-verdict")).to_have_text("wrong")
    page.select_option("select[aria-label='Filter']", "all")
    page.select_option("select[aria-label='Rollout source']", "held-out")
    expect(page.locator(".hs-step")).to_have_text("step 5, held-out")
    page.get_by_role("button", name="Track question").click()
    expect(page.locator(".hs-step")).to_have_text("step 5, held-out · 2 records")
    page.get_by_role("button", name="Earlier step").click()
    expect(page.locator(".hs-step")).to_contain_text("step 0, held-out")


def test_a_question_of_a_step_that_still_loads_is_followed(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    watch(page, "plain")
    expect(page.locator(".hs-rollout")).to_have_count(2)
    held: list[Route] = []

    def hold(route: Route) -> None:
        is_wanted = not held and '"rollouts"' in (route.request.post_data or "")
        held.append(route) if is_wanted else route.continue_()

    page.route(re.compile("component_server"), hold)
    page.select_option("select[aria-label='Rollout source']", "held-out")
    expect(page.locator(".hs-step")).to_have_text("step 5, held-out")
    page.get_by_role("button", name="Track question").click()
    page.wait_for_timeout(1500)
    assert len(held) == 1
    expect(page.locator(".hs-step")).to_have_text("step 5, held-out")  # nothing is followed yet
    held[0].continue_()
    expect(page.locator(".hs-step")).to_have_text("step 5, held-out · 2 records")


def test_text_of_a_model_never_becomes_markup(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    watch(page, "evil")
    expect(page.locator(".hs-answer-text").first).to_contain_text("<script>")
    page.locator(".hs-log summary").click()
    expect(page.locator(".hs-log pre")).to_contain_text("<script>")
    assert page.locator(".hs-run script, .hs-run img[src='x']").count() == 0
    assert page.title() == "HART Studio"


@pytest.mark.core
def test_runs_are_searched_and_compared(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    open_tab(page, "Runs")
    expect(page.locator(".hs-runs tbody tr")).to_have_count(3)
    page.fill(".hs-runs-search", "plain")
    expect(page.locator(".hs-runs tbody tr")).to_have_count(1)
    expect(page.locator(".hs-runs tbody tr")).to_contain_text("25.0 % → 75.0 %")
    page.fill(".hs-runs-search", "")
    page.get_by_label("Compare plain").check()
    page.get_by_label("Compare other").check()
    page.get_by_role("button", name="Compare 2").click()
    expect(page.locator(".hs-differences tbody tr")).to_have_count(1)
    expect(page.locator(".hs-differences tbody tr")).to_contain_text("method.preference_scale")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "run,title,kind,step,metric,mean,min,max,questions,question_set"
    assert sum(",plain,evaluation," in line and line.endswith(",8,a1b2c3") for line in lines) == 8
    assert sum(",plain,step," in line and ",reward," in line for line in lines) == 5
    with page.expect_download() as download:
        page.get_by_role("button", name="Download SVG").click()
    figure = Path(download.value.path()).read_text()
    assert figure.startswith("<svg") and all(f">{text}</text>" in figure for text in ("Reward", "plain", "other"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    assert Path(download.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page.get_by_role("button", name="plain", exact=True).click()
    expect(page.locator(".hs-run-title")).to_have_text("plain")


def test_a_chart_of_one_line_covers_nothing_until_it_is_pointed_at(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    open_tab(page, "Runs")
    page.get_by_label("Compare plain").check()
    page.get_by_role("button", name="Compare 1").click()
    chart = page.locator(".hs-comparison .hs-chart", has_text="Reward").first
    value = chart.locator(".hs-chart-value")
    expect(value).to_have_text("30.0 % · mean of last 5 steps")
    expect(value).to_have_css("position", "static")
    chart.locator("svg").hover()
    expect(value).to_contain_text("step ")
    expect(value).to_have_css("position", "absolute")


def test_a_run_is_deleted_only_when_it_is_confirmed(open_page: OpenPage, shelf_url: str, shelf: Path) -> None:
    layout = write_run(shelf, "going")
    page = open_page(shelf_url)
    watch(page, "going")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Delete").click()
    page.wait_for_timeout(500)
    assert layout.folder.is_dir()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".hs-run-title")).not_to_have_text("going")
    assert not layout.folder.exists()


def test_a_checkpoint_is_published_with_the_visitors_token(
    open_page: OpenPage, shelf_url: str, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "AbCd1234" * 4
    with FakeHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        page = open_page(shelf_url)
        open_tab(page, "Runs")
        page.locator("#publish button.label-wrap").click()
        page.click("#publish-run input")
        page.get_by_role("option", name="plain (").click()
        page.fill("#publish-repo input, #publish-repo textarea", "me/model")
        page.fill("#publish-token input", token)
        page.click("#publish-button")
        expect(page.locator("#publish-done")).to_contain_text("/me/model")
        expect(page.locator("#publish-token input")).to_have_value("")
        assert set(hub.files) == {"README.md", "training/config.json"} and hub.tokens == {f"Bearer {token}"}
        hub.refuses = 403
        page.fill("#publish-token input", token)
        page.click("#publish-button")
        expect(page.locator(".hs-status-failed")).to_contain_text("no write permission")
        assert token not in page.content()
        hub.shutdown()
    assert not any(token.encode() in path.read_bytes() for path in shelf.rglob("*") if path.is_file())


# --- how a run stands -----------------------------------------------------------------------------------------------


def test_a_run_that_someone_ended_is_not_shown_as_a_failure(
    open_page: OpenPage, shelf_url: str, shelf: Path, request: pytest.FixtureRequest
) -> None:
    ends = [
        ("ended", "stopped", KILLED_ON_REQUEST),
        ("went down", "stopped", "ended by SIGTERM"),
        ("broken", "failed", "oh"),
    ]
    for name, state, error in ends:
        layout = write_run(shelf, name)
        request.addfinalizer(partial(shutil.rmtree, layout.folder))
        write_status(layout, read_status(layout).replace(state=state, step=2, total=9, error=error))
    page = open_page(shelf_url)
    end = page.locator(".hs-run-outcome")
    watch(page, "ended")
    expect(end).to_have_text("Ended at once, on request. Last checkpoint: step 2; Resume continues from it.")
    expect(end).to_have_attribute("role", "status")
    neutral = color_of(page, ".hs-run-outcome")
    watch(page, "went down")
    expect(end).to_contain_text("Ended by SIGTERM. Last checkpoint: step 2")
    assert color_of(page, ".hs-run-outcome") == neutral
    watch(page, "broken")
    expect(end).to_contain_text("Run failed")
    expect(end).to_have_attribute("role", "alert")
    assert color_of(page, ".hs-run-outcome") != neutral
    open_tab(page, "Runs")
    expect(page.locator(".hs-runs .hs-pill-stopped").first).to_be_visible()
    red, other = (color_of(page, f".hs-runs .hs-pill-{state}") for state in ("failed", "stopped"))
    assert red != other == neutral


def color_of(page: Page, node: str) -> str:
    return str(page.locator(node).first.evaluate("(node) => getComputedStyle(node).backgroundColor"))


def test_a_run_says_what_it_does_beside_its_steps(
    open_page: OpenPage, shelf_url: str, shelf: Path, request: pytest.FixtureRequest
) -> None:
    config = RunConfig.model_validate({"name": "measuring"})
    layout = create_run(shelf, "training", config, "ap_grpo", total=3)
    request.addfinalizer(partial(shutil.rmtree, layout.folder))
    with RunWriter(layout, total=3) as run:
        run.start(PROVENANCE.model_copy(update={"device": "1 x cpu"}))
        run.set_phase("evaluating held-out questions, 0 of 40")
        page = open_page(shelf_url)
        open_tab(page, "Watch")
        expect(page.locator(".hs-run-title")).to_have_text("measuring")
        phase, clock = page.locator(".hs-run-phase"), page.locator(".hs-run-timing")
        expect(phase).to_have_text("evaluating held-out questions, 0 of 40")
        expect(page.locator(".hs-run-facts")).to_have_text("AP-GRPO, then SFT · built-in · G = 8 · CPU")
        expect(page.locator(".hs-no-charts")).to_be_visible()
        expect(page.locator(".hs-rollout-viewer-empty")).to_contain_text("Now: evaluating held-out questions, 0 of 40.")
        assert page.locator(".hs-chart:visible, .hs-rollout-viewer-bar:visible").count() == 0, (
            "nothing that is empty yet"
        )
        for step in (1, 2):
            run.log_step(step, "ap_grpo", {"reward": 0.5})
            with run.saving_checkpoint(step, "ap_grpo"):
                pass
            expect(page.locator(".hs-checkpoints")).to_have_value(str(step))  # the newest, until someone chooses
        expect(phase).to_have_text("running step 3")
        expect(clock).to_contain_text("left")
        expect(page.locator(".hs-chart:visible")).to_have_count(1)
        run.log_step(3, "ap_grpo", {"reward": 0.5})
        run.set_phase("evaluating held-out questions, 16 of 40")
        expect(phase).to_have_text("evaluating held-out questions, 16 of 40")
        expect(clock).not_to_contain_text("left")
        run.set_phase("")
        expect(phase).to_have_text("finishing")
    state_is(page, "completed")
    expect(phase).to_be_empty()
    expect(page.locator(".hs-rollout-viewer-empty")).to_contain_text("ended before its first record")


def test_boxes_stand_in_one_line_and_the_words_of_the_model_behind_them(
    open_page: OpenPage, shelf_url: str, shelf: Path, request: pytest.FixtureRequest
) -> None:
    said = '```json\n[\n  {"bbox_2d": [1, 2, 3, 4],\n   "label": "<b>a  star</b>"}\n]\n```'
    layout = write_run(shelf, "fenced", text=said)
    request.addfinalizer(partial(shutil.rmtree, layout.folder))
    page = open_page(shelf_url)
    watch(page, "fenced")
    first = page.locator(".hs-grounding-output").first
    shown = first.locator("summary")
    assert shown.text_content() == '[{"bbox_2d": [1, 2, 3, 4], "label": "<b>a  star</b>"}]'
    expect(first.locator("pre")).to_be_hidden()
    shown.focus()
    page.keyboard.press("Space")
    expect(first.locator("pre")).to_be_visible()
    assert first.locator("pre").text_content() == said
    expect(page.get_by_role("button", name="Play")).to_be_visible()  # the key has opened the text, and no more
    bar = page.locator(".hs-rollout-viewer-bar").bounding_box()
    assert bar is not None and bar["height"] < 60, "one row on a laptop"


# --- the form -------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_the_form_says_what_is_wrong_before_anything_starts(open_page: OpenPage, shelf_url: str, shelf: Path) -> None:
    before = len(list_runs(shelf))
    page = open_page(shelf_url)
    open_tab(page, "Train")
    page.fill("#set-rollout-group-size input", "1")
    page.keyboard.press("Tab")
    expect(page.locator(".hs-finding-bad")).to_contain_text("Group size G")
    expect(page.locator("#train-start")).to_be_disabled()
    page.fill("#set-rollout-group-size input", "8")
    page.keyboard.press("Tab")
    expect(page.locator(".hs-report h3")).to_have_text("AP-GRPO")
    page.locator("#train-form button.label-wrap", has_text="Data").click()
    page.fill("#set-data-needle-samples input", "100")
    page.keyboard.press("Tab")
    expect(page.locator(".hs-finding-bad")).to_contain_text("“Needle samples” of at least")
    assert len(list_runs(shelf)) == before


def test_a_name_of_any_language_is_taken_and_another_answered_in_words(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    open_tab(page, "Train")
    name, problem = page.locator("#set-name input, #set-name textarea"), page.locator(".hs-finding-bad")
    name.fill("Versuch #3 (neu)")
    page.keyboard.press("Tab")
    expect(problem).to_contain_text("Run name")
    expect(problem).to_contain_text("letters, digits, spaces, dots, hyphens and underscores")
    expect(problem).to_contain_text("for example 'Versuch 3 neu'")
    assert "[A-Z" not in str(page.locator(".hs-report").text_content())
    name.fill("Müller Versuch")
    page.keyboard.press("Tab")
    expect(page.locator("#train-command textarea")).to_have_value(re.compile("name=Müller Versuch"))
    expect(problem).to_have_count(0)


def test_only_settings_of_the_chosen_stages_are_shown(open_page: OpenPage, shelf_url: str) -> None:
    page = open_page(shelf_url)
    open_tab(page, "Train")
    rl, sft, scale = (page.locator(f"#set-{name} input") for name in SHOWN_BY_CHAIN)
    shown = {
        "SFT": (False, True, False),
        "AP-GRPO, then SFT (the paper's recipe)": (True, True, True),
        "GRPO": (True, False, False),
        "AP-GRPO": (True, False, True),
    }
    expect(rl).to_be_visible()
    expect(sft).to_be_hidden()
    for title, expected in shown.items():
        page.click("#set-method-stages input")
        page.get_by_role("option", name=title, exact=True).click()
        for field, is_shown in zip((rl, sft, scale), expected, strict=True):
            expect(field).to_be_visible(visible=is_shown)
        if title == "SFT":
            sft.fill("7")
            page.keyboard.press("Tab")
            expect(page.locator("#train-command textarea")).to_have_value(re.compile("sft_steps=7"))
    page.click("#set-method-stages input")
    page.get_by_role("option", name="SFT", exact=True).click()
    expect(sft).to_have_value("7")


def test_red_findings_block_and_samples_are_shown(
    open_page: OpenPage, shelf_url: str, shelf: Path, tmp_path: Path
) -> None:
    before = len(list_runs(shelf))
    page = open_page(shelf_url)
    fill_form(page, tmp_path, "absent", data={"source": "jsonl", "path": str(tmp_path / "none.jsonl")})
    expect(page.locator(".hs-finding-bad")).to_contain_text("does not exist")
    expect(page.locator("#train-start")).to_be_disabled()
    (tmp_path / "none.jsonl").write_text("{}\n")
    fill_form(page, tmp_path, "blocked", data={"source": "jsonl", "path": str(tmp_path / "none.jsonl")})
    page.click("#train-start")
    expect(page.locator(".hs-outcome-bad")).to_contain_text("Preflight failed", timeout=RUN_MS)
    expect(page.locator(".hs-finding-bad")).to_contain_text("No valid rows")
    assert len(list_runs(shelf)) == before
    fill_form(page, tmp_path, "shown")
    page.click("#train-preview")
    expect(page.locator(".hs-sample img")).to_have_count(5)
    expect(page.locator(".hs-samples > p")).to_contain_text("8 for RL")


def test_a_file_that_is_no_settings_changes_nothing(open_page: OpenPage, shelf_url: str, tmp_path: Path) -> None:
    page = open_page(shelf_url)
    fill_form(page, tmp_path, "kept")
    (tmp_path / "settings.json").write_text(json.dumps({"optim": {"speed": 1}}))
    page.locator("#train-form").get_by_label("Clear").first.click()
    page.set_input_files("#train-form input[type=file]", tmp_path / "settings.json")
    expect(page.locator("[data-testid=toast-body]")).to_contain_text("optim.speed")
    expect(page.locator("#set-name input, #set-name textarea")).to_have_value("kept")


def test_a_public_page_shows_runs_and_starts_none(
    open_page: OpenPage, serve: Callable[..., str], image_folder: Path, tmp_path: Path
) -> None:
    page = open_page(serve(None, image_folder, tmp_path, False))
    open_tab(page, "Watch")
    expect(page.locator(".hs-no-run p")).to_contain_text("Training is disabled on this page")
    expect(page.locator(".hs-go-to-train")).to_be_hidden()
    write_run(tmp_path, "plain")
    open_tab(page, "Train")
    expect(page.locator(".hs-outcome-bad")).to_contain_text("disabled on a public Space")
    for button in ("#train-start", "#train-check", "#train-preview"):
        expect(page.locator(button)).to_be_disabled()
    watch(page, "plain")
    expect(page.locator("[data-command=delete]")).to_be_hidden()
    open_tab(page, "Runs")
    expect(page.locator(".hs-runs tbody tr").first).to_be_visible()
    assert page.locator("#publish").count() == 0


def test_a_start_waits_visibly_for_the_check_that_runs(
    open_page: OpenPage, shelf_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def check(launcher: RunLauncher, launch_request: LaunchRequest) -> Iterator[dict[str, str]]:
        yield {"topic": "Memory", "state": "check", "text": "little", "advice": "Lower rollout.group_size."}
        goes_on.wait(30)

    monkeypatch.setattr(RunLauncher, "check", check)
    page = open_page(shelf_url)
    open_tab(page, "Train")
    page.click("#train-check")
    start = page.locator("#train-start")
    try:
        expect(start).to_be_disabled()
        expect(start).to_have_text("Preflight running…")
        expect(page.locator(".hs-findings")).to_contain_text("Lower “Group size G”.")
    finally:
        goes_on.set()
    expect(start).to_be_enabled()
    expect(start).to_have_text("Start training")
    expect(page.locator(".hs-outcome")).to_have_text("Ready to start with 1 warning.")
