"""Watch and Runs say what is true at every moment of a run, and the same on both pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hart_studio.runs.config import RunConfig
from hart_studio.runs.writer import RunWriter, create_run
from tests.browser.conftest import PATIENCE_MS
from tests.browser.run_pages import PROVENANCE, make_group, open_tab, write_run

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
OpenPage = Callable[..., Page]

KEEP_TEXTS = """() => {
  window.shownTexts = [];
  const host = document.querySelector('.hs-rollout-viewer-host');
  new MutationObserver(() => {
    const text = host.querySelector('.hs-rollout-viewer-empty')?.textContent;
    if (text && window.shownTexts.at(-1) !== text) window.shownTexts.push(text);
  }).observe(host, { childList: true, subtree: true });
}"""
"""Keeps every text that stands where the rollouts will be, however short it is there."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def url(serve: Callable[..., str], image_folder: Path, root: Path) -> str:
    return serve(None, image_folder, root)


def choose(page: Page, name: str) -> None:
    value = page.locator(".hs-run-picker option", has_text=name).first.get_attribute("value")
    page.select_option(".hs-run-picker", value)


def test_a_run_says_what_it_does_from_the_first_second(open_page: OpenPage, url: str, root: Path) -> None:
    write_run(root, "other")
    config = RunConfig.model_validate({"name": "new", "schedule": {"rl_steps": 4}, "method": {"stages": "ap_grpo"}})
    layout = create_run(root, "training", config, "ap_grpo", total=4)
    page = open_page(url)
    open_tab(page, "Watch")
    empty, phase, step = (
        page.locator(".hs-rollout-viewer-empty"),
        page.locator(".hs-run-phase"),
        page.locator(".hs-step"),
    )
    expect(page.locator(".hs-run-title")).to_have_text("new")
    expect(phase).to_have_text("starting")
    expect(empty).to_contain_text("Now: starting. Held-out questions appear first")
    choose(page, "other")
    expect(step).to_have_text("step 2")
    page.evaluate(KEEP_TEXTS)
    choose(page, "new")
    expect(empty).to_contain_text("Now: starting.")
    with RunWriter(layout, total=4) as run:
        run.set_phase("loading the model")
        expect(empty).to_contain_text("Now: loading the model.")
        run.start(PROVENANCE)
        run.set_phase("evaluating held-out questions, 16 of 120")
        expect(empty).to_contain_text("Now: evaluating held-out questions, 16 of 120.")
        run.log_rollouts(0, [make_group("held", "star", "Which?", 0, is_held_out=True)], is_held_out=True)
        expect(step).to_have_text("step 0, held-out")
        expect(page.locator(".hs-rollout")).to_have_count(1)
        run.log_evaluation(0, {"accuracy": 0.5}, 120, "f" * 64)
        run.set_phase("")
        expect(phase).to_have_text("running step 1")
        run.log_step(1, "ap_grpo", {"reward": 0.5})
        run.log_rollouts(1, [make_group("q1", "star", "Which?", 1)])
        expect(step).to_have_text("step 1")
        expect(phase).to_have_text("running step 2")
    texts = page.evaluate("window.shownTexts")
    assert texts[0].startswith("Loading the run…")
    assert not any("ended" in text or "No rollouts recorded" in text for text in texts), texts


def test_why_there_are_no_rollouts(open_page: OpenPage, url: str, root: Path) -> None:
    for name, settings, text in (
        ("off", {"schedule": {"rollout_log_steps": 0, "eval_steps": 0}}, "“Rollout log steps” is 0"),
        ("sft", {"method": {"stages": "sft"}}, "SFT trains without rollouts"),
        ("short", {}, "The run ended before its first record."),
    ):
        config = RunConfig.model_validate({"name": name, **settings})
        layout = create_run(root, "training", config, config.method.stages, total=3)
        with RunWriter(layout, total=3) as run:
            run.start(PROVENANCE)
        page = open_page(url)
        open_tab(page, "Watch")
        expect(page.locator(".hs-run-title")).to_have_text(name)
        expect(page.locator(".hs-rollout-viewer-empty")).to_contain_text(text)


