"""Programs for kill tests: a labeling run and a reviewer, with a scripted model."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hart_studio.labeling.job import run_labeling
from hart_studio.labeling.project import Project
from hart_studio.labeling.review import ReviewQueue
from hart_studio.models.chat import ChatModel, ChatRequest
from hart_studio.runs.layout import RunLayout
from tests.fakes import ScriptedModel

REGION = '[{"bbox_2d": [250, 333, 500, 667], "label": "sign"}]'
DECISIONS = ("accept", "reject", "bad_question")


def make_model() -> ChatModel:
    def point(request: ChatRequest) -> str:
        time.sleep(0.001)
        return REGION

    return ScriptedModel(grounding=point, crops_only="B", direct="B")


def label(run: Path) -> None:
    run_labeling(RunLayout(run), lambda name, device, **_: make_model())


def review(project: Path, reviewer: str, journal: Path) -> None:
    """Decide, undo and redo forever; each completed action is written to the journal."""
    queue = ReviewQueue(Project(project))
    with journal.open("a") as file:
        for turn in range(1_000_000):
            item = queue.next_item(reviewer)
            if item is None:
                break
            queue.decide(reviewer, item.id, item.label.revision, DECISIONS[turn % 3])  # type: ignore[arg-type]
            file.write(f"{item.id} {item.label.revision + 1}\n")
            file.flush()
            if turn % 5 == 4:
                queue.undo(reviewer)
                queue.redo(reviewer)


if __name__ == "__main__":
    work, *arguments = sys.argv[1:]
    if work == "label":
        label(Path(arguments[0]))
    else:
        review(Path(arguments[0]), arguments[1], Path(arguments[2]))
