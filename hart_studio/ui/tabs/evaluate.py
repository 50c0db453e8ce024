"""The Evaluate tab: one display, whose script does everything through the functions that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import HartError
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.records import PROTOCOLS
from hart_studio.ui.components.evaluate_page import EvaluateChoices, EvaluatePage
from hart_studio.ui.evaluation_desk import EvaluationDesk
from hart_studio.ui.evaluation_outputs import EvaluationOutputs
from hart_studio.ui.run_watch import guarded
from hart_studio.ui.services import AskService
from hart_studio.ui.tabs.ask import AskInputs
from hart_studio.ui.views import PROTOCOL_TITLES


def build_evaluate_tab(
    desk: EvaluationDesk, service: AskService, models: list[tuple[str, str]], tabs: gr.Tabs, ask: AskInputs
) -> EvaluatePage:
    """Build the tab.

    Args:
        desk: Knows the evaluations.
        service: Opens pictures.
        models: (title, name) of the models in the list.
        tabs: Where the Ask tab is selected when a question is opened there.
        ask: Its fields.
    """
    marker = service.folder / "evaluate_marker.txt"
    marker.write_text("Files of the Evaluate page lie beside this one.\n", encoding="utf-8")
    outputs = EvaluationOutputs(desk, service)
    looks: list[Callable[[Mapping[str, Any]], Any]] = [
        desk.evaluations,
        *(outputs.tables, outputs.failures, outputs.failure, outputs.report),
    ]
    makes: list[Callable[[Mapping[str, Any]], Any]] = [desk.command, desk.start, desk.stop, desk.resume, desk.delete]
    answers = [guarded(answer) for answer in (looks + makes if desk.is_open else looks)]
    choices = EvaluateChoices(
        benchmarks=[
            {
                "name": each.name,
                "title": each.title,
                "hub_id": each.hub_id,
                "has_boxes": each.has_boxes,
                "expected": each.expected,
            }
            for each in BENCHMARKS.values()
        ],
        benchmark="needle",
        models=models,
        model=BUILT_IN_HART,
        protocols=[(name, PROTOCOL_TITLES[name]) for name in PROTOCOLS],
        gpus=[(gpu.index, gpu.title) for gpu in desk.launch.gpus()],
    )
    page = EvaluatePage(marker, choices, answers, is_open=desk.is_open, elem_id="evaluate-page")

    def open_ask(event: gr.EventData) -> list[Any]:
        wanted = event._data if isinstance(event._data, dict) else {}
        try:
            found = outputs.ask_again({name: wanted.get(name) for name in ("run", "sample")})
        except HartError as error:
            raise gr.Error(str(error), title="This question cannot be opened", print_exception=False) from error
        model = found.model if found.model is not None else gr.skip()
        texts = [found.question, found.choices, found.answer]
        return [gr.update(selected="ask"), str(found.image), *texts, model]

    fields = [ask.picture, ask.question, ask.choices, ask.answer, ask.model_a]
    page.open_ask(open_ask, None, [tabs, *fields], api_visibility="private", show_progress="hidden")
    return page
