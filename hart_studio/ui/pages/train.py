"""The Train tab: edit settings, run preflight, start a run. The page itself adds no settings."""

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
from hart_studio.runs.presets import DEFAULT_PRESET, PRESETS, get_preset
from hart_studio.ui.api.launch import SETUPS, LaunchRequest, RunLauncher
from hart_studio.ui.api.launch_summary import (
    describe_launch_error,
    find_data_problem,
    has_bad_finding,
    preview_samples,
    sample_key,
    stream_preflight,
    summarize_findings,
    summarize_launch,
)
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.pages.display import QUIET, Display
from hart_studio.ui.pages.train_form import (
    GROUPS,
    WIDGETS,
    LaunchState,
    Widget,
    fill_from_preset,
    label_problems,
    read_values,
    write_values,
)
from hart_studio.ui.pages.watch import RunComponents, show_run, update_run_choices
from hart_studio.ui.security.access import CLOSED, Permissions

TOAST_SECONDS: Final = 8.0
"""Duration of the toast about a started run, if another tab is open."""

_NOT_STARTED: Final = ("", "Run not started. See the Train tab.")
"""(run id, message) if no run was started."""

_IS_TAB_OPEN: Final = "(placed) => [placed, Boolean(document.querySelector('#train-start')?.offsetParent)]"
"""JavaScript that returns whether the Train tab is still open once a run has started."""

_START: Final = "Start training"
_CHECKING: Final = "Preflight running…"
"""Label of the start button during a preflight check; a start runs its own check, and two at once are slow."""

_SHARDED_PRESETS: Final = {"full-finetune-zero3": "deepspeed_zero3"}


_Base = tuple[str, dict[str, Any], tuple[str, ...]]
"""What the form was filled from: preset name for the command, settings, notes for the report. The page stores it and
sends it with each event, because Gradio drops the state of old sessions."""

_MAX_NOTES: Final = 20
_MAX_NOTE_CHARS: Final = 1000


class LaunchReport(Display):
    """Shows a ``LaunchState``: summary of the settings, problems, and findings of the preflight check."""

    template = '<div class="hs-report" role="status" aria-live="polite"></div>'
    scripts = ("launch_report.js",)


class SampleCards(Display):
    """Shows a ``Preview`` of the samples."""

    template = '<div class="hs-samples"></div>'
    scripts = ("sample_cards.js",)


@dataclass(frozen=True)
class TrainForm:
    """The form, for other tabs that fill it.

    Attributes:
        outputs: Components that ``fill`` returns values for.
        fill: Convert settings to values of ``outputs``.
    """

    outputs: list[Any]
    fill: Callable[[RunConfig], list[Any]]