def test_watch_and_runs_show_one_reward_under_one_name(open_page: OpenPage, url: str, root: Path) -> None:
    write_run(root, "long", steps=range(1, 31))  # the reward of step n is n / 60: 0.5 at the end, 0.425 over ten
    write_run(root, "short", steps=range(1, 4))
    page = open_page(url)
    open_tab(page, "Watch")
    choose(page, "long")
    reward = page.locator(".hs-run .hs-chart", has=page.get_by_text("Reward", exact=True)).locator(".hs-chart-value")
    expect(reward).to_have_text("42.5 % · mean of last 10 steps")
    choose(page, "short")
    expect(reward).to_have_text("33.3 % · mean of last 3 steps")
    open_tab(page, "Runs")
    head = page.locator(".hs-runs thead th", has_text="Reward")
    expect(head.locator("small")).to_have_text("mean of last 10 steps")
    long, short = (page.locator(".hs-runs tbody tr", has_text=name) for name in ("long", "short"))
    expect(long).to_contain_text("42.5 %")
    expect(long).not_to_contain_text("mean of last")
    expect(short).to_contain_text("33.3 %mean of last 3 steps")
    page.get_by_label("Compare long").check()
    page.get_by_role("button", name="Compare 1").click()
    compared = page.locator(".hs-comparison .hs-chart", has=page.get_by_text("Reward", exact=True))
    expect(compared.locator(".hs-chart-value")).to_have_text("42.5 % · mean of last 10 steps")


def test_held_out_curves_of_different_questions_are_never_in_one_chart(
    open_page: OpenPage, url: str, root: Path
) -> None:
    write_run(root, "first", held_out=(200, "a" * 64))
    write_run(root, "second", held_out=(200, "a" * 64))
    write_run(root, "small", held_out=(8, "b" * 64))
    write_run(root, "twin", held_out=(200, "c" * 64))
    page = open_page(url)
    open_tab(page, "Watch")
    choose(page, "small")
    expect(page.locator(".hs-run .hs-chart strong", has_text="Held-out accuracy")).to_have_text(
        "Held-out accuracy (n = 8)"
    )
    open_tab(page, "Runs")
    expect(page.locator(".hs-runs tbody tr", has_text="small")).to_contain_text("n = 8")
    titles = page.locator(".hs-comparison .hs-chart strong", has_text="Held-out accuracy")
    warning = page.locator(".hs-set-warning")
    for name in ("first", "second"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare 2").click()
    expect(titles).to_have_text(["Held-out accuracy (n = 200)"])
    expect(warning).to_have_count(0)
    for name in ("small", "twin"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare 4").click()
    expect(titles).to_have_text(
        [
            "Held-out accuracy (n = 200, set aaaaaa)",
            "Held-out accuracy (n = 8)",
            "Held-out accuracy (n = 200, set cccccc)",
        ]
    )
    largest = page.get_by_text("Held-out accuracy (n = 200, set aaaaaa)", exact=True)
    lines = page.locator(".hs-comparison .hs-chart", has=largest).locator("svg path.hs-line")
    expect(lines).to_have_count(2)
    expect(warning).to_contain_text("first, second on n = 200, set aaaaaa; small on n = 8; twin on n = 200, set cccccc")
    expect(page.locator(".hs-comparison .hs-chart strong", has_text="Reward")).to_have_count(
        1
    )  # not over these questions


def test_a_run_whose_status_cannot_be_read_says_so(open_page: OpenPage, url: str, root: Path) -> None:
    layout = write_run(root, "damaged")
    layout.status.write_text("{")
    page = open_page(url)
    open_tab(page, "Watch")
    expect(page.locator(".hs-run-outcome")).to_contain_text("Run unreadable")
    expect(page.locator(".hs-run-outcome")).to_contain_text("json is damaged")
