"""The Train tab: settings in, a checked and running job out. The page writes no setting of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import gradio as gr

from hart_studio.errors import HartError, InputError
from hart_studio.files import write_atomically
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import Gpu
from hart_studio.runs.layout import find_run
from hart_studio.runs.overrides import dump_config, load_config, read_config
from hart_studio.runs.presets import DEFAULT_PRESET, PRESETS, find_preset
from hart_studio.ui.components.launch_report import LaunchReport, LaunchState, SampleCards
from hart_studio.ui.failures import describe
from hart_studio.ui.form import (
    CHAIN_TITLES,
    GROUPS,
    Widget,
    label_problems,
    list_widgets,
    name_labels,
    read_values,
    write_values,
)
from hart_studio.ui.launch_desk import SETUPS, LaunchDesk, Order
from hart_studio.ui.rights import CLOSED, Rights
from hart_studio.ui.run_watch import RunWatch
from hart_studio.ui.sample_preview import preview_samples
from hart_studio.ui.tabs.watch import RunPages, show_run

TOAST_SECONDS: Final = 8.0
"""How long somebody on another tab is told that a run has started."""

_NOT_PLACED: Final = ("", "The run was not started. The Train tab says why.")
"""In place of the id of a run and what is said of it."""

_IS_HERE: Final = "(placed) => [placed, Boolean(document.querySelector('#train-start')?.offsetParent)]"
"""Asked of the page when a run has started: the checks before it take a while, and one goes on with something else."""

_START: Final = "Start training"
_START_LATER: Final = "Start after this check"
"""Told in place of the other while a check runs: a start has one of its own, and both at once are slow."""

_SHARDED_PRESETS: Final = {"full-finetune-zero3": "deepspeed_zero3"}


@dataclass(frozen=True)
class TrainForm:
    """The form, for whoever fills it from another tab.

    Attributes:
        outputs: What ``fill`` gives values for.
        fill: From settings to the values of ``outputs``.
    """

    outputs: list[Any]
    fill: Callable[[RunConfig], list[Any]]


def build_train_tab(desk: LaunchDesk, watch: RunWatch, pages: RunPages, tabs: gr.Tabs, rights: Rights) -> TrainForm:
    """Lay out the tab inside the current ``gr.Blocks`` and wire its events.

    Args:
        desk: Takes orders.
        watch: Knows the runs, and has a folder that the server serves.
        pages: The Watch tab shows a run that was started here.
        tabs: Of the whole page.
        rights: Says who may train, and who may see earlier runs.

    Returns:
        The form.
    """
    widgets = list_widgets()
    base_config = find_preset(DEFAULT_PRESET).config
    gpus = desk.gpus()

    def tell_command(order: Order, person: gr.OAuthProfile | None) -> str:
        """The command for who may run it here: it names folders of this machine, which are nobody else's business."""
        return desk.command_line(order) if desk.is_open and rights.is_owner(person) else ""

    base = gr.State((DEFAULT_PRESET, base_config.model_dump(mode="json")))
    placed = gr.State(_NOT_PLACED)
    is_here = gr.Checkbox(visible=False)
    with gr.Row(elem_id="train-page"):
        with gr.Column(elem_id="train-form"):
            preset = gr.Dropdown(
                [(found.title, name) for name, found in PRESETS.items()], value=DEFAULT_PRESET, label="Start from",
                info="A preset fills the form; change what you like.", elem_id="train-preset",
            )  # fmt: skip
            with gr.Accordion("Start from an earlier run or a file", open=False):
                earlier = gr.Dropdown([], label="Earlier run", elem_id="train-earlier")
                file = gr.File(label="File of settings", file_types=[".json"], type="filepath", height=90)
            inputs = _build_fields(widgets, base_config)
            with gr.Group(elem_id="train-device"):
                chosen = gr.CheckboxGroup(
                    _list_choices(gpus), value=[gpu.index for gpu in gpus[:1]], label="GPUs", visible=bool(gpus),
                    elem_id="train-gpus",
                )  # fmt: skip
                setup = gr.Dropdown(
                    [(title, name) for name, title in SETUPS.items()], value="ddp", label="With several GPUs",
                    visible=len(gpus) > 1, elem_id="train-setup",
                )  # fmt: skip
                if not gpus:
                    gr.Markdown("No GPU was found: runs use the CPU of this machine.", elem_classes="hs-no-gpu")
        with gr.Column(elem_id="train-plan"):
            first = Order(base_config, DEFAULT_PRESET, tuple(gpu.index for gpu in gpus[:1]))
            closed = "" if desk.is_open else f"{CLOSED[0].upper()}{CLOSED[1:]}."
            report = LaunchReport(replace(_summarize(first), outcome=closed, is_refused=True), elem_id="train-report")
            with gr.Row(elem_id="train-buttons"):
                start = gr.Button(_START, variant="primary", size="lg", interactive=desk.is_open, elem_id="train-start")
                check = gr.Button("Only check", size="lg", interactive=desk.is_open, elem_id="train-check")
                look = gr.Button("Show samples", size="lg", interactive=desk.is_open, elem_id="train-look")
            samples = SampleCards(elem_id="train-samples")
            command = gr.Textbox(
                value=tell_command(first, None), label="The same run from a terminal", lines=2, max_lines=14,
                interactive=False, buttons=["copy"], elem_id="train-command",
            )  # fmt: skip
            save = gr.DownloadButton(
                "Save these settings as a file", value=_write_settings(base_config, watch.pictures), size="sm",
                elem_id="train-save",
            )  # fmt: skip

    place = [base, chosen, setup, *inputs]

    def read_order(base: tuple[str, dict[str, Any]], chosen: list[int], setup: str, *values: Any) -> Order:
        name, settings = base
        return Order(read_values(values, read_config(settings)), name, tuple(sorted(chosen or [])), setup)

    def review(person: gr.OAuthProfile | None, *given: Any) -> list[Any]:
        try:
            order = read_order(*given)
        except InputError as error:
            problems = tuple(label_problems(str(error)))
            return [LaunchState("These settings cannot be used", problems=problems), "", gr.update(interactive=False)]
        path = _write_settings(order.config, watch.pictures)
        return [_summarize(order), tell_command(order, person), gr.update(value=path, interactive=True)]

    def fill(name: str, config: RunConfig) -> list[Any]:
        return [(name, config.model_dump(mode="json")), *write_values(config)]

    staged = [(widget, block) for widget, block in zip(widgets, inputs, strict=True) if widget.field.stage]

    def show_used(chain: str) -> list[Any]:
        return [gr.update(visible=_find_visibility(widget, chain)) for widget, _ in staged]

    def use_preset(name: str) -> list[Any]:
        return [_SHARDED_PRESETS.get(name, "ddp"), *fill(name, find_preset(name).config)]

    def use_run(run_id: str | None, person: gr.OAuthProfile | None = None) -> list[Any]:
        if not run_id:
            return [gr.skip()] * (1 + len(inputs))
        try:
            rights.ensure_owner(person)
            return fill(DEFAULT_PRESET, load_config(find_run(desk.runs_root, run_id).config))
        except InputError as error:
            raise gr.Error(str(error), title="This run cannot be used", print_exception=False) from error

    def use_file(path: str | None) -> list[Any]:
        if not path:
            return [gr.skip()] * (1 + len(inputs))
        try:
            return fill(DEFAULT_PRESET, load_config(Path(path)))
        except InputError as error:
            raise gr.Error(
                str(error).split("\n", 1)[-1], title="This file cannot be used", print_exception=False
            ) from error

    def list_earlier(person: gr.OAuthProfile | None = None) -> Any:
        if not rights.is_owner(person):
            return gr.skip()
        found = watch.index({}) or {"runs": []}
        return gr.update(
            choices=[(f"{run['title']} ({run['chain']}, {run['state']})", run["id"]) for run in found["runs"]]
        )

    def look_at_samples(person: gr.OAuthProfile | None, *given: Any) -> list[Any]:
        try:
            rights.ensure_maker(person)
            desk.ensure_open()
            order = read_order(*given)
            return [_summarize(order), preview_samples(order.config, watch.pictures)]
        except Exception as error:
            return [_refuse(error), None]

    def check_order(person: gr.OAuthProfile | None, *given: Any) -> Iterator[dict[Any, Any]]:
        is_open = gr.update(value=_START, interactive=desk.is_open)
        try:
            rights.ensure_maker(person)
            order = read_order(*given)
            state = LaunchState()
            for state in _follow_check(desk, order):
                yield {report: state, start: gr.update(value=_START_LATER, interactive=False)}
            yield {report: replace(state, is_checking=False, outcome=_judge(state)), start: is_open}
        except Exception as error:
            yield {report: _refuse(error), start: is_open}

    def start_order(person: gr.OAuthProfile | None, *given: Any) -> Iterator[dict[Any, Any]]:
        try:
            rights.ensure_maker(person)
            desk.ensure_open()
            order = read_order(*given)
            steps = _follow_check(desk, order)
            state = LaunchState()
            for state in steps:
                yield {report: state}
            if any(finding["state"] == "bad" for finding in state.findings):
                refused = replace(state, is_checking=False, outcome=_judge(state), is_refused=True)
                yield {report: refused, placed: _NOT_PLACED}
                return
            run_id = desk.place(order)
            waiting = desk.place_in_queue(run_id)
            called = order.config.name or run_id
            outcome = (
                f"{called} waits for {waiting} other run{'s' * (waiting > 1)}." if waiting else f"{called} is starting."
            )
            told = f"{outcome} It is on the Watch tab."
            yield {report: replace(state, is_checking=False, outcome=outcome), placed: (run_id, told)}
        except Exception as error:
            yield {report: _refuse(error), placed: _NOT_PLACED}

    def show_placed(placed: tuple[str, str], is_here: bool) -> dict[Any, Any]:
        """Show the run that was started, to somebody who is still here; whoever has gone on is told where it is."""
        run_id, told = placed
        if run_id and is_here:
            return show_run(pages, tabs, run_id)
        if not is_here:
            (gr.Info if run_id else gr.Warning)(told, duration=TOAST_SECONDS)
        return {tabs: gr.skip()}

    def list_gpus_anew(event: gr.SelectData) -> Any:
        return gr.update(choices=_list_choices(desk.gpus())) if event.value == "Train" else gr.skip()

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    changes = [block.change for block in (*inputs, chosen, setup)]
    gr.on(changes, review, place, [report, command, save], trigger_mode="always_last", **quiet)
    (chain,) = [block for widget, block in zip(widgets, inputs, strict=True) if widget.field.name == "method.chain"]
    chain.change(show_used, chain, [block for _, block in staged], **quiet)
    if gpus:
        tabs.select(list_gpus_anew, None, chosen, **quiet)
    preset.input(use_preset, preset, [setup, base, *inputs], **quiet)
    earlier.focus(list_earlier, None, earlier, **quiet)
    earlier.input(use_run, earlier, [base, *inputs], **quiet)
    file.upload(use_file, file, [base, *inputs], **quiet)
    look.click(look_at_samples, place, [report, samples], api_visibility="private", show_progress="minimal")
    check.click(check_order, place, [report, start], **quiet)
    started = start.click(start_order, place, [report, placed], concurrency_limit=4, **quiet)
    started.then(show_placed, [placed, is_here], [tabs, pages.view], js=_IS_HERE, **quiet)
    return TrainForm([base, *inputs], lambda config: fill(DEFAULT_PRESET, config))


