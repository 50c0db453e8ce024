"""What the browser tests of Train, Watch and Runs share: small real settings, made-up runs, ways through a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

from hart_studio.records import Box, Credit, Rollout, RolloutGroup, Sample, Score, Turn
from hart_studio.runs.config import RunConfig
from hart_studio.runs.launcher import stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.reader import list_runs
from hart_studio.runs.rollouts import GroupImages
from hart_studio.runs.writer import RunWriter, create_run

RUN_MS = 240_000
"""For a small real run, on a machine that is busy with something else."""

IMAGE_WH = (1000, 500)
BOX_XYXY = (100.0, 50.0, 300.0, 250.0)

SETTINGS: dict[str, Any] = {
    "data": {"rl_samples": 8, "eval_samples": 4, "needle_samples": 12},
    "rollout": {"group_size": 4, "max_grounding_tokens": 48, "max_answer_tokens": 16},
    "method": {"stages": "ap_grpo"},
    "schedule": {
        "rl_steps": 3,
        "rl_batch_size": 2,
        "rl_micro_batch_size": 2,
        "rollout_log_steps": 1,
        "save_steps": 1,
        "eval_steps": 2,
    },
}
"""A real run of the built-in model, of seconds."""

PROVENANCE = Provenance(
    git_commit=None, has_local_changes=None, versions={}, platform="test", argv=("python",), environment={},
    device="cpu", data_fingerprint="",
)  # fmt: skip


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def fill_form(page: Page, folder: Path, name: str, **changes: dict[str, Any]) -> None:
    """Put settings into the form, as a file of settings."""
    settings = {key: {**value, **changes.get(key, {})} for key, value in SETTINGS.items()}
    path = folder / "settings.json"
    path.write_text(json.dumps({**settings, "name": name}))
    open_tab(page, "Train")
    filled = page.locator("#train-form").get_by_label("Clear")
    if filled.count():
        filled.first.click()
    elif not page.locator("#train-form input[type=file]").count():
        page.locator("#train-form button.label-wrap", has_text="Load settings").click()
    page.set_input_files("#train-form input[type=file]", path)
    expect(page.locator("#set-name input, #set-name textarea")).to_have_value(name)


def start(page: Page, folder: Path, name: str, **changes: dict[str, Any]) -> None:
    """Start a run from the form, and wait until it is shown."""
    fill_form(page, folder, name, **changes)
    page.click("#train-start")
    expect(page.locator(".hs-run-title")).to_have_text(name, timeout=RUN_MS)


def state_is(page: Page, state: str) -> None:
    expect(page.locator(".hs-run-names .hs-pill")).to_have_text(state, timeout=RUN_MS)


def end_runs(root: Path) -> None:
    """End what a test that failed has left running."""
    for run in list_runs(root):
        stop_run(run.layout, save_seconds=0.0)


def find_layout(root: Path, name: str) -> RunLayout:
    (found,) = [path.parent for path in root.glob("*/config.json") if json.loads(path.read_text())["name"] == name]
    return RunLayout(found)


def write_run(
    root: Path,
    name: str,
    steps: Sequence[int] = (1, 2),
    text: str = "the star is red",
    question: str = "Which color?",
    held_out: tuple[int, str] = (8, "a1b2c3"),
    **settings: Any,
) -> RunLayout:
    """A run that someone else has made: rollouts at every step, the held-out question at the first and the last."""
    config = RunConfig.model_validate({"name": name, **settings})
    layout = create_run(root, "training", config, config.method.stages, total=max(steps))
    with RunWriter(layout, total=max(steps)) as run:
        run.start(PROVENANCE)
        run.log_evaluation(0, {"accuracy": 0.25, "iog_above_0.3": 0.5, "iou": 0.3, "area_share": 0.02}, *held_out)
        run.log_rollouts(0, [make_group("held", text, question, 0, is_held_out=True)], is_held_out=True)
        for step in steps:
            run.log_step(step, "ap_grpo", {"reward": step / (2 * max(steps)), "kl": 0.01, "loss": -0.1})
            run.log_rollouts(step, [make_group(f"q{step}", text, question, step)])
        run.log_evaluation(
            max(steps), {"accuracy": 0.75, "iog_above_0.3": 0.9, "iou": 0.6, "area_share": 0.02}, *held_out
        )
        run.log_rollouts(
            max(steps), [make_group("held", text, question, max(steps), is_held_out=True)], is_held_out=True
        )
        with run.saving_checkpoint(max(steps), "ap_grpo", is_kept=True) as folder:
            (folder / "weights").write_text("x")
    return layout


def make_group(sample_id: str, text: str, question: str, step: int, *, is_held_out: bool = False) -> GroupImages:
    """Rollouts whose first box moves right by a pixel a step; the second one is wrong."""
    left, top, right, bottom = BOX_XYXY
    box = Box.from_xyxy((left + step, top, right + step, bottom), text)
    sample = Sample(id=sample_id, image="x.png", question=question, choices=("red", "blue"), answer="A")

    def turn(kind: Any, said: str) -> Turn:
        return Turn(
            kind=kind, prompt="?", image_sizes_wh=((10, 10),), text=said, finish_reason="stop",
            prompt_tokens=5, visual_tokens=3, completion_tokens=2, seconds=0.1,
        )  # fmt: skip

    rollouts = tuple(
        Rollout(
            sample_id=sample_id, protocol="crops_only", outcome="ok", boxes=(box,), crops=(box,),
            turns=(turn("grounding", text), turn("answer", text)),
            score=Score(value=value, extracted="A", expected="A", rule="boxed"),
        )
        for value in ((1.0,) if is_held_out else (1.0, 0.0))
    )  # fmt: skip
    credits = () if is_held_out else tuple(
        Credit(advantage=advantage, policy_weight=1 + 0.3 * advantage, kl_weight=0.04) for advantage in (1.0, -1.0)
    )  # fmt: skip
    group = RolloutGroup(sample_id=sample_id, protocol="crops_only", rollouts=rollouts, credits=credits)
    crop = Image.new("RGB", (40, 40), "red")
    return GroupImages(sample, group, IMAGE_WH, Image.new("RGB", (200, 100), "navy"), [[crop] for _ in rollouts])
