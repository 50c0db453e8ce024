"""The Evaluate page: a real evaluation from its form to a failure in Ask, and made-up ones in every state."""

from __future__ import annotations

import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import DATASET_INFO_FILE, DatasetInfo, prepare_run
from hart_studio.evaluation.shards import append_records, shard_path
from hart_studio.files import write_json
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.reader import list_runs
from hart_studio.runs.status import read_status, write_status
from tests.browser.run_pages import RUN_MS, end_runs, open_tab
from tests.evaluations import draw_image, make_record, make_records, write_evaluation

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>${1}{{1}}"
SIZES = [((1280, 900), "light"), ((1920, 1080), "dark")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_image(tmp_path_factory.mktemp("signs") / "sign.png")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Folder of runs, in which nothing continues after the test."""
    folder = tmp_path / "runs"
    yield folder
    end_runs(folder)


@pytest.fixture
def studio(serve: Callable[..., str], image_folder: Path, root: Path) -> str:
    """With the built-in model, over the runs of the test."""
    return serve(None, image_folder, runs_root=root)


def row_of(page: Page, title: str) -> Locator:
    return page.locator(".hs-ev-row", has=page.get_by_text(title, exact=True))


@pytest.mark.core
def test_from_the_form_to_a_failure_in_ask(
    open_page: Callable[..., Page], studio: str, root: Path, tmp_path: Path
) -> None:
    page = open_page(studio)
    open_tab(page, "Evaluate")
    expect(page.locator(".hs-ev-empty")).to_be_visible()
    expect(page.locator(".hs-ev-new")).to_have_attribute("open", "")
    page.locator(".hs-ev-limit").fill("8")
    page.locator(".hs-ev-title").fill("Eight needles")
    page.get_by_label("Full image", exact=True).check()
    expect(page.locator(".hs-ev-command code")).to_contain_text("--protocol=direct '--title=Eight needles'")
    expect(page.locator(".hs-ev-command code")).to_contain_text("--limit=8")
    page.locator(".hs-ev-start").dblclick()

    expect(page.locator(".hs-ev-row")).to_have_count(1)
    expect(page.locator(".hs-ev-row")).to_contain_text("Eight needles")
    expect(page.locator(".hs-ev-row .hs-pill-completed")).to_be_visible(timeout=RUN_MS)
    expect(page.locator(".hs-ev-row")).to_contain_text("8 of 8")
    expect(page.locator(".hs-ev-row")).to_contain_text("IoG > 0.3")
    assert len(list_runs(root)) == 1, "a double click starts one"

    expect(page.locator("#hs-ev-tables tbody tr").first).to_contain_text("Eight needles")
    expect(page.locator("#hs-ev-tables small", has_text="±").first).to_be_visible()
    page.get_by_role("tab", name="Figures").click()
    expect(page.locator("#hs-ev-figures img")).not_to_have_count(0)
    assert page.evaluate(
        "[...document.querySelectorAll('#hs-ev-figures img')].every((image) => image.naturalWidth > 0)"
    )

    with page.expect_download() as download:
        page.locator(".hs-ev-report").click()
        page.get_by_text("Download zip").click(timeout=RUN_MS)
    download.value.save_as(tmp_path / "report.zip")
    assert "report.html" in zipfile.ZipFile(tmp_path / "report.zip").namelist()

    page.get_by_role("tab", name="Failures").click()
    expect(page.locator(".hs-ev-item")).to_have_count(8)
    expect(page.locator(".hs-ev-answers .hs-card")).to_have_count(2)
    expect(page.locator(".hs-ev-scene .hs-ev-gold")).not_to_have_count(0)
    assert "view=failures" in page.url and "tab=evaluate" in page.url
    page.reload()
    expect(page.locator(".hs-ev-item")).to_have_count(8)
    expect(page.locator(".hs-ev-answers .hs-card")).to_have_count(2)
    question = page.locator(".hs-ev-question").inner_text()
    page.locator(".hs-ev-ask").click()
    expect(page.get_by_role("tab", name="Ask", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#ask-question textarea")).to_have_value(question)
    expect(page.locator("#ask-choices textarea")).not_to_have_value("")
    expect(page.locator("#ask-answer input, #ask-answer textarea")).to_have_value(re.compile("^[A-Z]$"))
    expect(page.locator("#ask-model-a input")).to_have_value("built-in-hart")
    expect(page.locator("#result-a .hs-canvas image")).to_have_attribute("href", re.compile("preview.jpg|detail.jpg"))
    page.locator("#ask-button").click()
    expect(page.locator("#result-a .hs-card")).to_have_count(3, timeout=RUN_MS)


def test_how_many_questions_and_about_how_long_before_the_start(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    write_evaluation(root, make_records(image), title="Before", device="cpu")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    expect(page.locator(".hs-ev-row")).to_have_count(1)
    page.locator(".hs-ev-new > summary").click()
    about = page.locator(".hs-ev-about")
    expect(about).to_contain_text("200 questions. No time estimate yet")
    expect(page.locator(".hs-ev-limit")).to_have_attribute("placeholder", "all 200")
    page.get_by_label("Full image", exact=True).check()
    expect(about).to_contain_text(re.compile("200 questions, about .*, based on the last similar evaluation"))
    page.locator(".hs-ev-limit").fill("8")
    expect(about).to_contain_text(re.compile("^8 questions"))
    page.locator(".hs-ev-path").fill("/data/own")
    expect(about).to_contain_text("Up to 8 questions (number known after the start)")
    page.locator(".hs-ev-limit").fill("")
    expect(about).to_contain_text("All questions (number known after the start)")
    page.locator(".hs-ev-path").fill("")
    page.locator(".hs-ev-benchmark").select_option("vstar")
    expect(about).to_contain_text("191 questions")


def test_tables_fit_or_say_that_they_go_on(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    write_evaluation(root, make_records(image), title="A model of some longer name")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    summary = page.locator(".hs-ev-table", has=page.get_by_role("heading", name="Summary"))
    expect(summary.locator("tbody tr")).to_have_count(2)
    host = summary.locator(".hs-ev-table-host")
    assert host.evaluate("(node) => node.scrollWidth <= node.clientWidth"), "the summary fits at 1280"
    expect(summary.locator(".hs-ev-more")).to_be_hidden()

    wide = page.locator(".hs-ev-table", has=page.get_by_role("heading", name="Fig. 3"))
    host, more = wide.locator(".hs-ev-table-host"), wide.locator(".hs-ev-more")
    expect(more).to_contain_text(re.compile(r"^\d+ more columns on the right"))
    edge = "getComputedStyle(node.parentElement, '::after').opacity"
    page.wait_for_function(f"(node) => {edge} === '1'", arg=host.element_handle())
    first = wide.locator("tbody th").first
    left = first.bounding_box()
    host.evaluate("(node) => { node.scrollLeft = node.scrollWidth; }")
    expect(more).to_contain_text("Last columns shown")
    assert first.bounding_box() == left, "the first column stays"
    page.wait_for_function(f"(node) => {edge} === '0'", arg=host.element_handle())
    page.set_viewport_size({"width": 2600, "height": 900})
    expect(more).to_be_hidden()


def test_links_to_a_report_go_with_what_is_ticked(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    for title in ("First", "Second"):
        write_evaluation(root, make_records(image), title=title)
    page = open_page(studio)
    open_tab(page, "Evaluate")
    page.get_by_role("tab", name="Failures").click()
    report, links = page.locator(".hs-ev-report"), page.locator(".hs-ev-links a")
    report.click()
    expect(links).to_have_count(2, timeout=RUN_MS)
    page.get_by_role("tab", name="Tables").click()
    expect(page.locator("#hs-ev-tables tbody")).not_to_have_count(0)
    expect(links).to_have_count(2)
    page.get_by_role("tab", name="Failures").click()
    for title in ("First", "Second"):
        row_of(page, title).locator("input").check()
    expect(links).to_have_count(0)
    for title in ("First", "Second"):
        row_of(page, title).locator("input").uncheck()
    expect(report).to_be_disabled()
    row_of(page, "First").locator("input").check()
    expect(report).to_be_enabled()


def test_the_failure_browser_by_keyboard(open_page: Callable[..., Page], studio: str, root: Path, image: Path) -> None:
    write_evaluation(root, make_records(image, 60), title="Sixty")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    tables = page.get_by_role("tab", name="Tables")
    tables.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Failures")).to_be_focused()
    expect(page.locator(".hs-ev-item")).to_have_count(50)
    expect(page.locator(".hs-ev-question")).to_contain_text("Which number")
    first = page.locator(".hs-ev-question").inner_text()
    page.locator(".hs-ev-questions").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".hs-ev-question")).not_to_have_text(first)
    page.keyboard.press("ArrowUp")
    expect(page.locator(".hs-ev-question")).to_have_text(first)
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".hs-ev-range")).to_have_text("51–60 of 60")
    expect(page.locator(".hs-ev-item[aria-selected=true]")).to_have_count(1)
    page.keyboard.press("ArrowUp")
    expect(page.locator(".hs-ev-range")).to_have_text("1–50 of 60")
    expect(page.locator(".hs-ev-item").nth(49)).to_have_attribute("aria-selected", "true")
    expect(page.locator(".hs-ev-questions")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Ask", exact=True)).to_have_attribute("aria-selected", "true")


@pytest.mark.core
def test_filters_and_protocols(open_page: Callable[..., Page], studio: str, root: Path, image: Path) -> None:
    write_evaluation(root, make_records(image), title="Twelve")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    page.get_by_role("tab", name="Failures").click()
    expect(page.locator(".hs-ev-item").first).to_contain_text("correct answer, wrong or no box")
    page.locator(".hs-ev-verdict").select_option("wrong answer, wrong box")
    expect(page.locator(".hs-ev-item")).to_have_count(1)
    page.locator(".hs-ev-verdict").select_option("")
    page.locator(".hs-ev-text").fill("sign 10?")
    expect(page.locator(".hs-ev-item")).to_have_count(1)
    expect(page.locator(".hs-ev-question")).to_have_text("Which number is on sign 10?")
    page.locator(".hs-ev-text").fill("nothing like it")
    expect(page.locator(".hs-ev-questions")).to_have_text("No matching questions.")
    expect(page.locator(".hs-ev-detail")).to_be_hidden()
    page.locator(".hs-ev-text").fill("")
    page.locator(".hs-ev-protocol").select_option("direct")
    expect(page.locator(".hs-ev-verdict option").first).to_have_text("All outcomes (12)")
    expect(page.locator(".hs-ev-item").first).to_contain_text("wrong answer, correct box")


def test_boxes_of_both_kinds_have_different_styles(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    write_evaluation(root, [make_record(1, image, on_gold=False)], title="One")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    page.get_by_role("tab", name="Failures").click()
    gold = page.locator(".hs-ev-scene rect.hs-ev-gold:not(.hs-box-outline)")
    predicted = page.locator(".hs-ev-scene rect.hs-box:not(.hs-box-outline)")
    expect(gold).to_have_count(1)
    dashes = [node.evaluate("(node) => getComputedStyle(node).strokeDasharray") for node in (gold, predicted)]
    assert dashes[0] != "none" and dashes[1] == "none"
    assert (gold.get_attribute("x"), predicted.get_attribute("x")) == ("400", "1000"), "original pixels"
    expect(page.locator(".hs-ev-legend")).to_contain_text("Gold, evaluation only: 0 of 1 found")


def test_hostile_text_is_text(open_page: Callable[..., Page], studio: str, root: Path, image: Path) -> None:
    record = make_record(1, image, question=EVIL.replace("{", "(").replace("}", ")"), category=EVIL)
    judged = record.answers["crops_only"].model_copy(update={"text": EVIL})
    evil = record.model_copy(
        update={"choices": (EVIL, "six"), "answers": {"crops_only": judged}, "sample_id": EVIL, "error": ""}
    )
    write_evaluation(root, [evil], title=EVIL, model=EVIL, protocols=("crops_only",))
    page = open_page(studio)
    open_tab(page, "Evaluate")
    expect(page.locator(".hs-ev-name strong")).to_have_text(EVIL)
    expect(page.locator("#hs-ev-tables tbody th").first).to_contain_text("<script>")
    page.get_by_role("tab", name="Figures").click()
    expect(page.locator("#hs-ev-figures img")).not_to_have_count(0)
    page.get_by_role("tab", name="Failures").click()
    expect(page.locator(".hs-ev-raw-output")).to_have_text(EVIL)
    expect(page.locator(".hs-ev-options li").first).to_contain_text("<script>")
    page.locator(".hs-ev-ask").click()
    expect(page.locator("#ask-choices textarea")).to_have_value(f"{EVIL}\nsix")
    assert page.title() != "owned"
    assert page.locator(".hs-evaluate img[src=x]").count() == 0


def test_states(open_page: Callable[..., Page], studio: str, root: Path, image: Path) -> None:
    stopped = write_evaluation(root, make_records(image, 5), total=9, title="Stopped")
    failed = write_evaluation(root, make_records(image, 4), total=9, title="Failed")
    write_status(failed, read_status(failed).replace(state="failed", error="The model failed on the last"))
    lost = prepare_run(root, EvaluationConfig(title="Lost"))
    write_status(lost, read_status(lost).replace(state="running", pid=1, pid_start="another", step=0))
    page = open_page(studio)
    open_tab(page, "Evaluate")
    expect(page.locator(".hs-ev-row")).to_have_count(3)
    expect(row_of(page, "Stopped")).to_contain_text("5 of 9")
    expect(row_of(page, "Failed").locator("[role=alert]")).to_have_text("The model failed on the last")
    expect(row_of(page, "Lost").locator(".hs-pill")).to_have_text("crashed")
    expect(page.locator("#hs-ev-tables")).to_have_text("Select an evaluation above to see its results.")
    row_of(page, "Lost").locator("input").check()
    expect(page.locator("#hs-ev-tables")).to_contain_text("No results yet")
    expect(page.locator(".hs-ev-notes")).to_contain_text("Lost has not loaded its questions yet")
    row_of(page, "Stopped").locator("input").check()
    expect(page.locator("#hs-ev-tables tbody")).not_to_have_count(0)
    expect(page.locator("#hs-ev-tables")).to_contain_text("partial")
    page.once("dialog", lambda dialog: dialog.accept())
    row_of(page, "Failed").get_by_role("button", name="Delete").click()
    expect(page.locator(".hs-ev-row")).to_have_count(2)
    assert not failed.folder.exists() and stopped.folder.exists()


def test_a_list_that_is_partly_or_not_at_all_readable_says_so(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    write_evaluation(root, make_records(image, 5), title="Fine")
    broken = prepare_run(root, EvaluationConfig(title="Broken"))
    broken.status.write_text(broken.status.read_text().replace('"total": 200', f'"total": {10**20}'))
    page = open_page(studio)
    open_tab(page, "Evaluate")
    expect(page.locator(".hs-ev-count")).to_have_text("1 · 1 unreadable; see the Runs tab or the server log")
    expect(row_of(page, "Fine")).to_be_visible()
    page.locator(".hs-ev-new > summary").click()
    page.locator(".hs-ev-limit").fill("100000000000000000000")
    expect(page.locator(".hs-ev-command code")).to_contain_text("limit: Input should be less than or equal to")
    page.route("**/component_server**", lambda route: route.abort())
    expect(page.locator(".hs-ev-message")).to_contain_text("Cannot load the evaluations", timeout=20_000)
    page.unroute("**/component_server**")
    expect(page.locator(".hs-ev-message")).to_have_text("")


def test_progress_is_shown_and_the_first_results_remove_the_note(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    layout = write_evaluation(root, [], total=9, title="Slow")
    job = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        begun = read_status(layout).replace(state="running", pid=job.pid, pid_start=get_process_start(job.pid))
        write_status(layout, begun.replace(phase="loading the model"))
        page = open_page(studio)
        open_tab(page, "Evaluate")
        expect(row_of(page, "Slow")).to_contain_text("0 of 9 answered · loading the model")
        row_of(page, "Slow").locator("input").check()
        expect(page.locator(".hs-ev-notes")).to_contain_text("Slow on needle has no results yet")
        append_records(shard_path(layout, 0), make_records(image, 5))
        write_status(layout, begun.replace(step=5))
        expect(page.locator(".hs-ev-notes")).to_be_hidden()
        expect(page.locator("#hs-ev-tables")).to_contain_text("partial")
        expect(row_of(page, "Slow")).not_to_contain_text("loading")
    finally:
        job.kill()
        job.wait()


def test_card_table_and_questions_name_the_same_counts(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path
) -> None:
    """Records are on disk before the event and the status that count them."""
    layout = write_evaluation(root, [], total=30, title="Slow")
    asked = DatasetInfo(benchmark="needle", samples=30, fingerprint="f" * 64, invalid_count=2)
    write_json(layout.folder / DATASET_INFO_FILE, asked.model_dump(mode="json"))
    job = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        begun = read_status(layout).replace(state="running", pid=job.pid, pid_start=get_process_start(job.pid))
        write_status(layout, begun)
        page = open_page(studio)
        open_tab(page, "Evaluate")
        card, gaps = row_of(page, "Slow"), page.locator(".hs-ev-gaps li")
        expect(card).to_contain_text("0 of 30 answered")
        records = [make_record(n, image, float(n < 5)) for n in range(15)]
        append_records(shard_path(layout, 0), [*records, make_record(15, image, None, error="the model failed")])
        card.locator("input").check()
        expect(page.locator("#hs-ev-tables tbody tr").first).to_contain_text("16 of 30, partial")
        expect(card).to_contain_text("16 of 30 answered")
        expect(gaps.nth(0)).to_contain_text("partial: 16 of 30 questions are measured")
        expect(gaps.nth(1)).to_contain_text("n = 30 of 32 rows in the file")
        expect(gaps.nth(2)).to_contain_text("1 of 16 questions are unscored (1 x the model failed)")
        page.wait_for_timeout(3500)  # two more polls of a list that still counts none
        expect(card).to_contain_text("16 of 30 answered")
        page.get_by_role("tab", name="Failures").click()
        expect(page.locator(".hs-ev-verdict option").first).to_have_text("All outcomes (16)")
    finally:
        job.kill()
        job.wait()


def test_card_and_table_round_alike(open_page: Callable[..., Page], studio: str, root: Path, image: Path) -> None:
    """5 of 16 is 31.25 %: a tie, which Python rounds to the even digit."""
    write_evaluation(root, [make_record(n, image, float(n < 5)) for n in range(16)], title="Tie")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    expect(page.locator("#hs-ev-tables tbody tr").first).to_contain_text("31.2")
    expect(row_of(page, "Tie")).to_contain_text("31.2 %")


def test_published_rows_say_so(open_page: Callable[..., Page], studio: str, root: Path, image: Path) -> None:
    records = [make_record(n, image, float(n % 2), category="Perception/Attributes") for n in range(6)]
    write_evaluation(root, records, title="On TreeBench", benchmark="treebench")
    page = open_page(studio)
    open_tab(page, "Evaluate")
    published = page.locator("#hs-ev-tables .hs-ev-published")
    expect(published).not_to_have_count(0)
    expect(published.first.locator("th em")).to_have_text("published")


def test_a_public_page_only_shows(
    open_page: Callable[..., Page], serve: Callable[..., str], image_folder: Path, root: Path, image: Path
) -> None:
    write_evaluation(root, make_records(image, 4), total=9, title="Seen")
    page = open_page(serve(None, image_folder, runs_root=root, is_open=False))
    open_tab(page, "Evaluate")
    expect(page.locator(".hs-ev-closed")).to_be_visible()
    expect(page.locator(".hs-ev-new")).to_be_hidden()
    expect(page.locator(".hs-ev-commands button")).to_have_count(0)
    page.locator(".hs-ev-row input").check()
    expect(page.locator("#hs-ev-tables tbody")).not_to_have_count(0)


@pytest.mark.parametrize(("size", "theme"), SIZES)
def test_nothing_is_wider_than_the_window(
    open_page: Callable[..., Page], studio: str, root: Path, image: Path, size: tuple[int, int], theme: str
) -> None:
    long = "A very long question with many words " * 12 + "{n}?"
    records = [make_record(n, image, float(n % 2), question=long, category="Perception/Attributes") for n in range(9)]
    for title in ("first", "a-name-without-any-space-" * 6):
        write_evaluation(root, records, title=title, benchmark="treebench", model="owner/" + "x" * 120)
    page = open_page(studio, size, theme)
    open_tab(page, "Evaluate")
    for box in page.locator(".hs-ev-row input").all():
        box.check()
    expect(page.locator("#hs-ev-tables tbody")).not_to_have_count(0)
    page.locator(".hs-ev-new > summary").click()
    for view in ("tables", "figures", "failures"):
        page.locator(f"[data-view={view}]").click()
        expect(page.locator(f"#hs-ev-{view}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), view
    page.locator("[data-view=tables]").click()
    page.set_viewport_size({"width": 900, "height": 900})
    host = page.locator(".hs-ev-table-host").filter(has=page.locator("th", has_text="Attributes")).first
    host.evaluate("(node) => { node.scrollLeft = node.scrollWidth; }")
    assert host.evaluate("(node) => node.scrollLeft") > 0, "a wide table scrolls in its own box"
    edges = host.evaluate(
        "(node) => [node.getBoundingClientRect().left, node.querySelector('tbody th').getBoundingClientRect().left]"
    )
    assert edges[1] == pytest.approx(edges[0], abs=2), "the first column stays in sight"
