"""The moments that the images show. Each function brings a fresh page there, by what a person would click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hart_studio.runs.reader import list_runs
from hart_studio.runs.rollouts import list_rollout_steps, read_groups
from tests.browser.screenshots.work import PROJECT, Work

if TYPE_CHECKING:
    from playwright.sync_api import Page

GLIDE_MS: Final = 700
"""Boxes and bars glide to their places."""


def ask(page: Page, work: Work) -> None:
    """One question to the small model before and after HART."""
    page.locator(".hs-example").first.click()
    page.wait_for_selector("#result-a .hs-viewer:not(.hs-is-empty)")
    page.click("#ask-button")
    page.wait_for_selector("#result-b .hs-card")
    page.wait_for_selector(".hs-status-idle", state="attached")
    # The button floats at the end of a window; this image is higher than one.
    page.locator("#ask-button").evaluate("(node) => node.style.setProperty('position', 'static', 'important')")
    _show_all_images(page, "#result-b")


def label(page: Page, work: Work) -> None:
    """The list of items, with what was auto-accepted and what waits."""
    _open_label_panel(page, "review")
    page.wait_for_selector(".hs-list tbody tr")


def review(page: Page, work: Work) -> None:
    """The item that the queue finds most doubtful, as a reviewer has it in front of him."""
    _open_label_panel(page, "review")
    page.fill(".hs-reviewer", "Ada")
    page.click(".hs-start-review")
    page.wait_for_selector(".hs-review [data-box]")
    page.keyboard.press("1")
    page.keyboard.press("g")
    _show_all_images(page, ".hs-review")


def quality(page: Page, work: Work) -> None:
    """What is measured about the labels."""
    _open_label_panel(page, "quality")
    page.wait_for_selector(".hs-quality > *")


def train(page: Page, work: Work) -> None:
    """The form, checked: what would be trained, and whether it would work."""
    _open_tab(page, "Train")
    page.click("#train-preview")
    page.wait_for_selector(".hs-sample img")
    page.click("#train-check")
    page.wait_for_selector(".hs-report :text('Ready to start.')")
    _show_all_images(page, "#train-samples")


def watch(page: Page, work: Work) -> None:
    """The rollouts of the question about which they disagree most."""
    _open_run(page, work)
    step, place = _find_rollout_step(work)
    page.get_by_label("Recorded step").fill(str(step))
    page.locator("select[aria-label='Question']").select_option(str(place))
    _scroll_to(page, ".hs-run-head")
    _show_all_images(page, ".hs-rollouts")


def curves(page: Page, work: Work) -> None:
    """What a run learns, while one can still see where its boxes are."""
    _open_run(page, work)
    page.wait_for_selector(".hs-chart svg")
    _scroll_to(page, ".hs-section-bar:has(.hs-smoothing)")


def runs(page: Page, work: Work) -> None:
    """Two methods on the same axes."""
    _open_tab(page, "Runs")
    for name in ("AP-GRPO on needles", "GRPO on needles"):
        page.get_by_label(f"Compare {name}", exact=True).check()
    page.get_by_role("button", name="Compare 2").click()
    page.wait_for_selector(".hs-comparison svg")
    page.evaluate("scrollTo(0, 0)")


def evaluate(page: Page, work: Work) -> None:
    """The tables of two evaluations."""
    _open_evaluations(page, "tables")
    page.wait_for_selector("#hs-ev-tables tbody tr")


def failures(page: Page, work: Work) -> None:
    """A right answer that rests on a wrong box."""
    _open_evaluations(page, "failures")
    page.wait_for_selector(".hs-ev-answers .hs-card")
    page.wait_for_selector(".hs-ev-scene .hs-ev-gold", state="attached")
    _show_all_images(page, "#hs-ev-failures")


def _open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def _scroll_to(page: Page, node: str) -> None:
    """Scroll until a node stands at the top, with a little air above it."""
    page.locator(node).evaluate("(node) => scrollTo(0, scrollY + node.getBoundingClientRect().top - 12)")


def _open_label_panel(page: Page, panel: str) -> None:
    _open_tab(page, "Label")
    page.locator(".hs-project").select_option(PROJECT)
    page.wait_for_selector(".hs-status-list li")
    page.click(f"[data-panel={panel}]")


def _open_run(page: Page, work: Work) -> None:
    _open_tab(page, "Watch")
    page.locator(".hs-run-picker").select_option(_find_run_id(work))
    page.wait_for_selector(".hs-rollout")


def _open_evaluations(page: Page, view: str) -> None:
    _open_tab(page, "Evaluate")
    page.wait_for_selector(".hs-ev-row")
    for box in page.locator(".hs-ev-row input").all():
        box.check()
    page.click(f"[data-view={view}]")


def _find_run_id(work: Work) -> str:
    return next(run.layout.run_id for run in list_runs(work.runs) if "ap_grpo" in run.layout.run_id)


def _find_rollout_step(work: Work) -> tuple[int, int]:
    """Where the rollouts disagree most: about half of them are right.

    Returns:
        (index of the recorded step, index of the question in it).
    """
    layout = next(run.layout for run in list_runs(work.runs) if run.layout.run_id == _find_run_id(work))
    found = []
    for index, step in enumerate(list_rollout_steps(layout)):
        for place, saved in enumerate(read_groups(layout, step)):
            rollouts = saved.group.rollouts
            right = sum(rollout.score is not None and rollout.score.value == 1 for rollout in rollouts)
            boxes = sum(len(rollout.boxes) == 1 for rollout in rollouts)
            found.append((-abs(right - 5) + boxes / 100, index, place))
    _, index, place = max(found)
    return index, place


def _show_all_images(page: Page, host: str) -> None:
    """Wait until every image below a node is loaded and everything has come to rest."""
    page.wait_for_function(
        "(host) => [...document.querySelectorAll(`${host} img`)].every((one) => one.complete && one.naturalWidth)",
        arg=host,
    )
    page.wait_for_timeout(GLIDE_MS)
