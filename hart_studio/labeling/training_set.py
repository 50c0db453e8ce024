"""Training data from accepted labels: the file for the ``data`` settings of a training run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from hart_studio.errors import InputError
from hart_studio.files import from_stored_path, to_stored_path, write_atomically
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_locks import TRAINING, check_links
from hart_studio.labeling.records import USABLE_STATUSES


class TrainingSet(NamedTuple):
    """Result of the export."""

    path: Path
    """JSONL in the form of ``data.sources.load_jsonl``."""
    image_root: Path
    """Base folder of image names."""
    questions: int
    """Number of rows."""
    excluded: int
    """Number of accepted labels without a known answer; a reward needs one."""


def write_training_set(project: Project) -> TrainingSet:
    """Write questions and boxes of all accepted labels with known answers.

    Reinforcement learning uses no boxes; SFT may use these (``method.sft_target``). Rejected labels and bad questions
    are excluded.

    Raises:
        InputError: If no accepted label has a known answer, or a link leads out of the project.
        OSError: If the project cannot be written.
    """
    check_links(project)
    items = list(project.items(ItemFilter(statuses=USABLE_STATUSES)))
    known = [item for item in items if item.sample.answer is not None]
    if not known:
        raise InputError("No accepted labels with known answers to train on. Review some items first.")
    root = Path(os.path.commonpath([str(from_stored_path(item.image.path).parent) for item in known]))
    rows = [
        {
            "id": item.id,
            "image": to_stored_path(from_stored_path(item.image.path).relative_to(root)),
            "question": item.sample.question,
            "choices": list(item.sample.choices),
            "answer": item.sample.answer,
            "category": item.sample.category,
            "label_boxes": [{"box": list(box.xyxy), "label": box.label} for box in item.label.boxes],
        }
        for item in known
    ]
    folder = project.folder / TRAINING
    folder.mkdir(exist_ok=True)
    path = folder / "samples.jsonl"
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return TrainingSet(path, root, len(rows), len(items) - len(known))
