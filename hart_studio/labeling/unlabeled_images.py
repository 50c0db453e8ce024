"""Images without a table: a folder, and one question that is asked about each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.errors import DataError, InputError
from hart_studio.files import to_printable, to_stored_path
from hart_studio.labeling.source_detection import list_images
from hart_studio.records import Sample


def check_question(question: str) -> None:
    """See that there is a question to ask about images without labels.

    Raises:
        InputError: If it is empty, or names a label.
    """
    if not question.strip():
        raise InputError("expected a question to ask about each image, got none; give one")
    if "{label}" in question:
        raise InputError(
            "expected a question without {label}, for images alone have none; write {name} for the name of the file, "
            "{folder} for that of its folder"
        )


def load_unlabeled_images(folder: Path, question: str, choices: Sequence[str] = ()) -> LoadedSamples[Sample]:
    """Ask one question about every image below a folder.

    Args:
        folder: Searched with its subfolders; links are not followed.
        question: ``{name}`` in it stands for the file's name without its ending, ``{folder}`` for that of its folder.
        choices: Option texts without letters.

    Raises:
        DataError: If there is no such folder, no image in it, or too many files.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise DataError(f"expected a folder of images, got {folder}; check the path")

    def read(path: Path) -> Sample:
        name = to_stored_path(path.relative_to(root))
        return _ask(name, to_stored_path(path), question, choices, to_printable(root.name))

    images = ((to_stored_path(path.relative_to(root)), path) for path in list_images(root))
    return collect_samples(root.name, images, read, needs_answer=False)


def _ask(name: str, image: str, question: str, choices: Sequence[str], source: str) -> Sample:
    """The template is filled by replacement, not by ``format``, which would let a template reach into objects."""
    path = Path(name)
    text = question.replace("{name}", path.stem).replace("{folder}", path.parent.name)
    return Sample(id=name, image=image, question=text, choices=tuple(choices), source=source)
