"""The Label tab: one component and the functions that its script calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from hart_studio.image_domains import DOMAIN_TITLES, supported_domains
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.sources import KIND_TITLES
from hart_studio.models.catalog import BUILT_IN_HART, GENERAL_MODEL, read_intended_domain
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.exports import LabelExportApi
from hart_studio.ui.api.handler import Handler, api_handler
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.review import ReviewApi
from hart_studio.ui.components.page_component import PageComponent
from hart_studio.ui.spaces.sessions import AWAY_SECONDS, IDLE_SECONDS, VISITOR_LIMITS, SessionStore

NOTE: Final = (
    "Projects are private to this browser tab and temporary. They are deleted "
    f"after {IDLE_SECONDS / 3600:.0f} hours without activity, when the Space restarts, and when you close the tab. A "
    f"run stops after {AWAY_SECONDS / 60:.0f} minutes without activity. Export your labels to keep them. Limits per "
    f"visitor: {VISITOR_LIMITS.max_projects} projects, {VISITOR_LIMITS.max_items} questions, "
    f"{(VISITOR_LIMITS.max_bytes or 0) >> 20} MiB. Only one visitor can run labeling at a time."
)
"""Notice to visitors of a Space above their projects."""


@dataclass(frozen=True)
class LabelChoices:
    """Options shown on the page."""

    formats: list[tuple[str, str]]
    """(title, name) of the export formats."""
    kinds: list[tuple[str, str]]
    """(title, name) of the source types."""
    models: list[tuple[str, str]]
    """(title, name) of the models."""
    model: str
    """Model suggested for images of its own domain."""
    made_for: tuple[str, ...] = ()
    """Image domains of the suggested model."""
    domain_hint: str = ""
    """Why no model is suggested for other images."""
    model_hint: str = ""
    """Placeholder of the model field."""
    note: str = ""
    """Notice about temporary projects of visitors; empty where projects are kept."""
    max_rollouts: int = 64
    """Greatest number of rollouts per question."""


class LabelPage(PageComponent):
    """Shows projects, and the full-screen review."""

    template = "label_page.html"
    scripts = (
        "server_calls.js",
        "image_viewer.js",
        "review.js",
        "svg_figure.js",
        "tabs.js",
        "label_import.js",
        "project_menu.js",
        "label_page.js",
    )


READERS: Final[Mapping[type, tuple[Handler, ...]]] = {
    LabelApi: (LabelApi.projects, LabelApi.poll, LabelApi.invalid_rows),
    LabelExportApi: (LabelExportApi.quality, LabelExportApi.describe_export_loss, LabelExportApi.diff_labels),
    ReviewApi: (ReviewApi.list_items,),
}
"""Methods that the page may call, by their API."""

ACTIONS: Final[Mapping[type, tuple[Handler, ...]]] = {
    LabelApi: (
        *(LabelApi.create, LabelApi.rename, LabelApi.duplicate, LabelApi.archive, LabelApi.delete),
        *(LabelApi.trash, LabelApi.restore, LabelApi.preview_source, LabelApi.start_import),
        *(LabelApi.describe_score_basis, LabelApi.start, LabelApi.pause, LabelApi.stop, LabelApi.resume),
    ),
    LabelExportApi: (LabelExportApi.export, LabelExportApi.change_classes),
    ReviewApi: (
        *(ReviewApi.next_item, ReviewApi.open_item, ReviewApi.decide, ReviewApi.skip, ReviewApi.undo, ReviewApi.redo),
        *(ReviewApi.check, ReviewApi.accept_all, ReviewApi.bulk_progress),
    ),
}
"""Methods that the page may also call where users may change something."""


def build_label_tab(
    label_api: LabelApi,
    outputs: LabelExportApi,
    service: AskService,
    models: list[tuple[str, str]],
    visitors: SessionStore | None = None,
) -> LabelPage:
    """Build the tab.

    Args:
        label_api: Reads and changes projects.
        outputs: Quality and exports.
        service: Opens images and asks models.
        models: (title, name) of the models in the list.
        visitors: Sessions with private projects, used instead of ``label_api``; None = shared projects.
    """
    marker = service.folder / "marker.txt"
    marker.write_text("Files of the Label tab are next to this one.\n", encoding="utf-8")
    shared = {LabelApi: label_api, LabelExportApi: outputs, ReviewApi: ReviewApi(label_api, service)}

    @contextmanager
    def open_shared(kind: type, handler: Handler, request: Mapping[str, Any]) -> Iterator[object]:
        yield shared[kind]

    open_api = visitors.open_api if visitors else open_shared
    is_open = label_api.is_open or visitors is not None
    redact_paths = visitors is not None or not label_api.is_open
    answers: list[Callable[..., Any]] = [
        api_handler(handler, redact_paths=redact_paths, open_api=partial(open_api, kind))
        for table in ((READERS, ACTIONS) if is_open else (READERS,))
        for kind, handlers in table.items()
        for handler in handlers
    ]
    limits = visitors.limits if visitors else label_api.limits
    made_for = read_intended_domain(BUILT_IN_HART)
    choices = LabelChoices(
        outputs.formats,
        [(KIND_TITLES.get(kind) or FORMATS[kind].title, kind) for kind in limits.kinds if kind != "auto"],
        models,
        BUILT_IN_HART,
        supported_domains(made_for),
        f"The built-in models only support {DOMAIN_TITLES[made_for]}, and this project has other images. "
        f"For photographs use a model such as {GENERAL_MODEL}.",
        service.allowed.hint,
        NOTE if visitors else "",
        limits.max_rollouts,
    )
    return LabelPage(marker, choices, answers, is_open=is_open, elem_id="label-page")
