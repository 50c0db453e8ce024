"""Examples of the Ask tab: load them from ``assets/examples``, and show them as cards with thumbnails."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from hart_studio.errors import DataError
from hart_studio.files import resolve_inside
from hart_studio.imaging import SourceImage
from hart_studio.records import Record
from hart_studio.ui.pages.display import Display, to_json

_THUMBNAIL_PIXELS: Final = 320 * 240


@dataclass(frozen=True)
class Example:
    """An example question about an image."""

    title: str
    image: Path
    """The full image."""
    thumbnail: Path
    question: str
    choices: tuple[str, ...]
    answer: str


class ExamplePicker(Display):
    """Shows examples; the ``pick`` event carries the index of the chosen one."""

    template = '<div class="hs-examples" role="group" aria-label="Examples"></div>'
    scripts = ("example_picker.js",)

    def postprocess(self, value: Any) -> Any:
        """Title, question and thumbnail of each example; not its answer."""
        return [{"title": each.title, "question": each.question, "image": to_json(each.thumbnail)} for each in value]

    def api_info(self) -> dict[str, Any]:
        """The JSON type of the value."""
        return {"type": "array"}


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
        served: Existing served folder for the images and their thumbnails; the project folder itself is never served.

    Returns:
        The examples in file order; empty without ``examples.json``.

    Raises:
        DataError: If the file is not a list of examples.
        InputError: If an image path leads out of the folder.
        ImageError: If an image cannot be read.
    """
    catalog_path = folder / "examples.json"
    if not catalog_path.exists():
        return ()
    try:
        entries = TypeAdapter(tuple[_Entry, ...]).validate_python(json.loads(catalog_path.read_text("utf-8")))
    except (ValueError, ValidationError) as error:
        raise DataError(f"{catalog_path.name} is not a valid list of examples: {error}. Fix the file.") from error
    return tuple(_prepare(entry, folder, served) for entry in entries)


def _prepare(entry: _Entry, folder: Path, served: Path) -> Example:
    """Copy one image byte for byte and make its thumbnail."""
    source = resolve_inside(folder, entry.image)
    image = served / source.name
    shutil.copyfile(source, image)
    thumbnail = served / f"{source.stem}.thumbnail.jpg"
    SourceImage(image).overview(max_pixels=_THUMBNAIL_PIXELS).save(thumbnail, quality=85)
    return Example(entry.title, image, thumbnail, entry.question, entry.choices, entry.answer)