def build_train_tab(
    launcher: RunLauncher, watch: RunMonitor, pages: RunComponents, tabs: gr.Tabs, permissions: Permissions
) -> TrainForm:
    """Build the tab inside the current ``gr.Blocks`` and connect its events; the Watch tab shows a started run."""
    base_config = get_preset(DEFAULT_PRESET).config
    gpus = launcher.gpus()

    def command_for_user(launch_request: LaunchRequest, user: gr.OAuthProfile | None) -> str:
        """The command line, or empty for users who may not train: it contains paths of this machine."""
        return launcher.command_line(launch_request) if launcher.is_open and permissions.is_owner(user) else ""

    base = gr.JSON([DEFAULT_PRESET, base_config.model_dump(mode="json"), []], visible="hidden", elem_id="train-base")
    previewed = gr.Textbox("", visible="hidden", elem_id="train-previewed")
    queued_run = gr.JSON(list(_NOT_STARTED), visible="hidden", elem_id="train-placed")
    is_here = gr.Checkbox(visible=False)
    with gr.Row(elem_id="train-page"):
        with gr.Column(elem_id="train-form"):
            preset = gr.Dropdown(
                [(found.title, name) for name, found in PRESETS.items()], value=DEFAULT_PRESET, label="Preset",
                info="Fills the form; you can change every setting.", elem_id="train-preset",
            )  # fmt: skip
            with gr.Accordion("Load settings", open=False):
                earlier = gr.Dropdown([], label="Previous run", elem_id="train-earlier")
                file = gr.File(label="Settings file", file_types=[".json"], type="filepath", height=90)
            inputs, groups = _build_fields(base_config)
            with gr.Group(elem_id="train-device"):
                chosen = gr.CheckboxGroup(
                    _list_choices(gpus), value=[gpu.index for gpu in gpus[:1]], label="GPUs", visible=bool(gpus),
                    elem_id="train-gpus",
                )  # fmt: skip
                setup = gr.Dropdown(
                    [(title, name) for name, title in SETUPS.items()], value="ddp", label="Multi-GPU strategy",
                    visible=len(gpus) > 1, elem_id="train-setup",
                )  # fmt: skip
                if not gpus:
                    gr.Markdown("No GPU found. Runs use the CPU.", elem_classes="hs-no-gpu")
        with gr.Column(elem_id="train-plan"):
            first = LaunchRequest(base_config, DEFAULT_PRESET, tuple(gpu.index for gpu in gpus[:1]))
            closed = "" if launcher.is_open else CLOSED
            report = LaunchReport(
                replace(summarize_launch(first), outcome=closed, is_refused=True), elem_id="train-report"
            )
            with gr.Row(elem_id="train-buttons"):
                start = gr.Button(
                    _START, variant="primary", size="lg", interactive=launcher.is_open, elem_id="train-start"
                )
                check = gr.Button("Run preflight", size="lg", interactive=launcher.is_open, elem_id="train-check")
                preview = gr.Button("Preview samples", size="lg", interactive=launcher.is_open, elem_id="train-preview")
            samples = SampleCards(elem_id="train-samples")
            command = gr.Textbox(
                value=command_for_user(first, None), label="Command line", lines=2, max_lines=14,
                interactive=False, buttons=["copy"], elem_id="train-command",
            )  # fmt: skip
            save = gr.DownloadButton(
                "Download settings", value=_write_settings(base_config, watch.image_folder), size="sm",
                elem_id="train-save",
            )  # fmt: skip

    form_inputs = [base, chosen, setup, *inputs]

    def read_launch_request(sent: Any, chosen: list[int], setup: str, *values: Any) -> LaunchRequest:
        name, settings, _ = read_base(sent)
        return LaunchRequest(read_values(values, read_config(settings)), name, tuple(sorted(chosen or [])), setup)

    def may_start(user: gr.OAuthProfile | None) -> bool:
        return launcher.is_open and permissions.can_write and permissions.is_owner(user)

    def describe_form(
        user: gr.OAuthProfile | None, launch_request: LaunchRequest, notes: tuple[str, ...]
    ) -> LaunchState:
        state = summarize_launch(launch_request)
        # Check files of this machine only for users who may start a run with them.
        problem = find_data_problem(launch_request.config) if may_start(user) else ""
        return replace(state, notes=(*notes, *state.notes), problems=(("Data", problem),) if problem else ())

    def review(user: gr.OAuthProfile | None, shown_samples: str, *given: Any) -> dict[Any, Any]:
        """Update the report, the start button and the command; the report shows why the button is disabled."""
        waiting = gr.update(value=_START, interactive=False)
        try:
            launch_request = read_launch_request(*given)
        except InputError as error:
            problems = tuple(label_problems(str(error)))
            state = LaunchState("Invalid settings", problems=problems)
            return {report: state, command: "", save: gr.update(interactive=False), start: waiting}
        state = describe_form(user, launch_request, read_base(given[0])[2])
        is_stale = bool(shown_samples) and shown_samples != sample_key(launch_request.config)
        return {
            report: state,
            command: command_for_user(launch_request, user),
            save: gr.update(value=_write_settings(launch_request.config, watch.image_folder), interactive=True),
            start: waiting if state.problems else gr.update(value=_START, interactive=launcher.is_open),
            **({samples: None, previewed: ""} if is_stale else {}),
        }

    def fill(config: RunConfig) -> list[Any]:
        """Values of ``filled`` for settings that do not come from a preset."""
        return [None, None, None, "ddp", [DEFAULT_PRESET, config.model_dump(mode="json"), []], *write_values(config)]

    bound = [
        (widget, block)
        for widget, block in zip(WIDGETS, inputs, strict=True)
        if widget.field.stage or widget.field.data
    ]

    def show_used(stages: str, source: str) -> list[Any]:
        return [gr.update(visible=_find_visibility(widget, stages, source)) for widget, _ in bound]

    def use_preset(
        user: gr.OAuthProfile | None, name: str, shown_samples: str, gpus: list[int], before: Any, *values: Any
    ) -> dict[Any, Any]:
        try:
            settings_before = read_config(read_base(before)[1])
        except InputError:  # replaced by the preset
            settings_before = base_config
        found = fill_from_preset(values, settings_before, get_preset(name).config)
        settings = [name, found.base.model_dump(mode="json"), list(found.notes)]
        shared = _SHARDED_PRESETS.get(name, "ddp")
        # Report and start button are part of the same update, so that they match the new settings.
        reviewed = review(user, shown_samples, settings, gpus, shared, *found.values)
        opened = {groups["Data"]: gr.update(open=True)} if reviewed[report].problems else {}
        values_now = dict(zip(inputs, found.values, strict=True))
        return {earlier: None, file: None, setup: shared, base: settings, **values_now, **opened, **reviewed}

    def use_run(run_id: str | None, user: gr.OAuthProfile | None = None) -> list[Any]:
        if not run_id:
            return [gr.skip()] * len(filled)
        try:
            permissions.require_owner(user)
            values = fill(load_config(find_run(launcher.runs_root, run_id).config))
            return [values[0], gr.skip(), *values[2:]]
        except InputError as error:
            raise gr.Error(str(error), title="Cannot load run", print_exception=False) from error

    def use_file(path: str | None) -> list[Any]:
        if not path:
            return [gr.skip()] * len(filled)
        try:
            values = fill(load_config(Path(path)))
            return [*values[:2], gr.skip(), *values[3:]]
        except InputError as error:
            raise gr.Error(str(error).split("\n", 1)[-1], title="Cannot load file", print_exception=False) from error

    def list_earlier(user: gr.OAuthProfile | None = None) -> Any:
        return update_run_choices(watch) if permissions.is_owner(user) else gr.skip()

    def show_sample_preview(user: gr.OAuthProfile | None, *given: Any) -> dict[Any, Any]:
        try:
            permissions.require_write_access(user)
            launcher.ensure_open()
            launch_request = read_launch_request(*given)
            found = preview_samples(launch_request.config, watch.image_folder)
            shown = describe_form(user, launch_request, read_base(given[0])[2])
            return {report: shown, samples: found, previewed: sample_key(launch_request.config)}
        except Exception as error:
            return {report: describe_launch_error(error), samples: None, previewed: ""}

    def run_preflight(user: gr.OAuthProfile | None, *given: Any) -> Iterator[dict[Any, Any]]:
        waiting = gr.update(value=_START, interactive=False)
        try:
            permissions.require_write_access(user)
            launch_request = read_launch_request(*given)
            state = LaunchState()
            for state in stream_preflight(launcher, launch_request):
                yield {report: state, start: gr.update(value=_CHECKING, interactive=False)}
            judged = replace(
                state, is_checking=False, outcome=summarize_findings(state), is_refused=has_bad_finding(state)
            )
            yield {report: judged, start: waiting if judged.is_refused else gr.update(value=_START, interactive=True)}
        except Exception as error:
            yield {report: describe_launch_error(error), start: waiting}

    def start_run_of_form(user: gr.OAuthProfile | None, *given: Any) -> Iterator[dict[Any, Any]]:
        try:
            permissions.require_write_access(user)
            launcher.ensure_open()
            launch_request = read_launch_request(*given)
            steps = stream_preflight(launcher, launch_request)
            state = LaunchState()
            for state in steps:
                yield {report: state}
            if has_bad_finding(state):
                refused = replace(state, is_checking=False, outcome=summarize_findings(state), is_refused=True)
                yield {report: refused, queued_run: list(_NOT_STARTED), start: gr.update(interactive=False)}
                return
            run_id = launcher.enqueue(launch_request)
            waiting = launcher.queue_position(run_id)
            called = launch_request.config.name or run_id
            outcome = (
                f"{called} is queued behind {waiting} run{'s' * (waiting > 1)}."
                if waiting
                else f"{called} is starting."
            )
            message = f"{outcome} Follow it on the Watch tab."
            yield {report: replace(state, is_checking=False, outcome=outcome), queued_run: [run_id, message]}
        except Exception as error:
            yield {report: describe_launch_error(error), queued_run: list(_NOT_STARTED)}

    def show_started_run(sent: Any, is_here: bool) -> dict[Any, Any]:
        """Open the Watch tab if the Train tab is still open, else show a toast."""
        match sent:
            case [str(run_id), str(message)]:
                pass
            case _:
                run_id, message = _NOT_STARTED
        if run_id and is_here:
            return show_run(pages, tabs, run_id)
        if not is_here:
            (gr.Info if run_id else gr.Warning)(message, duration=TOAST_SECONDS)
        return {tabs: gr.skip()}

    def refresh_gpus(event: gr.SelectData) -> Any:
        # A busy driver may not answer in time: then the list stays as it was.
        found = launcher.gpus() if event.value == "Train" else []
        return gr.update(choices=_list_choices(found)) if found else gr.skip()

    filled = [preset, earlier, file, setup, base, *inputs]
    checked = check.click(run_preflight, form_inputs, [report, start], **QUIET)
    changes = [block.change for block in (*inputs, chosen, setup)]
    reviewed = [report, command, save, start, samples, previewed]
    # Cancel a preflight check when settings change.
    gr.on(changes, review, [previewed, *form_inputs], reviewed, cancels=[checked], trigger_mode="always_last", **QUIET)
    by_name = {widget.field.name: block for widget, block in zip(WIDGETS, inputs, strict=True)}
    deciding = [by_name["method.stages"], by_name["data.source"]]
    gr.on([block.change for block in deciding], show_used, deciding, [block for _, block in bound], **QUIET)
    if gpus:
        tabs.select(refresh_gpus, None, chosen, **QUIET)
    given = [preset, previewed, chosen, base, *inputs]
    preset.select(use_preset, given, [*filled[1:], groups["Data"], *reviewed], **QUIET)
    earlier.focus(list_earlier, None, earlier, **QUIET)
    earlier.input(use_run, earlier, filled, **QUIET)
    file.upload(use_file, file, filled, **QUIET)
    preview.click(
        show_sample_preview,
        form_inputs,
        [report, samples, previewed],
        api_visibility="private",
        show_progress="minimal",
    )
    started = start.click(start_run_of_form, form_inputs, [report, queued_run, start], concurrency_limit=4, **QUIET)
    started.then(show_started_run, [queued_run, is_here], [tabs, pages.view], js=_IS_TAB_OPEN, **QUIET)
    return TrainForm(filled, fill)


