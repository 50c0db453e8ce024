"""Images without a table: one question is asked about every image of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.errors import DataError, InputError
from hart_studio.files import to_printable, to_stored_path
from hart_studio.labeling.source_detection import list_images
from hart_studio.records import Sample


def check_question(question: str) -> None:
    """Check the question for images without labels.

    Raises:
        InputError: If it is empty or contains ``{label}``.
    """
    if not question.strip():
        raise InputError("No question to ask about each image. Enter one.")
    if "{label}" in question:
        raise InputError(
            "The question has {label}, but images alone have no labels. Use {name} for the file name, or "
            "{folder} for the folder name."
        )


def load_unlabeled_images(folder: Path, question: str, choices: Sequence[str] = ()) -> LoadedSamples[Sample]:
    """Create one question per image of a folder.

    Args:
        folder: Folder, searched with subfolders; links are not followed.
        question: Question template; ``{name}`` = file name without suffix, ``{folder}`` = name of its folder.
        choices: Option texts without letters.

    Raises:
        DataError: If there is no such folder, no image in it, or too many files.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise DataError(f"{folder} is not a folder of images. Check the path.")

    def read(path: Path) -> Sample:
        name = to_stored_path(path.relative_to(root))
        return _ask(name, to_stored_path(path), question, choices, to_printable(root.name))

    images = ((to_stored_path(path.relative_to(root)), path) for path in list_images(root))
    return collect_samples(root.name, images, read, needs_answer=False)


def _ask(name: str, image: str, question: str, choices: Sequence[str], source: str) -> Sample:
    """Fill the template by replacement: ``str.format`` would allow access to attributes."""
    path = Path(name)
    text = question.replace("{name}", path.stem).replace("{folder}", path.parent.name)
    return Sample(id=name, image=image, question=text, choices=tuple(choices), source=source)
