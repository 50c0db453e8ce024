"""Runs from the page: started, watched, stopped, killed, resumed, queued; the studio killed.

Those that are watched, killed and resumed train the built-in model; the others are processes without a model.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from hart_studio.runs.checkpoints import newest_checkpoint
from hart_studio.runs.layout import read_step
from hart_studio.runs.reader import list_runs, summarize_run
from hart_studio.runs.status import read_status
from hart_studio.ui.api import launch as launch_module
from tests.browser.conftest import PATIENCE_MS
from tests.browser.run_pages import (
    RUN_MS,
    end_runs,
    fill_form,
    find_layout,
    open_tab,
    start,
    state_is,
)

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
OpenPage = Callable[..., Page]
PACED_JOB = "tests.browser.paced_job"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    yield folder
    end_runs(folder)


@pytest.fixture(scope="module")
def studio_url(serve: Callable[..., str], image_folder: Path, root: Path) -> str:
    """A studio whose runs start empty."""
    return serve(None, image_folder, root)


@pytest.mark.core
@pytest.mark.timeout(600)
def test_a_run_is_started_watched_and_found_again(
    open_page: OpenPage, studio_url: str, root: Path, tmp_path: Path
) -> None:
    page = open_page(studio_url)
    open_tab(page, "Watch")
    expect(page.locator(".hs-no-run strong")).to_have_text("No runs yet")
    page.get_by_role("button", name="Train a model").click()
    expect(page.locator("#train-start")).to_be_visible()
    fill_form(page, tmp_path, "first")
    expect(page.locator("#train-command textarea")).to_have_value(
        re.compile(r"hart_studio\.training --preset cpu-demo .*rollout\.group_size=4.*--runs-root")
    )
    page.dblclick("#train-start")
    expect(page.locator(".hs-run-title")).to_have_text("first", timeout=RUN_MS)
    page.wait_for_selector(".hs-rollout", timeout=RUN_MS)
    address = page.url
    assert "tab=watch" in address and f"run={find_layout(root, 'first').run_id}" in address
    page.reload()
    expect(page.locator(".hs-run-title")).to_have_text("first")
    reloaded = open_page(studio_url)
    reloaded.goto(address)
    expect(reloaded.locator(".hs-run-title")).to_have_text("first")
    state_is(page, "completed")
    state_is(reloaded, "completed")
    assert len(list_runs(root)) == 1, "a double click is one run"
    for shown in (page, reloaded):
        expect(shown.locator(".hs-step")).to_have_text("step 3")
        expect(shown.locator(".hs-rollout")).to_have_count(4)
        assert shown.evaluate("[...document.querySelectorAll('.hs-rollout img')].every((one) => one.naturalWidth > 0)")
        expect(shown.locator(".hs-chart svg").first).to_be_visible()
    page.select_option("select[aria-label='Rollout source']", "held-out")
    expect(page.locator(".hs-step")).to_have_text("step 3, held-out")
    page.get_by_role("button", name="Track question").click()
    expect(page.locator(".hs-step")).to_contain_text("records")
    page.get_by_role("button", name="Gold boxes").click()
    page.wait_for_selector(".hs-gold rect", state="attached")
    expect(page.locator(".hs-gold-note")).to_contain_text("evaluation only")


def test_a_stop_saves_and_touches_nothing_else(
    open_page: OpenPage, studio_url: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "TRAINING_MODULE", PACED_JOB)
    page = open_page(studio_url)
    start(page, tmp_path, "stopped", schedule={"rl_steps": 500})
    layout = find_layout(root, "stopped")
    foreign = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", "hart_studio.training", layout.run_id]
    )
    try:
        expect(page.locator(".hs-run-steps")).to_contain_text("1 of 500", timeout=RUN_MS)
        page.get_by_role("button", name="Stop and save").click()
        expect(page.locator(".hs-run-message")).to_have_text("Stopping after this step; a checkpoint will be saved.")
        state_is(page, "stopped")
        expect(page.locator(".hs-run-message")).to_have_text("")
        assert foreign.poll() is None, "a program that only names the run continues"
    finally:
        foreign.kill()
        foreign.wait()
    saved = newest_checkpoint(layout)
    assert saved is not None and saved.manifest.step == read_status(layout).step < 500


def test_a_killed_trainer_is_shown_and_resumed(
    open_page: OpenPage, studio_url: str, root: Path, tmp_path: Path
) -> None:
    page = open_page(studio_url)
    start(page, tmp_path, "killed", schedule={"rl_steps": 4})
    layout = find_layout(root, "killed")
    expect(page.locator(".hs-run-steps")).to_contain_text("1 of 4", timeout=RUN_MS)
    pid = read_status(layout).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    state_is(page, "failed")
    expect(page.locator(".hs-run-outcome")).to_contain_text("SIGKILL")
    expect(page.locator(".hs-run-outcome")).to_contain_text("Lower schedule.rl_micro_batch_size")
    page.get_by_role("button", name="Resume").click()
    state_is(page, "completed")
    expect(page.locator(".hs-run-message")).to_have_text("")
    expect(page.locator(".hs-run-timing")).to_contain_text("attempt 2")


def test_a_checkpoint_is_tried_beside_the_model_it_began_with(open_page: OpenPage, studio_url: str, root: Path) -> None:
    page = open_page(studio_url)
    layout = find_layout(root, "killed")  # by the test above
    open_tab(page, "Watch")
    page.select_option(".hs-run-picker", layout.run_id)
    expect(page.locator(".hs-run-title")).to_have_text("killed")
    page.get_by_role("button", name="Open in Ask").click()
    expect(page.get_by_role("tab", name="Ask", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#ask-model-a input")).to_have_value("built-in")
    checkpoint = newest_checkpoint(layout)
    assert checkpoint is not None
    expect(page.locator("#ask-model-b input")).to_have_value(f"killed, step {read_step(checkpoint.folder.name)}")
    page.click(".hs-example >> nth=0")
    page.wait_for_selector("#result-a .hs-viewer:not(.hs-is-empty)")
    page.click("#ask-button")
    page.wait_for_selector("#result-b .hs-card", timeout=RUN_MS)


def test_a_second_run_waits_for_the_first(
    open_page: OpenPage, studio_url: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "TRAINING_MODULE", PACED_JOB)
    page = open_page(studio_url)
    start(page, tmp_path, "ahead", schedule={"rl_steps": 500})
    state_is(page, "running")
    fill_form(page, tmp_path, "behind", schedule={"rl_steps": 1, "eval_steps": 0})
    page.click("#train-start")
    open_tab(page, "Ask")
    toast = page.locator("[data-testid=toast-body]")
    expect(toast).to_contain_text("behind is queued behind 1 run. Follow it on the Watch tab.", timeout=RUN_MS)
    expect(page.get_by_role("tab", name="Ask", exact=True)).to_have_attribute("aria-selected", "true")
    open_tab(page, "Watch")
    page.select_option(".hs-run-picker", find_layout(root, "behind").run_id)
    state_is(page, "queued")
    expect(page.locator(".hs-run-phase")).to_have_text("queued behind 1 run on this device")
    open_tab(page, "Train")
    expect(page.locator(".hs-outcome")).to_contain_text("behind is queued behind 1 run")
    page.fill("#set-rollout-group-size input", "1")
    page.keyboard.press("Tab")
    expect(page.locator("#train-start")).to_be_disabled()
    open_tab(page, "Watch")
    page.select_option(".hs-run-picker", find_layout(root, "ahead").run_id)
    expect(page.locator(".hs-run-title")).to_have_text("ahead")
    page.get_by_role("button", name="Stop and save").click()
    state_is(page, "stopped")
    page.select_option(".hs-run-picker", find_layout(root, "behind").run_id)
    state_is(page, "completed")


def test_the_studio_is_killed_and_started_again_while_a_run_goes_on(
    open_page: OpenPage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "runs"
    request.addfinalizer(lambda: end_runs(root))
    log = tmp_path / "log"
    with StudioProcess(root, log=log) as first:
        assert first.url in log.read_text(), "a log that someone follows shows the address at once"
        page = open_page(first.url)
        start(page, tmp_path, "survivor", schedule={"rl_steps": 500})
        expect(page.locator(".hs-run-steps")).to_contain_text("1 of 500", timeout=RUN_MS)
        first.process.kill()
        expect(page.locator(".hs-offline-note")).to_be_visible()
    layout = find_layout(root, "survivor")
    step = read_status(layout).step
    assert summarize_run(layout).state == "running"
    with StudioProcess(root, first.port) as second:
        other = open_page(second.url)
        open_tab(other, "Watch")
        expect(other.locator(".hs-run-title")).to_have_text("survivor")
        expect(page.locator(".hs-offline-note")).to_be_hidden()  # the old tab continues by itself
        deadline = time.monotonic() + RUN_MS / 1000
        while read_status(layout).step <= step and time.monotonic() < deadline:
            time.sleep(0.2)
        other.get_by_role("button", name="Stop and save").click()
        state_is(other, "stopped")
        state_is(page, "stopped")


START_APP = f"""
import runpy, sys
from hart_studio.ui.api import launch as launch_module
launch_module.TRAINING_MODULE = "{PACED_JOB}"
sys.argv[0] = "app.py"
runpy.run_path("app.py", run_name="__main__")
"""


class StudioProcess:
    """``python app.py`` in a process of its own, whose trainings are paced jobs."""

    def __init__(self, root: Path, port: int | None = None, log: Path | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        argv = [sys.executable, "-c", START_APP, "--port", str(self.port), "--runs-root", str(root)]
        # Where Python output is unbuffered, it would not show whether the page itself does.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with (log or Path(os.devnull)).open("w") as output:
            self.process = subprocess.Popen(
                argv, cwd=Path(__file__).parents[2], env=environment, stdout=output, stderr=subprocess.DEVNULL
            )

    def __enter__(self) -> StudioProcess:
        deadline = time.monotonic() + RUN_MS / 1000
        while time.monotonic() < deadline:
            try:
                httpx.get(self.url)
            except httpx.HTTPError:
                time.sleep(0.2)
            else:
                return self
        raise TimeoutError("expected the studio to start")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
