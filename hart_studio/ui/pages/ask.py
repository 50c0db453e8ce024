"""The Ask tab: an image and a question as input; regions, crops and three answers as output."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import gradio as gr

from hart_studio.errors import InputError
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.records import PROTOCOLS
from hart_studio.ui.api.ask import AskForm, AskResult, AskService, default_comparison_model, read_form
from hart_studio.ui.error_reporting import OUT_OF_MEMORY, describe
from hart_studio.ui.model_calls import MAX_MODEL_CALLS, ClientConnection, Progress, follow
from hart_studio.ui.pages.answer_displays import AnswerCards, BoxViewer, CropStrip
from hart_studio.ui.pages.display import QUIET, Display, Failed, ProgressStatus, Running, read_event
from hart_studio.ui.pages.examples import Example, ExamplePicker
from hart_studio.ui.pages.trace_view import PROTOCOL_TITLES

NO_COMPARISON_MODEL: Final = ("None", "")
"""(title, name) for no comparison."""

_ORDINALS: Final = ("First", "Second")


class ModelNotice(Display):
    """Shows which selected models do not support the domain of the image: text of a model field -> warning."""

    template = '<div class="hs-model-notice" role="status" aria-live="polite"></div>'
    scripts = ("model_notice.js",)


@dataclass(frozen=True)
class ResultColumn:
    """Output components of one model."""

    column: gr.Column
    viewer: BoxViewer
    strip: CropStrip
    cards: AnswerCards
    download: gr.DownloadButton

    def show(self, reply: AskResult) -> dict[Any, Any]:
        """Updates that show a result."""
        return {
            self.column: _place(is_shown=True),
            self.viewer: reply.scene,
            self.strip: reply.shown,
            self.cards: reply.board,
            self.download: gr.update(value=str(reply.archive), visible=True),
        }

    def clear(self) -> dict[Any, Any]:
        """Updates that remove the previous result and keep the image."""
        return {self.strip: None, self.cards: None, self.download: gr.update(visible=False)}


@dataclass(frozen=True)
class ComparedModels:
    """The models of a question and the index of the current one."""

    names: tuple[str, ...]
    """One or two names; empty before the first is asked."""
    number: int = 0
    """Index of the current model."""

    def blame(self, failed: Failed) -> Failed:
        """Add the name of the failing model if two are compared."""
        if len(self.names) < 2:
            return failed
        model = f"{_ORDINALS[self.number]} model, {self.names[self.number]}"
        title = f"{model}: {failed.title[:1].lower()}{failed.title[1:]}"
        rest = f"{self.names[1]} was not asked." if self.number == 0 else f"The answers of {self.names[0]} are below."
        return Failed(title, f"{failed.message} {rest}")


@dataclass(frozen=True)
class AskInputs:
    """Input fields that other tabs fill with a checkpoint or a question."""

    image_file: gr.File
    question: gr.Textbox
    choices: gr.Textbox
    answer: gr.Textbox
    model_a: gr.Dropdown
    model_b: gr.Dropdown


def build_ask_tab(service: AskService, examples: tuple[Example, ...], models: list[tuple[str, str]]) -> AskInputs:
    """Build the tab inside the current ``gr.Blocks`` and connect its events.

    Args:
        service: Opens images and asks models.
        examples: Offered under the upload.
        models: (title, name) of the models in the lists; the first is preselected. Any other name can be typed.
    """
    with gr.Row(elem_id="ask-page"):
        with gr.Column(elem_id="ask-form"):
            image_file = gr.File(label="Image", file_types=["image"], type="filepath", height=92, elem_id="ask-image")
            picker = ExamplePicker(examples)
            question = gr.Textbox(
                label="Question", placeholder="Which character is on the red triangle?", lines=2, max_lines=6,
                elem_id="ask-question",
            )  # fmt: skip
            choices = gr.Textbox(
                label="Choices", placeholder="One per line; empty for an open question", lines=2,
                max_lines=8, elem_id="ask-choices",
            )  # fmt: skip
            answer = gr.Textbox(
                label="Known answer", placeholder="Letter or text, to score the answers", lines=1,
                max_lines=1, elem_id="ask-answer",
            )  # fmt: skip
            model_a = gr.Dropdown(
                models, value=models[0][1],
                info=f"{service.allowed.hint}. Built-in models support synthetic needle scenes only.",
                label="Model", allow_custom_value=True,
                elem_id="ask-model-a",
            )  # fmt: skip
            model_b = gr.Dropdown(
                [NO_COMPARISON_MODEL, *models], value=default_comparison_model(models[0][1]), label="Compare with",
                allow_custom_value=True, elem_id="ask-model-b",
            )  # fmt: skip
            with gr.Accordion("Settings", open=False, elem_id="ask-settings"):
                protocols = gr.CheckboxGroup(
                    [(PROTOCOL_TITLES[name], name) for name in PROTOCOLS], value=list(PROTOCOLS), label="Answer from"
                )
                overview = gr.Number(
                    0, minimum=0, precision=0, label="Overview max pixels", info="0 uses the default of the model.",
                )  # fmt: skip
                padding = gr.Slider(0.0, 1.0, 0.0, step=0.05, label="Box padding")
                max_boxes = gr.Slider(1, 16, 4, step=1, label="Max boxes")
                temperature = gr.Slider(0.0, 1.5, 0.0, step=0.05, label="Temperature")
                rollouts = gr.Slider(
                    1, 8, 1, step=1, label="Self-check rollouts",
                    info="Measures how consistent regions and answer are; needs a temperature above 0.",
                )  # fmt: skip
                fallback = gr.Checkbox(
                    False, label="Full-image fallback", info="Answer from the full image if no region is predicted.",
                )  # fmt: skip
            ask_button = gr.Button("Ask", variant="primary", size="lg", elem_id="ask-button")
        with gr.Column(elem_id="ask-results"):
            notice = ModelNotice(elem_id="ask-notice")
            status = ProgressStatus()
            with gr.Row(elem_classes="hs-pair"):
                first = _build_result_column("a", is_shown=True)
                second = _build_result_column("b", is_shown=False)

    form = [image_file, question, choices, answer, model_a, model_b]
    settings = [protocols, rollouts, overview, padding, max_boxes, temperature, fallback]
    displays = [
        status, first.column, first.viewer, first.strip, first.cards, first.download,
        second.column, second.viewer, second.strip, second.cards, second.download,
    ]  # fmt: skip

    def open_image(path: str | None, name_a: str | None, name_b: str | None) -> dict[Any, Any]:
        updates = {status: None, notice: None, second.column: _place(is_shown=False), **first.clear(), **second.clear()}
        if path is None:
            return {**updates, first.viewer: None}
        try:
            return {
                **updates,
                first.viewer: service.open_image(Path(path)),
                notice: find_warnings(path, name_a, name_b),
            }
        except Exception as error:
            return {**updates, first.viewer: None, status: describe(error)}

    def find_warnings(path: str, *chosen: str | None) -> dict[str, str]:
        """Model field text -> warning, for the listed and the chosen models."""
        named = {text: name for title, name in models for text in (title, name)}
        named |= {name: name for name in (*BUILT_IN_FOLDERS, *chosen) if name and name not in named}
        found = {text: service.find_warnings(Path(path), [name]) for text, name in named.items()}
        return {text: " ".join(warnings) for text, warnings in found.items() if warnings}

    def fill_form(event: gr.EventData) -> list[Any]:
        example = examples[_example_index(event, len(examples))]
        return [str(example.image), example.question, "\n".join(example.choices), example.answer]

    def ask_models(
        path: str | None,
        question: str,
        choices: str,
        answer: str,
        name_a: str | None,
        name_b: str | None,
        protocols: list[str],
        rollouts: float,
        overview: float | None,
        padding: float,
        max_boxes: float,
        temperature: float,
        fallback: bool,
    ) -> Iterator[dict[Any, Any]]:
        compared = ComparedModels(())
        try:
            ClientConnection().wait_for_reader()
            form = read_form(
                path,
                question,
                choices,
                answer,
                protocols,
                rollouts,
                overview_max_pixels=overview or None,
                padding=padding,
                max_boxes=max_boxes,
                temperature=temperature,
                fallback="direct" if fallback else "none",
            )
            names = tuple(name for name in (name_a, name_b) if name)
            if not names:
                raise InputError("No model selected. Choose one from the list.")
            # Show the image in all columns before the first model has answered.
            scene = service.open_image(form.image)
            beside = {second.column: _place(is_shown=len(names) > 1), second.viewer: scene, **second.clear()}
            yield {status: Running(0.0, "Starting"), first.viewer: scene, **first.clear(), **beside}
            for number, (name, column) in enumerate(zip(names, (first, second), strict=False)):
                compared = ComparedModels(names, number)
                reply = yield from _ask_one(service, form, name, number, len(names), status)
                yield column.show(reply)
            yield {status: None}
        except Exception as error:
            yield {status: compared.blame(_add_remedy(describe(error)))}

    picker.pick(fill_form, None, [image_file, question, choices, answer], **QUIET)
    # One event, and none for the model fields: an event that ends while Ask is pressed can lose Ask's answer.
    image_file.change(
        open_image, [image_file, model_a, model_b], [notice, *displays], trigger_mode="always_last", **QUIET
    )
    ask_button.click(ask_models, [*form, *settings], displays, concurrency_limit=MAX_MODEL_CALLS, **QUIET)
    return AskInputs(image_file, question, choices, answer, model_a, model_b)


def _build_result_column(slot: str, is_shown: bool) -> ResultColumn:
    """Build the output components of one model, empty."""
    classes = _place(is_shown=is_shown)["elem_classes"]
    with gr.Column(elem_classes=classes, elem_id=f"result-{slot}") as column:
        with gr.Row(elem_classes="hs-evidence"):
            viewer = BoxViewer(elem_classes="hs-viewer-slot")
            strip = CropStrip(elem_classes="hs-model-inputs-slot")
        cards = AnswerCards(elem_classes="hs-cards-slot")
        download = gr.DownloadButton("Download trace (zip)", visible=False, size="sm", elem_classes="hs-download")
    return ResultColumn(column, viewer, strip, cards, download)


def _place(*, is_shown: bool) -> dict[str, Any]:
    """Update that shows or hides a column.

    Does not use ``visible``: a component that is not visible is removed from the page and loses a part of its values.
    """
    update: dict[str, Any] = gr.update(elem_classes=["hs-result"] if is_shown else ["hs-result", "hs-hidden"])
    return update


def _add_remedy(failed: Failed) -> Failed:
    """Name the setting of this tab that saves memory."""
    if failed.title != OUT_OF_MEMORY:
        return failed
    return replace(failed, message=f"{failed.message} Or lower Overview max pixels in the settings.")


def _ask_one(
    service: AskService, form: AskForm, name: str, number: int, count: int, status: ProgressStatus
) -> Generator[dict[Any, Any], None, AskResult]:
    """Ask one of ``count`` models; its progress is a share of the whole progress bar."""

    def work(progress: Progress) -> AskResult:
        return service.ask(form, name, caller.watch(progress), bypass_limit=number > 0)

    caller = ClientConnection()
    steps = follow(work)
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            reply: AskResult = done.value
            return reply
        prefix = f"Model {number + 1} of {count}: " if count > 1 else ""
        yield {status: Running((number + step.fraction) / count, prefix + step.stage)}


def _example_index(event: gr.EventData, count: int) -> int:
    """Index of the chosen example; validated because it comes from the browser."""
    index = read_event(event).get("index")
    if not isinstance(index, int) or not 0 <= index < count:
        raise gr.Error("Unknown example. Reload the page.", print_exception=False)
    return index
