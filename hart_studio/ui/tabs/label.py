"""The Label tab: one display, whose script does everything through the functions that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hart_studio.image_domains import DOMAIN_TITLES, supported_domains
from hart_studio.labeling.sources import KINDS
from hart_studio.models.catalog import BUILT_IN_HART, GENERAL_MODEL, read_intended_domain
from hart_studio.ui import visitor_desk as bounds
from hart_studio.ui.components.label_page import LabelChoices, LabelPage
from hart_studio.ui.label_desk import LabelDesk
from hart_studio.ui.label_outputs import LabelOutputs
from hart_studio.ui.page_calls import guarded
from hart_studio.ui.project_api import ProjectApi
from hart_studio.ui.review_calls import ReviewCalls
from hart_studio.ui.services import AskService
from hart_studio.ui.visitors import ABSENT_SECONDS, IDLE_SECONDS, Visitors

NOTE: Final = (
    "Projects here are private to this browser tab, and they do not last: the disk of a Space is temporary. A project "
    f"goes after {IDLE_SECONDS / 3600:.0f} hours without you, when the Space restarts, and when you close the tab; a "
    f"run ends when you are away for {ABSENT_SECONDS / 60:.0f} minutes. Export your labels to keep them. For each "
    f"visitor: {bounds.MOST_PROJECTS} projects, {bounds.MOST_ITEMS} questions, {bounds.MOST_BYTES >> 20} MiB; one "
    "visitor's run at a time."
)
"""What visitors of a Space are told where they make a project."""


def build_label_tab(
    desk: LabelDesk,
    outputs: LabelOutputs,
    service: AskService,
    models: list[tuple[str, str]],
    visitors: Visitors | None = None,
) -> LabelPage:
    """Build the tab.

    Args:
        desk: Knows the projects.
        outputs: Measures and exports them.
        service: Opens pictures and asks models.
        models: (title, name) of the models in the list.
        visitors: Where everybody has projects of their own, they answer, and the desk does not.
    """
    marker = service.folder / "marker.txt"
    marker.write_text("Files of the Label page lie beside this one.\n", encoding="utf-8")
    calls, projects = ReviewCalls(desk, service), ProjectApi(desk)
    looks: list[Callable[[Mapping[str, Any]], Any]] = [
        *(desk.projects, desk.look, desk.invalid_rows),
        *(outputs.quality, outputs.losses, outputs.difference, calls.list_items),
    ]
    makes: list[Callable[[Mapping[str, Any]], Any]] = [
        *(desk.create, desk.peek, desk.bring, desk.scores, desk.start, desk.pause, desk.stop, desk.resume),
        *(outputs.export, outputs.change_classes),
        *(calls.next_item, calls.open_item, calls.decide, calls.skip, calls.undo, calls.redo),
        *(calls.check, calls.accept_all, calls.bulk_progress),
        *(projects.rename, projects.duplicate, projects.archive, projects.delete, projects.trash, projects.restore),
    ]
    answers = looks + makes if desk.is_open else looks
    kinds = [kind for kind in KINDS if kind != "auto"]
    note, most_rollouts = "", LabelChoices.most_rollouts
    if visitors is not None:
        answers = [visitors.answering(answer.__name__) for answer in looks + makes]
        kinds = [kind for kind in bounds.KINDS if kind != "auto"]
        note, most_rollouts = NOTE, bounds.MOST_ROLLOUTS
    made_for = read_intended_domain(BUILT_IN_HART)
    choices = LabelChoices(
        outputs.formats,
        kinds,
        models,
        BUILT_IN_HART,
        supported_domains(made_for),
        f"The built-in models were made for {DOMAIN_TITLES[made_for]}, and this project has other images. "
        f"For photographs take a model such as {GENERAL_MODEL}.",
        service.allowed.label,
        note,
        most_rollouts,
    )
    is_open = desk.is_open or visitors is not None
    is_discreet = visitors is not None or not desk.is_open
    answers = [guarded(answer, is_discreet=is_discreet) for answer in answers]
    return LabelPage(marker, choices, answers, is_open=is_open, elem_id="label-page")
