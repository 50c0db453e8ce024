"""The Train page on a machine with two GPUs, whose driver's program is faked; the jobs are processes without a model.

There is no GPU behind the fake, so that several share a run through accelerate is shown by its command alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api import launch as launch_module
from tests.browser.conftest import PATIENCE_MS
from tests.browser.run_pages import RUN_MS, end_runs, fill_form, find_layout, open_tab, state_is

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``nvidia-smi`` of a machine with two processors of one kind."""
    program = tmp_path_factory.mktemp("driver") / "nvidia-smi"
    set_memory(program, 4096, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        yield program


def set_memory(program: Path, *used_mib: int) -> None:
    lines = "".join(f"echo '{index}, NVIDIA L4, 24576, {used}'\n" for index, used in enumerate(used_mib))
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    yield folder
    end_runs(folder)


@pytest.fixture(scope="module")
def studio_url(serve: Callable[..., str], image_folder: Path, root: Path, driver: Path) -> str:
    return serve(None, image_folder, root)


def choose_gpus(page: Page, *indices: int) -> None:
    for index in (0, 1):
        page.locator("#train-gpus input").nth(index).set_checked(index in indices)
    seen = ",".join(map(str, indices))
    expect(page.locator("#train-command textarea")).to_have_value(
        re.compile(f"CUDA_VISIBLE_DEVICES={seen or repr('')} ")
    )


def start_on(page: Page, folder: Path, name: str, gpu: int, steps: int = 500) -> None:
    fill_form(page, folder, name, schedule={"rl_steps": steps, "eval_steps": 0})
    choose_gpus(page, gpu)
    page.click("#train-start")
    expect(page.locator(".hs-run-title")).to_have_text(name, timeout=RUN_MS)


def read_plan(layout: RunLayout) -> dict[str, object]:
    plan: dict[str, object] = json.loads(layout.launch.read_text())
    return plan


def test_the_processors_are_listed_with_the_memory_that_is_free_now(
    open_page: OpenPage, studio_url: str, driver: Path
) -> None:
    page = open_page(studio_url)
    open_tab(page, "Train")
    labels = page.locator("#train-gpus label")
    expect(labels).to_have_text(["0: NVIDIA L4 (20 of 24 GB free)", "1: NVIDIA L4 (24 of 24 GB free)"])
    expect(page.locator(".hs-facts")).to_contain_text("1 GPU")
    set_memory(driver, 4096, 12288)
    open_tab(page, "Runs")
    open_tab(page, "Train")
    expect(labels.nth(1)).to_have_text("1: NVIDIA L4 (12 of 24 GB free)")


def test_two_processors_share_a_run_through_accelerate(open_page: OpenPage, studio_url: str) -> None:
    page = open_page(studio_url)
    open_tab(page, "Train")
    command = page.locator("#train-command textarea")
    choose_gpus(page, 1)
    expect(command).not_to_have_value(re.compile("accelerate"))
    choose_gpus(page, 0, 1)
    launched = r"CUDA_DEVICE_ORDER=PCI_BUS_ID \S+ -m accelerate\.commands\.launch --config_file \S+/{}\.yaml "
    expect(command).to_have_value(re.compile(launched.format("ddp") + "--num_processes 2 -m hart_studio.training "))
    expect(page.locator(".hs-facts")).to_contain_text("2 GPUs")
    page.click("#train-setup input")
    page.get_by_role("option", name="FSDP").click()
    expect(command).to_have_value(re.compile(launched.format("fsdp")))
    choose_gpus(page)
    expect(page.locator(".hs-facts")).to_contain_text("CPU")


def test_a_run_waits_for_its_processor_and_for_no_other(
    open_page: OpenPage, studio_url: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "TRAINING_MODULE", "tests.browser.paced_job")
    page = open_page(studio_url)
    start_on(page, tmp_path, "first", 0)
    state_is(page, "running")
    start_on(page, tmp_path, "second", 0, steps=1)
    state_is(page, "queued")
    start_on(page, tmp_path, "other", 1)
    state_is(page, "running")
    first, second, other = (find_layout(root, name) for name in ("first", "second", "other"))
    assert [read_plan(layout)["gpus"] for layout in (first, second, other)] == [[0], [0], [1]]
    expect(page.locator(".hs-run-steps")).to_contain_text("1 of 500", timeout=RUN_MS)
    for layout, seen in ((first, "0"), (other, "1")):
        environment = json.loads(layout.provenance.read_text())["environment"]
        assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == (seen, "PCI_BUS_ID"), (
            "as the job sees it"
        )
    page.select_option(".hs-run-picker", second.run_id)
    state_is(page, "queued")
    page.select_option(".hs-run-picker", first.run_id)
    expect(page.locator(".hs-run-title")).to_have_text("first")
    page.get_by_role("button", name="Stop and save").click()
    state_is(page, "stopped")
    page.select_option(".hs-run-picker", second.run_id)
    expect(page.locator(".hs-run-names .hs-pill")).to_have_text(re.compile("running|completed"), timeout=RUN_MS)
