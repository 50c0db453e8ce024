from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.data.sources import load_jsonl
from hart_studio.errors import InputError
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import USABLE_STATUSES
from hart_studio.labeling.training_set import write_training_set
from tests.unit.labeling.conftest import add_label, ask


def test_good_labels_become_questions_with_the_labels_boxes(project: Project, image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deeper"
    folder.mkdir()
    other = folder / "other.png"
    other.write_bytes(image.read_bytes() + b" ")
    rows = (ask(image, 0), ask(other, 1), ask(image, 2), ask(image, 3, answer=None), ask(image, 4))
    import_samples(project, LoadedSamples("s", rows))
    statuses = ("accepted", "edited", "rejected", "accepted", "auto_accepted")
    for item, status in zip(list(project.items()), statuses, strict=True):
        add_label(project, item.id, status=status)
    found = write_training_set(project)
    assert (found.questions, found.excluded, found.image_root) == (3, 1, tmp_path)
    loaded = load_jsonl(found.path, image_root=found.image_root)
    assert [sample.question[-2:] for sample in loaded.samples] == ["0?", "1?", "4?"]
    assert [sample.image for sample in loaded.samples] == [str(image), str(other), str(image)]
    assert all(sample.gold_boxes == () for sample in loaded.samples), "a label is no truth"
    kept = [item.label.boxes for item in project.items() if item.label.status in USABLE_STATUSES and item.sample.answer]
    assert [sample.label_boxes for sample in loaded.samples] == kept


def test_nothing_to_train_on(filled: Project) -> None:
    with pytest.raises(InputError, match="Review some items first"):
        write_training_set(filled)
