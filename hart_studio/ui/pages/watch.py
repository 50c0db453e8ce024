"""The Watch and Runs tabs: components, the functions that their scripts call, and the publishing form."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import gradio as gr

from hart_studio.errors import HartError, InputError
from hart_studio.runs.layout import find_run
from hart_studio.runs.metric_series import RECENT_STEPS
from hart_studio.runs.publishing import Destination, publish_checkpoint
from hart_studio.ui.api.handler import PollRequest, api_handler
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.api.rollouts import RolloutApi
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.pages.display import QUIET, Display, Failed, PageComponent, ProgressStatus, Running, read_event
from hart_studio.ui.security.access import Permissions


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: Title.
        lines: (metric, legend label).
        unit: ``share`` is shown in percent; other units follow the number.
        note: Caption.
        is_held_out: Whether the metrics come from evaluations.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = ""
    note: str = ""
    is_held_out: bool = False


CHARTS: Final = (
    Chart(
        "Reward",
        (("reward", "reward"),),
        "share",
        "Mean of the correct-answer reward, plus the format reward, minus the area penalty, if they are set.",
    ),
    Chart(
        "Held-out accuracy",
        (("accuracy", "accuracy"),),
        "share",
        "Uses the protocol of the training stage: crops for AP-GRPO, crops and full image for MGPO, full image for "
        "GRPO and SFT. Values of stages with different protocols are not comparable.",
        is_held_out=True,
    ),
    Chart(
        "Held-out grounding",
        (("iog_above_0.3", "IoG > 0.3"), ("iou", "mean IoU")),
        "share",
        "Evaluations ask for boxes whatever the method, and measure them with gold boxes, which training never uses. "
        "IoG: intersection over gold area (share of the gold box that is covered).",
        is_held_out=True,
    ),
    Chart(
        "Box area",
        (("area_share", "share of the image"),),
        "share",
        "Large boxes raise IoG but not IoU.",
    ),
    Chart("Valid boxes", (("valid_box_rate", "valid"),), "share"),
    Chart(
        "Zero-variance groups",
        (("frac_reward_zero_std", "all rewards equal"), ("resampled_share", "replaced")),
        "share",
        "All advantages in such a group are 0: no gradient from the reward, only from the KL term.",
    ),
    Chart(
        "KL to reference",
        (("kl_correct", "correct"), ("kl_wrong", "wrong"), ("kl", "all")),
        "nats",
        "Per token, to the model at the start of the stage.",
    ),
    Chart(
        "Mean policy weight mu1",
        (("mu1_correct", "correct"), ("mu1_wrong", "wrong")),
        note="Policy weight of Eq. 5. Always 1 if preference scale k = 0 or the method is not AP-GRPO.",
    ),
    Chart(
        "Clipped tokens",
        (("clip_ratio", "clipped"),),
        "share",
        "Tokens without a policy gradient because their probability ratio is outside the clip range. Only with several "
        "optimizer steps per batch of rollouts.",
    ),
    Chart(
        "Sampler gap",
        (("sampling_logp_gap", "mean"), ("sampling_logp_gap_max", "largest")),
        "nats",
        "Difference between the log-probabilities of sampled tokens when they were sampled and when they are trained. "
        "More than rounding means that sampling and training see different weights or inputs.",
    ),
    Chart("Entropy", (("entropy", "entropy"),), "nats"),
    Chart("Length", (("grounding_tokens", "grounding"), ("answer_tokens", "answer")), "tokens"),
    Chart("Truncated or failed", (("truncated_share", "truncated"), ("failed_share", "failed")), "share"),
    Chart(
        "Step time",
        (("seconds_rollout", "generate"), ("seconds_reference", "reference"), ("seconds_update", "train")),
        "s",
    ),
    Chart(
        "Loss",
        (("loss", "loss"),),
        note="Values near 0 are normal for GRPO: the advantages of a group sum to 0, and the ratio is 1 with one "
        "update per rollout. Use the reward to judge progress.",
    ),
    Chart("Gradient norm", (("grad_norm", "norm before clipping"),)),
    Chart("Learning rate", (("learning_rate", "rate"),)),
    Chart(
        "Memory", (("memory_mib", "peak"),), "MiB", "Peak of the GPU's allocated memory, or of the process on the CPU."
    ),
)
"""Charts of a run, most important first."""

_CHART_VALUES: Final = {"charts": [asdict(chart) for chart in CHARTS], "recent_steps": RECENT_STEPS}
"""Chart definitions as JSON, and the number of steps that current values are averaged over."""


_STAMPS = itertools.count()


@dataclass(frozen=True)
class RunChoice:
    """Selected run. The stamp makes each selection new, so that the same run can be selected again."""

    run: str
    stamp: int = field(default_factory=lambda: next(_STAMPS))


class RunView(PageComponent):
    """Shows a run; its script polls ``RunMonitor`` every second. Fires ``open_model`` with ``run`` and ``step``."""

    template = "run_view.html"
    scripts = ("server_calls.js", "charts.js", "rollout_viewer.js", "run_view.js")

    def postprocess(self, value: object) -> Any:
        """The selection and the chart definitions."""
        return {**super().postprocess(value), **_CHART_VALUES}


class RunsTable(Display):
    """Table of all runs to search, filter and compare; fires ``open_run`` with ``run``."""

    template = "runs_table.html"
    scripts = ("server_calls.js", "charts.js", "svg_figure.js", "runs_table.js")

    def postprocess(self, value: object) -> Any:
        """The chart definitions."""
        return _CHART_VALUES


@dataclass(frozen=True)
class RunComponents:
    """Components of both tabs, created before they are placed."""

    view: RunView
    table: RunsTable


def build_run_components(watch: RunMonitor, launcher: RunLauncher, permissions: Permissions) -> RunComponents:
    """Create the components of both tabs; call ``render`` where they belong."""
    marker = Path(watch.image_folder) / "marker.txt"
    marker.write_text("Images of rollouts are next to this file.\n", encoding="utf-8")
    redact_paths = permissions.is_public or not launcher.is_open
    recorded = RolloutApi(watch)
    readers = (watch.list_runs, watch.poll, recorded.rollouts, recorded.track_question, recorded.gold_boxes)
    actions = (launcher.stop, launcher.resume, watch.delete) if launcher.is_open else ()
    answers = [api_handler(each, permissions.require_owner, redact_paths=redact_paths) for each in readers]
    answers += [api_handler(each, permissions.require_write_access) for each in actions]
    view = RunView(marker, RunChoice(""), answers, is_open=launcher.is_open, render=False, elem_id="run-view")
    lists = [
        api_handler(each, permissions.require_owner, redact_paths=redact_paths)
        for each in (watch.list_runs, watch.compare)
    ]
    table = RunsTable({}, server_functions=lists, render=False, elem_id="runs-table")
    return RunComponents(view, table)


def read_run(event: gr.EventData) -> str:
    """Run id from the browser, not validated."""
    return str(read_event(event).get("run", ""))


def read_step(event: gr.EventData) -> int | None:
    """Checkpoint step from the browser, or None if invalid."""
    step = read_event(event).get("step")
    return step if isinstance(step, int) and step >= 0 else None


def update_run_choices(watch: RunMonitor) -> Any:
    """Update that fills a list with the runs."""
    runs = (watch.list_runs(PollRequest()) or {"runs": []})["runs"]
    return gr.update(choices=[(f"{run['title']} ({run['stages']}, {run['state']})", run["id"]) for run in runs])


def show_run(pages: RunComponents, tabs: gr.Tabs, run_id: str) -> dict[Any, Any]:
    """Updates that show a run on the Watch tab."""
    return {tabs: gr.update(selected="watch"), pages.view: RunChoice(run_id)}


def build_publish_form(watch: RunMonitor, permissions: Permissions) -> None:
    """Build the form that uploads a checkpoint to the Hugging Face Hub; connects its events."""
    with gr.Accordion("Publish checkpoint", open=False, elem_id="publish"):
        run = gr.Dropdown([], label="Run", elem_id="publish-run")
        with gr.Row():
            repo = gr.Textbox(label="Repository", placeholder="owner/name", max_lines=1, elem_id="publish-repo")
            token = gr.Textbox(
                label="Access token", type="password", max_lines=1, elem_id="publish-token",
                info="Hugging Face token with write access; used once and not stored.",
            )  # fmt: skip
            is_private = gr.Checkbox(True, label="Private", scale=0)
        button = gr.Button("Publish latest checkpoint", elem_id="publish-button")
        status = ProgressStatus()
        done = gr.Markdown(visible=False, elem_id="publish-done")

    def list_runs(user: gr.OAuthProfile | None = None) -> Any:
        return update_run_choices(watch) if permissions.is_owner(user) else gr.skip()

    def publish(
        run_id: str | None, name: str, secret: str, hidden: bool, user: gr.OAuthProfile | None = None
    ) -> Iterator[dict[Any, Any]]:
        try:
            permissions.require_write_access(user)
            if not run_id:
                raise InputError("No run selected. Choose one from the list.")
            layout = find_run(watch.runs_root, run_id)
            destination = Destination((name or "").strip(), secret or "", hidden)
            yield {status: Running(0.1, "Uploading"), done: gr.update(visible=False)}
            address = publish_checkpoint(layout, None, destination)
            yield {status: None, token: "", done: gr.update(value=f"Published: `{address}`", visible=True)}
        except HartError as error:
            found = describe(error)
            yield {status: Failed("Publishing failed", found.message)}
        except Exception as error:
            yield {status: describe(error)}

    run.focus(list_runs, None, run, **QUIET)
    button.click(publish, [run, repo, token, is_private], [status, token, done], **QUIET)
