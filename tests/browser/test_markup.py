"""Text that is markup, in every place where someone else's words reach a tab: nothing of it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.records import Sample
from tests.attacks.targets import Target, serve_target
from tests.browser.label_projects import open_label_tab
from tests.evaluations import make_record, write_evaluation
from tests.labels import draw_image

pytestmark = [pytest.mark.integration, pytest.mark.browser]
RUNS = "window.hsOwned=1"
EVIL = (
    f'"><img src=x onerror="{RUNS}"><svg onload="{RUNS}"></svg><script>{RUNS}</script>'
    f"${{{RUNS}}}{{{{{RUNS}}}}}'-{RUNS}-'<a href='javascript:{RUNS}'>x</a>"
)
NAME = f"<img src=x onerror={RUNS}>.png"
TABS = ("Ask", "Label", "Train", "Watch", "Runs", "Evaluate")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A studio whose files, projects, evaluations, statuses and invalid rows are full of markup."""
    with serve_target(tmp_path_factory.mktemp("evil")) as target:
        image = draw_image(target.root / "images" / NAME)
        records = [
            make_record(
                n, image, float(n % 2), question=EVIL.replace("{", "(").replace("}", ")"), category=f"{EVIL}/{EVIL}",
                choices=(EVIL, "six"), error=EVIL if n == 2 else "", sample_id=f"{n}{EVIL}",
            )
            for n in range(3)
        ]  # fmt: skip
        layout = write_evaluation(target.root / "runs", records, total=4, model=EVIL[:250], title=EVIL[:150], path=NAME)
        for run in (layout.folder, target.root / "runs" / target.run):
            status = json.loads((run / "status.json").read_text())
            (run / "status.json").write_text(json.dumps({**status, "state": "failed", "error": EVIL}))
            (run / "logs").mkdir(exist_ok=True)
            (run / "logs" / "attempt_1.log").write_text(EVIL)
        layout.events.write_text(
            layout.events.read_text().replace("q999: the image is missing", json.dumps(EVIL)[1:-1])
        )
        project = create_project(target.root / "labels" / "evil", EVIL[:100])
        sample = Sample(id=EVIL, image=str(image), question=EVIL, choices=(EVIL, "b"), answer="A", category=EVIL[:90])
        import_samples(project, LoadedSamples("evil", (sample,)))
        yield target


def check(page: Page) -> None:
    """Nothing ran, and nothing of the markup is a node."""
    page.wait_for_timeout(300)
    assert page.evaluate("window.hsOwned") is None
    assert page.locator('img[src="x"], a[href^="javascript:"]').count() == 0


def test_no_tab_runs_what_others_wrote(evil: Target, open_page: Callable[..., Page]) -> None:
    page = open_page(evil.url)
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        check(page)
    page.get_by_role("tab", name="Evaluate", exact=True).click()
    expect(page.locator("#evaluate-page")).to_contain_text("onerror")
    check(page)


def test_names_of_projects_files_and_reviewers_are_text(evil: Target, open_page: Callable[..., Page]) -> None:
    page = open_page(evil.url)
    open_label_tab(page, "evil")
    panels = page.locator("[data-panel]")
    for panel in panels.all():
        panel.click()
        check(page)
    page.locator("[data-panel=review]").click()
    page.locator(".hs-reviewer").fill(f"<b onclick={RUNS}>Ada")
    page.get_by_role("button", name="Start review").click()
    expect(page.locator(".hs-review")).to_be_visible()
    check(page)


def test_an_uploaded_name_and_an_error_are_text(evil: Target, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(evil.url)
    bad = tmp_path / NAME
    bad.write_text(EVIL)
    page.set_input_files("#ask-image input[type=file]", bad)
    expect(page.locator("#ask-results")).to_contain_text("Invalid image")
    check(page)
    page.get_by_role("tab", name="Watch", exact=True).click()
    expect(page.locator(".hs-run-outcome")).to_contain_text("onerror")
    page.locator(".hs-log summary").click()
    expect(page.locator(".hs-log pre")).to_contain_text("onerror")
    check(page)
