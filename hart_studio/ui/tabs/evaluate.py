"""The Evaluate tab: one display, whose script does everything through the functions that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import gradio as gr

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import HartError
from hart_studio.models.catalog import BUILT_IN_FOLDERS, BUILT_IN_HART
from hart_studio.records import PROTOCOLS
from hart_studio.ui.components.evaluate_page import EvaluateChoices, EvaluatePage
from hart_studio.ui.evaluation_desk import EvaluationDesk
from hart_studio.ui.evaluation_outputs import EvaluationOutputs
from hart_studio.ui.example_evaluations import ExampleEvaluations
from hart_studio.ui.page_calls import guarded
from hart_studio.ui.rights import Rights
from hart_studio.ui.services import AskService
from hart_studio.ui.tabs.ask import AskInputs
from hart_studio.ui.views import PROTOCOL_TITLES

_MODEL_LEFT: Final = (
    "The evaluation used a served model, or a model that is not allowed here, or this server did not start it with "
    "these settings. Choose a model on the Ask tab. If you trust the settings, enter the name that they give."
)


def build_evaluate_tab(
    desk: EvaluationDesk,
    service: AskService,
    models: list[tuple[str, str]],
    tabs: gr.Tabs,
    ask: AskInputs,
    rights: Rights,
    examples: ExampleEvaluations | None = None,
) -> None:
    """Build the tab: on a Space the evaluations of the examples, and below them those of its owner.

    Args:
        desk: Knows the evaluations of this page's runs.
        service: Opens pictures.
        models: (title, name) of the models in the list.
        tabs: Where the Ask tab is selected when a question is opened there.
        ask: Its fields.
        rights: Says who may see and make evaluations.
        examples: Evaluations that everybody may make and see.
    """
    if examples is None:
        _build_page(desk, service, models, tabs, ask, rights)
        return
    _build_page(examples.desk, service, models, tabs, ask, Rights(), examples)
    if rights.owners:
        with gr.Accordion("Evaluations of the owner", open=False, elem_id="evaluate-owner"):
            _build_page(desk, service, models, tabs, ask, rights)


def _build_page(
    desk: EvaluationDesk,
    service: AskService,
    models: list[tuple[str, str]],
    tabs: gr.Tabs,
    ask: AskInputs,
    rights: Rights,
    examples: ExampleEvaluations | None = None,
) -> None:
    """One list of evaluations with what comes out of them; arguments as for ``build_evaluate_tab``."""
    marker = service.folder / "evaluate_marker.txt"
    marker.write_text("Files of the Evaluate page lie beside this one.\n", encoding="utf-8")
    outputs = EvaluationOutputs(desk, service)
    looks: list[Callable[[Mapping[str, Any]], Any]] = [
        desk.evaluations,
        *(outputs.tables, outputs.failures, outputs.failure, outputs.report),
    ]
    makes: list[Callable[[Mapping[str, Any]], Any]] = [desk.command, desk.start, desk.stop, desk.resume, desk.delete]
    is_discreet = rights.is_public or examples is not None or not desk.is_open
    answers = [guarded(look, rights.ensure_owner, is_discreet=is_discreet) for look in looks]
    answers += [guarded(make, rights.ensure_maker) for make in makes if desk.is_open]
    if examples is not None:
        answers.append(guarded(examples.evaluate_examples, is_discreet=True))
    choices = EvaluateChoices(
        benchmarks=[
            {"name": each.name, "title": each.title, "hub_id": each.hub_id, "has_boxes": each.has_boxes}
            for each in BENCHMARKS.values()
        ],
        benchmark="needle",
        models=models,
        model=BUILT_IN_HART,
        protocols=[(name, PROTOCOL_TITLES[name]) for name in PROTOCOLS],
        gpus=[(gpu.index, gpu.title) for gpu in desk.launch.gpus()] if desk.is_open else [],
        model_label=service.allowed.label,
        examples=[] if examples is None else [(title, name) for title, name in models if name in BUILT_IN_FOLDERS],
        example_count=0 if examples is None else examples.count,
    )
    elem_id = "evaluate-owner-page" if rights.is_public else "evaluate-page"
    page = EvaluatePage(marker, choices, answers, is_open=desk.is_open, elem_id=elem_id)

    def open_ask(event: gr.EventData, person: gr.OAuthProfile | None = None) -> list[Any]:
        wanted = event._data if isinstance(event._data, dict) else {}
        try:
            rights.ensure_owner(person)
            found = outputs.ask_again({name: wanted.get(name) for name in ("run", "sample")})
        except HartError as error:
            raise gr.Error(str(error), title="This question cannot be opened", print_exception=False) from error
        model: Any = found.model
        if model is None:
            gr.Warning(_MODEL_LEFT, title="The model is not filled in")
            model = gr.skip()
        texts = [found.question, found.choices, found.answer]
        return [gr.update(selected="ask"), str(found.image), *texts, model]

    fields = [ask.picture, ask.question, ask.choices, ask.answer, ask.model_a]
    page.open_ask(open_ask, None, [tabs, *fields], api_visibility="private", show_progress="hidden")
