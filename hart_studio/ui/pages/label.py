"""The Label tab: one component and the functions that its script calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hart_studio.image_domains import DOMAIN_TITLES, supported_domains
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.sources import KIND_TITLES, KINDS
from hart_studio.models.catalog import BUILT_IN_HART, GENERAL_MODEL, read_intended_domain
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.handler import api_handler
from hart_studio.ui.api.label_exports import LabelExportApi
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.projects import ProjectApi
from hart_studio.ui.api.review import ReviewApi
from hart_studio.ui.components.label_page import LabelChoices, LabelPage
from hart_studio.ui.spaces import session_labels as bounds
from hart_studio.ui.spaces.sessions import AWAY_SECONDS, IDLE_SECONDS, SessionStore

NOTE: Final = (
    "Projects are private to this browser tab and temporary. They are deleted "
    f"after {IDLE_SECONDS / 3600:.0f} hours without activity, when the Space restarts, and when you close the tab. A "
    f"run stops after {AWAY_SECONDS / 60:.0f} minutes without activity. Export your labels to keep them. Limits per "
    f"visitor: {bounds.MAX_PROJECTS} projects, {bounds.MAX_ITEMS} questions, {bounds.MAX_BYTES >> 20} MiB. Only one "
    "visitor can run labeling at a time."
)
"""Notice to visitors of a Space above their projects."""


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
    calls, projects = ReviewApi(label_api, service), ProjectApi(label_api)
    readers: list[Callable[[Mapping[str, Any]], Any]] = [
        *(label_api.projects, label_api.poll, label_api.invalid_rows),
        *(outputs.quality, outputs.describe_export_loss, outputs.diff_labels, calls.list_items),
    ]
    actions: list[Callable[[Mapping[str, Any]], Any]] = [
        *(
            label_api.create,
            label_api.preview_source,
            label_api.start_import,
            label_api.describe_score_basis,
            label_api.start,
            label_api.pause,
            label_api.stop,
            label_api.resume,
        ),
        *(outputs.export, outputs.change_classes),
        *(calls.next_item, calls.open_item, calls.decide, calls.skip, calls.undo, calls.redo),
        *(calls.check, calls.accept_all, calls.bulk_progress),
        *(projects.rename, projects.duplicate, projects.archive, projects.delete, projects.trash, projects.restore),
    ]
    answers = readers + actions if label_api.is_open else readers
    kinds = [kind for kind in KINDS if kind != "auto"]
    note, max_rollouts = "", LabelChoices.max_rollouts
    if visitors is not None:
        answers = [visitors.handler_for(answer.__name__) for answer in readers + actions]
        kinds = [kind for kind in bounds.KINDS if kind != "auto"]
        note, max_rollouts = NOTE, bounds.MAX_ROLLOUTS
    made_for = read_intended_domain(BUILT_IN_HART)
    choices = LabelChoices(
        outputs.formats,
        [(KIND_TITLES.get(kind) or FORMATS[kind].title, kind) for kind in kinds],
        models,
        BUILT_IN_HART,
        supported_domains(made_for),
        f"The built-in models only support {DOMAIN_TITLES[made_for]}, and this project has other images. "
        f"For photographs use a model such as {GENERAL_MODEL}.",
        service.allowed.hint,
        note,
        max_rollouts,
    )
    is_open = label_api.is_open or visitors is not None
    redact_paths = visitors is not None or not label_api.is_open
    answers = [api_handler(answer, redact_paths=redact_paths) for answer in answers]
    return LabelPage(marker, choices, answers, is_open=is_open, elem_id="label-page")