def _list_choices(gpus: list[Gpu]) -> list[tuple[str, int]]:
    return [(gpu.title, gpu.index) for gpu in gpus]


def _write_settings(config: RunConfig, folder: Path) -> str:
    """The settings as a file to save, in a folder named by what is in it: another visitor has another file."""
    text = dump_config(config)
    place = folder / "settings" / hashlib.sha256(text.encode()).hexdigest()[:20]
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{config.method.chain.replace('+', '-')}-settings.json"
    write_atomically(path, text)
    return str(path)


def _build_fields(widgets: list[Widget], config: RunConfig) -> list[Any]:
    """The widgets of every group: the first group open, the others folded away."""
    made: dict[str, Any] = {}
    pairs = list(zip(widgets, write_values(config), strict=True))
    for group in GROUPS:
        members = [(widget, value) for widget, value in pairs if widget.field.group == group]
        is_open = group == GROUPS[0]
        with gr.Group(elem_id="train-method") if is_open else gr.Accordion(group, open=False, elem_classes="hs-group"):
            made |= {
                widget.field.name: _build_field(widget, value, _find_visibility(widget, config.method.chain))
                for widget, value in members
            }
    return [made[widget.field.name] for widget in widgets]


def _find_visibility(widget: Widget, chain: str) -> bool | Literal["hidden"]:
    """A setting that a chain never looks at keeps its place on the page, and its value, out of sight."""
    return True if widget.field.is_used(chain) else "hidden"


