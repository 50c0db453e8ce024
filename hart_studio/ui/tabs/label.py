"""The Label tab: one display, whose script does everything through the functions that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hart_studio.labeling.sources import KINDS
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.ui.components.label_page import LabelChoices, LabelPage
from hart_studio.ui.label_desk import LabelDesk
from hart_studio.ui.label_outputs import LabelOutputs
from hart_studio.ui.review_calls import ReviewCalls
from hart_studio.ui.run_watch import guarded
from hart_studio.ui.services import AskService


def build_label_tab(
    desk: LabelDesk, outputs: LabelOutputs, service: AskService, models: list[tuple[str, str]]
) -> LabelPage:
    """Build the tab.

    Args:
        desk: Knows the projects.
        outputs: Measures and exports them.
        service: Opens pictures and asks models.
        models: (title, name) of the models in the list.
    """
    marker = service.folder / "marker.txt"
    marker.write_text("Files of the Label page lie beside this one.\n", encoding="utf-8")
    calls = ReviewCalls(desk, service)
    looks: list[Callable[[Mapping[str, Any]], Any]] = [
        *(desk.projects, desk.look, desk.bad_rows),
        *(outputs.quality, outputs.losses, outputs.difference, calls.list_items),
    ]
    makes: list[Callable[[Mapping[str, Any]], Any]] = [
        *(desk.create, desk.peek, desk.bring, desk.start, desk.pause, desk.stop, desk.resume, outputs.export),
        *(calls.next_item, calls.open_item, calls.decide, calls.skip, calls.undo, calls.redo),
        *(calls.check, calls.accept_all),
    ]
    answers = [guarded(answer) for answer in (looks + makes if desk.is_open else looks)]
    kinds = [kind for kind in KINDS if kind != "auto"]
    choices = LabelChoices(outputs.formats, kinds, models, BUILT_IN_HART)
    return LabelPage(marker, choices, answers, is_open=desk.is_open, elem_id="label-page")