def read_base(sent: Any) -> _Base:
    """Validate what the page sent as the base of the form; ``read_config`` validates its settings.

    Raises:
        InputError: If it is missing or malformed. A run never starts with settings that the page does not show.
    """
    match sent:
        case [str(name), dict(settings), list(notes) | tuple(notes)] if name in PRESETS and len(notes) <= _MAX_NOTES:
            return name, settings, tuple(str(note)[:_MAX_NOTE_CHARS] for note in notes)
    raise InputError("The base settings of the form are missing. Reload the page and choose the preset again.")


def _list_choices(gpus: list[Gpu]) -> list[tuple[str, int]]:
    return [(gpu.title, gpu.index) for gpu in gpus]


def _write_settings(config: RunConfig, folder: Path) -> str:
    """Write the settings to a file for download, in a folder named by its hash, so that visitors do not share files."""
    text = dump_config(config)
    form_inputs = folder / "settings" / hashlib.sha256(text.encode()).hexdigest()[:20]
    form_inputs.mkdir(parents=True, exist_ok=True)
    path = form_inputs / f"{config.method.stages.replace('+', '-')}-settings.json"
    write_atomically(path, text)
    return str(path)


def _build_fields(config: RunConfig) -> tuple[list[Any], dict[str, Any]]:
    """Widgets in order, and groups by name; the first group is always open, the others are accordions."""
    made: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    pairs = list(zip(WIDGETS, write_values(config), strict=True))
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
                    widget, value, _find_visibility(widget, config.method.stages, config.data.source)
                )
                for widget, value in members
            }
    return [made[widget.field.name] for widget in WIDGETS], groups


def _find_visibility(widget: Widget, stages: str, source: str) -> bool | Literal["hidden"]:
    """Unused settings are hidden but stay on the page with their value."""
    return True if widget.field.is_used(stages, source) else "hidden"


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
    empty = "all remaining" if name == "data.sft_samples" else "model default"
    return gr.Textbox(max_lines=1, placeholder=empty if widget.kind == "number or nothing" else None, **common)


def _step_of(value: float) -> float:
    """Step of a number field: one unit of the leading digit."""
    return 10.0 ** math.floor(math.log10(value)) if value > 0 else 0.01