def _build_field(widget: Widget, value: Any, visible: bool | Literal["hidden"]) -> Any:
    name = widget.field.name
    common: dict[str, Any] = {
        "label": widget.field.label,
        "info": widget.info,
        "value": value,
        "interactive": True,
        "visible": visible,
        "elem_id": "set-" + name.replace(".", "-").replace("_", "-"),
    }
    if widget.kind == "choice":
        return gr.Dropdown(list(widget.choices), **common)
    if widget.kind == "several":
        return gr.CheckboxGroup(list(widget.choices), **common)
    if widget.kind == "switch":
        return gr.Checkbox(**common)
    if widget.kind == "number":
        return gr.Number(step=1 if widget.is_whole else _step_of(value), **common)
    return gr.Textbox(max_lines=1, placeholder="automatic" if widget.kind == "number or nothing" else None, **common)


def _step_of(value: float) -> float:
    """What an arrow key adds to a number: one unit of its leading digit."""
    return 10.0 ** math.floor(math.log10(value)) if value > 0 else 0.01


def _summarize(order: Order) -> LaunchState:
    """What the settings come to."""
    config = order.config
    schedule, has_rl = config.schedule, any(stage != "sft" for stage in config.method.stages)
    rollouts = schedule.prompts_per_step * config.rollout.group_size
    facts = [
        ("Model", config.model.id or "built-in (hart-tiny-base)"),
        ("Steps", f"{config.total_steps:,}"),
        *(
            [
                (
                    "Rollouts of a step",
                    f"{schedule.prompts_per_step} questions × {config.rollout.group_size} = {rollouts}",
                )
            ]
            * has_rl
        ),
        ("Device", f"{len(order.gpus)} GPU{'s' * (len(order.gpus) > 1)}" if order.gpus else "CPU"),
    ]
    return LaunchState(CHAIN_TITLES[config.method.chain], tuple(facts), notes=tuple(map(name_labels, config.warnings)))


def _follow_check(desk: LaunchDesk, order: Order) -> Any:
    """Yield the report as findings come; returns the last one."""
    state = replace(_summarize(order), notes=(), is_checking=True)
    yield state
    for found in desk.check(order):
        finding = {**found, "text": name_labels(found["text"]), "advice": name_labels(found["advice"])}
        state = replace(state, findings=(*state.findings, finding))
        yield state
    return replace(state, is_checking=False)


def _judge(state: LaunchState) -> str:
    bad = sum(finding["state"] == "bad" for finding in state.findings)
    unsure = sum(finding["state"] == "check" for finding in state.findings)
    if bad:
        return "The run would fail. Change what is marked, then start it."
    return "Ready to start" + (f"; {unsure} point{'s' * (unsure > 1)} to look at." if unsure else ".")


def _refuse(error: Exception) -> LaunchState:
    if not isinstance(error, HartError):
        failed = describe(error)
        return LaunchState(failed.title, outcome=failed.message, is_refused=True)
    text = str(error)
    problems = tuple(label_problems(text)) if isinstance(error, InputError) else (("Samples", text),)
    return LaunchState("This cannot be started", problems=problems, is_refused=True)
