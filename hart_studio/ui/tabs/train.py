"""The Train tab: settings in, a checked and running job out. The page writes no setting of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import gradio as gr

from hart_studio.errors import InputError
from hart_studio.files import write_atomically
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import Gpu
from hart_studio.runs.layout import find_run
from hart_studio.runs.overrides import dump_config, load_config, read_config
from hart_studio.runs.presets import DEFAULT_PRESET, PRESETS, find_preset
from hart_studio.ui.components.launch_report import LaunchReport, LaunchState, SampleCards
from hart_studio.ui.form import (
    GROUPS,
    Widget,
    label_problems,
    list_widgets,
    read_values,
    write_values,
)
from hart_studio.ui.launch_desk import SETUPS, LaunchDesk, Order
from hart_studio.ui.launch_summary import (
    describe_refusal,
    find_data_problem,
    follow_check,
    has_bad_finding,
    judge_findings,
    sample_key,
    summarize_order,
)
from hart_studio.ui.preset_form import fill_from_preset
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


_Base = tuple[str, dict[str, Any], tuple[str, ...]]
"""What the form was filled from: name of the preset for the command, settings, notes for the report. The page holds it
and sends it with each event: Gradio forgets the state of a session when many others come."""

_MAX_NOTES: Final = 20
_MAX_NOTE_CHARS: Final = 1000


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

    base = gr.JSON([DEFAULT_PRESET, base_config.model_dump(mode="json"), []], visible="hidden", elem_id="train-base")
    previewed = gr.Textbox("", visible="hidden", elem_id="train-previewed")
    placed = gr.JSON(list(_NOT_PLACED), visible="hidden", elem_id="train-placed")
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
            inputs, groups = _build_fields(widgets, base_config)
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
            report = LaunchReport(
                replace(summarize_order(first), outcome=closed, is_refused=True), elem_id="train-report"
            )
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

    def read_order(sent: Any, chosen: list[int], setup: str, *values: Any) -> Order:
        name, settings, _ = read_base(sent)
        return Order(read_values(values, read_config(settings)), name, tuple(sorted(chosen or [])), setup)

    def may_start(person: gr.OAuthProfile | None) -> bool:
        return desk.is_open and rights.can_make and rights.is_owner(person)

    def describe_form(person: gr.OAuthProfile | None, order: Order, notes: tuple[str, ...]) -> LaunchState:
        state = summarize_order(order)
        # Files of this machine are looked at for people only who may start a run on them.
        problem = find_data_problem(order.config) if may_start(person) else ""
        return replace(state, notes=(*notes, *state.notes), problems=(("Data", problem),) if problem else ())

    def review(person: gr.OAuthProfile | None, shown_samples: str, *given: Any) -> dict[Any, Any]:
        """Update the report, the start button and the command; the button is off for the reason that is shown."""
        waiting = gr.update(value=_START, interactive=False)
        try:
            order = read_order(*given)
        except InputError as error:
            problems = tuple(label_problems(str(error)))
            state = LaunchState("These settings cannot be used", problems=problems)
            return {report: state, command: "", save: gr.update(interactive=False), start: waiting}
        state = describe_form(person, order, read_base(given[0])[2])
        is_stale = bool(shown_samples) and shown_samples != sample_key(order.config)
        return {
            report: state,
            command: tell_command(order, person),
            save: gr.update(value=_write_settings(order.config, watch.pictures), interactive=True),
            start: waiting if state.problems else gr.update(value=_START, interactive=desk.is_open),
            **({samples: None, previewed: ""} if is_stale else {}),
        }

    def fill(config: RunConfig) -> list[Any]:
        """Values of ``filled``: settings that come from no preset."""
        return [None, None, None, "ddp", [DEFAULT_PRESET, config.model_dump(mode="json"), []], *write_values(config)]

    bound = [
        (widget, block)
        for widget, block in zip(widgets, inputs, strict=True)
        if widget.field.stage or widget.field.data
    ]

    def show_used(chain: str, source: str) -> list[Any]:
        return [gr.update(visible=_find_visibility(widget, chain, source)) for widget, _ in bound]

    def use_preset(
        person: gr.OAuthProfile | None, name: str, shown_samples: str, gpus: list[int], before: Any, *values: Any
    ) -> dict[Any, Any]:
        try:
            settings_before = read_config(read_base(before)[1])
        except InputError:  # the preset replaces them
            settings_before = base_config
        found = fill_from_preset(values, settings_before, find_preset(name).config)
        settings = [name, found.base.model_dump(mode="json"), list(found.notes)]
        shared = _SHARDED_PRESETS.get(name, "ddp")
        # With the report and the start button in the same answer: neither speaks of the settings from before.
        reviewed = review(person, shown_samples, settings, gpus, shared, *found.values)
        opened = {groups["Data"]: gr.update(open=True)} if reviewed[report].problems else {}
        values_now = dict(zip(inputs, found.values, strict=True))
        return {earlier: None, file: None, setup: shared, base: settings, **values_now, **opened, **reviewed}

    def use_run(run_id: str | None, person: gr.OAuthProfile | None = None) -> list[Any]:
        if not run_id:
            return [gr.skip()] * len(filled)
        try:
            rights.ensure_owner(person)
            values = fill(load_config(find_run(desk.runs_root, run_id).config))
            return [values[0], gr.skip(), *values[2:]]
        except InputError as error:
            raise gr.Error(str(error), title="This run cannot be used", print_exception=False) from error

    def use_file(path: str | None) -> list[Any]:
        if not path:
            return [gr.skip()] * len(filled)
        try:
            values = fill(load_config(Path(path)))
            return [*values[:2], gr.skip(), *values[3:]]
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

    def look_at_samples(person: gr.OAuthProfile | None, *given: Any) -> dict[Any, Any]:
        try:
            rights.ensure_maker(person)
            desk.ensure_open()
            order = read_order(*given)
            preview = preview_samples(order.config, watch.pictures)
            shown = describe_form(person, order, read_base(given[0])[2])
            return {report: shown, samples: preview, previewed: sample_key(order.config)}
        except Exception as error:
            return {report: describe_refusal(error), samples: None, previewed: ""}

    def check_order(person: gr.OAuthProfile | None, *given: Any) -> Iterator[dict[Any, Any]]:
        waiting = gr.update(value=_START, interactive=False)
        try:
            rights.ensure_maker(person)
            order = read_order(*given)
            state = LaunchState()
            for state in follow_check(desk, order):
                yield {report: state, start: gr.update(value=_START_LATER, interactive=False)}
            judged = replace(state, is_checking=False, outcome=judge_findings(state), is_refused=has_bad_finding(state))
            yield {report: judged, start: waiting if judged.is_refused else gr.update(value=_START, interactive=True)}
        except Exception as error:
            yield {report: describe_refusal(error), start: waiting}

    def start_order(person: gr.OAuthProfile | None, *given: Any) -> Iterator[dict[Any, Any]]:
        try:
            rights.ensure_maker(person)
            desk.ensure_open()
            order = read_order(*given)
            steps = follow_check(desk, order)
            state = LaunchState()
            for state in steps:
                yield {report: state}
            if has_bad_finding(state):
                refused = replace(state, is_checking=False, outcome=judge_findings(state), is_refused=True)
                yield {report: refused, placed: list(_NOT_PLACED), start: gr.update(interactive=False)}
                return
            run_id = desk.place(order)
            waiting = desk.place_in_queue(run_id)
            called = order.config.name or run_id
            outcome = (
                f"{called} waits for {waiting} other run{'s' * (waiting > 1)}." if waiting else f"{called} is starting."
            )
            told = f"{outcome} It is on the Watch tab."
            yield {report: replace(state, is_checking=False, outcome=outcome), placed: [run_id, told]}
        except Exception as error:
            yield {report: describe_refusal(error), placed: list(_NOT_PLACED)}

    def show_placed(sent: Any, is_here: bool) -> dict[Any, Any]:
        """Show the run that was started, to somebody who is still here; whoever has gone on is told where it is."""
        match sent:
            case [str(run_id), str(told)]:
                pass
            case _:
                run_id, told = _NOT_PLACED
        if run_id and is_here:
            return show_run(pages, tabs, run_id)
        if not is_here:
            (gr.Info if run_id else gr.Warning)(told, duration=TOAST_SECONDS)
        return {tabs: gr.skip()}

    def list_gpus_anew(event: gr.SelectData) -> Any:
        # A busy driver may not answer in time: then the list stays as it was.
        found = desk.gpus() if event.value == "Train" else []
        return gr.update(choices=_list_choices(found)) if found else gr.skip()

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    filled = [preset, earlier, file, setup, base, *inputs]
    checked = check.click(check_order, place, [report, start], **quiet)
    changes = [block.change for block in (*inputs, chosen, setup)]
    reviewed = [report, command, save, start, samples, previewed]
    # A check of settings that have changed since says nothing about those in the form.
    gr.on(changes, review, [previewed, *place], reviewed, cancels=[checked], trigger_mode="always_last", **quiet)
    by_name = {widget.field.name: block for widget, block in zip(widgets, inputs, strict=True)}
    deciding = [by_name["method.chain"], by_name["data.source"]]
    gr.on([block.change for block in deciding], show_used, deciding, [block for _, block in bound], **quiet)
    if gpus:
        tabs.select(list_gpus_anew, None, chosen, **quiet)
    given = [preset, previewed, chosen, base, *inputs]
    preset.select(use_preset, given, [*filled[1:], groups["Data"], *reviewed], **quiet)
    earlier.focus(list_earlier, None, earlier, **quiet)
    earlier.input(use_run, earlier, filled, **quiet)
    file.upload(use_file, file, filled, **quiet)
    look.click(look_at_samples, place, [report, samples, previewed], api_visibility="private", show_progress="minimal")
    started = start.click(start_order, place, [report, placed, start], concurrency_limit=4, **quiet)
    started.then(show_placed, [placed, is_here], [tabs, pages.view], js=_IS_HERE, **quiet)
    return TrainForm(filled, fill)


def read_base(sent: Any) -> _Base:
    """Check what the page sent as that from which the form was filled; its settings are checked by ``read_config``.

    Raises:
        InputError: If it is missing or of another form. Nothing is started with other settings than the page shows.
    """
    match sent:
        case [str(name), dict(settings), list(notes) | tuple(notes)] if name in PRESETS and len(notes) <= _MAX_NOTES:
            return name, settings, tuple(str(note)[:_MAX_NOTE_CHARS] for note in notes)
    raise InputError("the settings that the form was filled from are missing; reload the page and choose them again")


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


def _build_fields(widgets: list[Widget], config: RunConfig) -> tuple[list[Any], dict[str, Any]]:
    """The widgets of every group, and the groups by name: the first group open, the others folded away."""
    made: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    pairs = list(zip(widgets, write_values(config), strict=True))
    for group in GROUPS:
        members = [(widget, value) for widget, value in pairs if widget.field.group == group]
        is_open = group == GROUPS[0]
        block = (
            gr.Group(elem_id="train-method") if is_open else gr.Accordion(group, open=False, elem_classes="hs-group")
        )
        groups[group] = block
        with block:
            made |= {
                widget.field.name: _build_field(
                    widget, value, _find_visibility(widget, config.method.chain, config.data.source)
                )
                for widget, value in members
            }
    return [made[widget.field.name] for widget in widgets], groups


def _find_visibility(widget: Widget, chain: str, source: str) -> bool | Literal["hidden"]:
    """A setting that a run never looks at keeps its place on the page, and its value, out of sight."""
    return True if widget.field.is_used(chain, source) else "hidden"


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
