"""The Evaluate tab: one component and the functions that its script calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import HartError
from hart_studio.models.catalog import BUILT_IN_FOLDERS, BUILT_IN_HART
from hart_studio.records import PROTOCOLS
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.evaluation_results import EvaluationResultsApi
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import Handler, api_handler, call_handler
from hart_studio.ui.components.page_component import PageComponent
from hart_studio.ui.pages.ask import AskInputs
from hart_studio.ui.security.permissions import Permissions
from hart_studio.ui.spaces.example_evaluations import ExampleEvaluations
from hart_studio.ui.trace_view import PROTOCOL_TITLES

_MODEL_LEFT: Final = (
    "The model of this evaluation was not filled in: it is a served model, is not allowed here, or the evaluation was "
    "not started by this server. Choose a model below, or type the model name if you trust it."
)


@dataclass(frozen=True)
class EvaluateChoices:
    """Options shown on the page."""

    benchmarks: list[dict[str, Any]]
    """``name``, ``title``, ``hub_id`` and ``has_boxes`` of each benchmark."""
    benchmark: str
    """Name of the preselected benchmark."""
    models: list[tuple[str, str]]
    """(title, name) of the models."""
    model: str
    """Preselected model."""
    protocols: list[tuple[str, str]]
    """(name, title) of the protocols; the first is preselected."""
    gpus: list[tuple[int, str]]
    """(index, title) of the GPUs; empty = CPU only."""
    model_hint: str = ""
    """Placeholder of the model field."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(title, name) of the models that every visitor may evaluate on the examples; empty = none."""
    example_count: int = 0
    """Number of examples."""


class EvaluatePage(PageComponent):
    """Shows evaluations; fires ``open_ask`` with ``run`` and ``sample``."""

    template = "evaluate_page.html"
    scripts = (
        *("server_calls.js", "image_viewer.js", "image_viewer_controls.js", "svg_figure.js", "tabs.js"),
        *("evaluate_failures.js", "evaluate_page.js"),
    )


def build_evaluate_tab(
    api: EvaluationApi,
    service: AskService,
    models: list[tuple[str, str]],
    tabs: gr.Tabs,
    ask: AskInputs,
    permissions: Permissions,
    examples: ExampleEvaluations | None = None,
) -> None:
    """Build the tab; on a Space with public evaluations of the examples and, below, those of its owner.

    Args:
        api: Reads and starts evaluations.
        service: Opens images.
        models: (title, name) of the models in the list.
        tabs: The tabs of the page.
        ask: Fields of the Ask tab.
        permissions: Who may see and start evaluations.
        examples: Public evaluations of the examples; None = not on a Space.
    """
    if examples is None:
        _build_page(api, service, models, tabs, ask, permissions)
        return
    _build_page(examples.api, service, models, tabs, ask, Permissions(), examples)
    if permissions.owners:
        with gr.Accordion("Owner evaluations", open=False, elem_id="evaluate-owner"):
            _build_page(api, service, models, tabs, ask, permissions)


def _build_page(
    api: EvaluationApi,
    service: AskService,
    models: list[tuple[str, str]],
    tabs: gr.Tabs,
    ask: AskInputs,
    permissions: Permissions,
    examples: ExampleEvaluations | None = None,
) -> None:
    """Build one page of evaluations and results; arguments as for ``build_evaluate_tab``."""
    marker = service.folder / "evaluate_marker.txt"
    marker.write_text("Files of the Evaluate tab are next to this one.\n", encoding="utf-8")
    outputs = EvaluationResultsApi(api, service)
    readers: list[Handler] = [
        api.evaluations,
        *(outputs.tables, outputs.failures, outputs.failure, outputs.report),
    ]
    actions: list[Handler] = [api.command, api.start, api.stop, api.resume, api.delete]
    redact_paths = permissions.is_public or examples is not None or not api.is_open
    answers = [api_handler(each, permissions.require_owner, redact_paths=redact_paths) for each in readers]
    answers += [api_handler(each, permissions.require_write_access) for each in actions if api.is_open]
    if examples is not None:
        answers.append(api_handler(examples.evaluate_examples, redact_paths=True))
    choices = EvaluateChoices(
        benchmarks=[
            {"name": each.name, "title": each.title, "hub_id": each.hub_id, "has_boxes": each.has_boxes}
            for each in BENCHMARKS.values()
        ],
        benchmark="needle",
        models=models,
        model=BUILT_IN_HART,
        protocols=[(name, PROTOCOL_TITLES[name]) for name in PROTOCOLS],
        gpus=[(gpu.index, gpu.title) for gpu in api.launch.gpus()] if api.is_open else [],
        model_hint=service.allowed.hint,
        examples=[] if examples is None else [(title, name) for title, name in models if name in BUILT_IN_FOLDERS],
        example_count=0 if examples is None else examples.count,
    )
    elem_id = "evaluate-owner-page" if permissions.is_public else "evaluate-page"
    page = EvaluatePage(marker, choices, answers, is_open=api.is_open, elem_id=elem_id)

    def open_ask(event: gr.EventData, user: gr.OAuthProfile | None = None) -> list[Any]:
        wanted = event._data if isinstance(event._data, dict) else {}
        try:
            permissions.require_owner(user)
            found = call_handler(outputs.prefill_ask, {name: wanted.get(name) for name in ("run", "sample")})
        except HartError as error:
            raise gr.Error(str(error), title="Cannot open question", print_exception=False) from error
        model: Any = found.model
        if model is None:
            gr.Warning(_MODEL_LEFT, title="Model not set")
            model = gr.skip()
        texts = [found.question, found.choices, found.answer]
        return [gr.update(selected="ask"), str(found.image), *texts, model]

    fields = [ask.image_file, ask.question, ask.choices, ask.answer, ask.model_a]
    page.open_ask(open_ask, None, [tabs, *fields], api_visibility="private", show_progress="hidden")
