"""The examples of the Ask tab, read from ``assets/examples`` and copied to where the server may serve them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from hart_studio.errors import DataError
from hart_studio.files import resolve_inside
from hart_studio.imaging import SourceImage
from hart_studio.records import Record
from hart_studio.ui.components.example_picker import Example

_THUMBNAIL_PIXELS: Final = 320 * 240


class _Entry(Record):
    """One entry of ``examples.json``."""

    title: str
    image: str
    question: str
    choices: tuple[str, ...] = ()
    answer: str = ""


def load_examples(folder: Path, served: Path) -> tuple[Example, ...]:
    """Read the examples.

    Args:
        folder: Holds ``examples.json`` and the images that it names.
        served: An existing folder that the server may serve; gets the images and their thumbnails, because the
            project's own folder is never served.

    Returns:
        The examples in file order; none when there is no ``examples.json``.

    Raises:
        DataError: If the file is not a list of examples.
        InputError: If an image's name leads out of the folder.
        ImageError: If an image cannot be read.
    """
    catalogue = folder / "examples.json"
    if not catalogue.exists():
        return ()
    try:
        entries = TypeAdapter(tuple[_Entry, ...]).validate_python(json.loads(catalogue.read_text("utf-8")))
    except (ValueError, ValidationError) as error:
        raise DataError(f"expected a list of examples in {catalogue.name}, got: {error}; repair the file") from error
    return tuple(_prepare(entry, folder, served) for entry in entries)


def _prepare(entry: _Entry, folder: Path, served: Path) -> Example:
    """Copy one image byte for byte and make its thumbnail."""
    source = resolve_inside(folder, entry.image)
    picture = served / source.name
    shutil.copyfile(source, picture)
    thumbnail = served / f"{source.stem}.thumbnail.jpg"
    SourceImage(picture).overview(max_pixels=_THUMBNAIL_PIXELS).save(thumbnail, quality=85)
    return Example(entry.title, picture, thumbnail, entry.question, entry.choices, entry.answer)
