"""Parse Label Studio requests: the labeling configuration of a project, and image and question of a task.

A configuration comes from the network. It must be XML of limited size without a document type, so there are no entities
to expand or files to load.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree

from pydantic import ValidationError

from hart_studio.data.rows import get_field, to_text, to_texts
from hart_studio.errors import HartError, InputError
from hart_studio.imaging import SourceImage
from hart_studio.labeling.formats.label_studio import VERIFIED, WRONG_BOX, Controls, read_region
from hart_studio.labeling.formats.reading import FoundImage, sample_id, to_label
from hart_studio.labeling.ml_backend.images import ImageLoader
from hart_studio.records import Box, Sample

MAX_CONFIG_CHARS: Final = 1 << 18
"""Maximum length of a labeling configuration."""

_MAX_REASON_CHARS: Final = 500
_QUICK_UPLOAD: Final = "$undefined$"


@dataclass(frozen=True)
class LabelConfig:
    """The parts of a labeling configuration that a prediction needs.

    Attributes:
        controls: Names of the tags.
        labels: Allowed box labels; empty for boxes without labels.
        image_field: Field of the task data with the image.
        question_fields: Fields that may hold the question; the first one present counts.
    """

    controls: Controls
    labels: tuple[str, ...]
    image_field: str
    question_fields: tuple[str, ...]

    def choose_label(self, name: str) -> str:
        """Return the label of that name, else the first label."""
        same = (label for label in self.labels if label.casefold() == name.casefold())
        return next(same, self.labels[0] if self.labels else "")

    def get_image_reference(self, data: Mapping[str, Any]) -> str:
        """Return the image reference of a task.

        Raises:
            ValueError: If the task has none.
        """
        found = data.get(self.image_field, data.get(_QUICK_UPLOAD))
        if not isinstance(found, str) or not found:
            raise ValueError(f"expected the image in the field {self.image_field!r}, got {type(found).__name__}")
        return found

    def read_sample(self, data: Mapping[str, Any], image: str) -> Sample:
        """Read the question of a task.

        Args:
            data: Data of the task.
            image: Path or key of the image.

        Raises:
            ValueError: If the question is missing, or choices or answer are invalid.
        """
        texts = (data.get(field) for field in self.question_fields)
        question = next((text for text in texts if isinstance(text, str) and text.strip()), None)
        if question is None:
            raise ValueError(f"expected a question in the field {' or '.join(map(repr, self.question_fields))}")
        answer = data.get("answer")
        return Sample(
            id=image,
            image=image,
            question=to_label(question, "question"),
            choices=to_texts(data.get("choices") or None, "choices"),
            answer=None if answer in (None, "") else to_text(answer, "answer"),
        )

    def get_drawn_regions(self, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Boxes that the user has just drawn on the image (interactive mode)."""
        params = payload.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        result = context.get("result") if isinstance(context, dict) else None
        return [
            region
            for region in (result if isinstance(result, list) else [])
            if isinstance(region, dict)
            and str(region.get("type", "")).startswith("rectangle")
            and region.get("to_name", self.controls.image) == self.controls.image
        ]


def read_label_config(text: Any) -> LabelConfig:
    """Read the XML of a labeling configuration.

    The first control for boxes on a task image counts: ``RectangleLabels``, else ``Rectangle``.

    Raises:
        InputError: If the configuration is invalid or lacks such a control.
    """
    tags = list(_parse(text).iter())
    images = {tag.get("name", ""): field for tag in _named(tags, "image") if (field := _variable(tag))}
    for kind in ("rectanglelabels", "rectangle"):
        for tag in _named(tags, kind):
            labels = tuple(label for each in tag.iter() if (label := _label_of(each)))
            if tag.get("name") and tag.get("toName") in images and (labels or kind == "rectangle"):
                return _read_controls(tags, images, tag, labels)
    raise InputError(
        'The labeling configuration needs <Image name="image" value="$image"/> and <RectangleLabels name="label" '
        'toName="image"> with a <Label value=...> in it. Add them in the project settings.'
    )


class OpenedTask(NamedTuple):
    """A task with its open image."""

    sample: Sample
    """Question; its image path is a unique key."""
    image: SourceImage
    """Open image."""
    identity: str
    """Equal for the same question about the same image."""


def read_task(
    config: LabelConfig, task: Any, loader: ImageLoader, opened: dict[str, SourceImage], deadline: float
) -> OpenedTask | str:
    """Open the image and read the question of a task.

    Args:
        config: Labeling configuration of the project.
        task: Task as sent by Label Studio.
        loader: Opens allowed images.
        opened: Open images by key; a new one is added.
        deadline: Deadline for loading the image, ``time.monotonic``.

    Returns:
        The task, or why it cannot be processed.
    """
    try:
        data = get_field(task, "data")
        if not isinstance(data, dict):
            raise ValueError(f"expected a JSON object in 'data', got {type(data).__name__}")
        reference = config.get_image_reference(data)
        key = hashlib.sha256(reference.encode("utf-8", "backslashreplace")).hexdigest()
        sample = config.read_sample(data, key)
        if key not in opened:
            opened[key] = loader.open(reference, deadline - time.monotonic())
        return OpenedTask(sample, opened[key], sample_id(key, sample.question, sample.choices))
    except (ValueError, OverflowError, RecursionError, HartError) as error:
        return describe_error(error)


def to_drawn_box(region: dict[str, Any], image: SourceImage) -> Box:
    """Read a drawn box, in original pixels.

    Raises:
        ValueError: If it is no axis-aligned rectangle on this image.
    """
    return read_region(region, FoundImage(image.name, image.name, image.wh))


def describe_error(error: Exception) -> str:
    """One line of text. Only errors of HART Studio are quoted, because other texts may reveal internals."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")[:_MAX_REASON_CHARS]
    if isinstance(error, (HartError, ValueError)):
        return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:_MAX_REASON_CHARS]
    return f"the model failed: {type(error).__name__}"


def _read_controls(
    tags: list[ElementTree.Element], images: Mapping[str, str], boxes: ElementTree.Element, labels: tuple[str, ...]
) -> LabelConfig:
    image = boxes.get("toName", "")
    own = [tag for tag in tags if tag.get("toName") == image and tag.get("perRegion") != "true"]
    texts = [tag.get("name", "") for tag in _named(own, "textarea")]
    # With several text fields, only the one named `answer` is known to hold the answer.
    answer = "answer" if "answer" in texts else texts[0] if len(texts) == 1 else ""
    verdicts = (
        tag.get("name", "")
        for tag in _named(own, "choices")
        if {VERIFIED, WRONG_BOX} <= {choice.get("value") for choice in _named(list(tag.iter()), "choice")}
    )
    headers = [field for tag in _named(tags, "header") if (field := _variable(tag))]
    return LabelConfig(
        controls=Controls(
            image=image,
            boxes=boxes.get("name", ""),
            kind="rectanglelabels" if boxes.tag.lower() == "rectanglelabels" else "rectangle",
            answer=answer,
            verdict=next(verdicts, ""),
        ),
        labels=labels,
        image_field=images[image],
        question_fields=tuple(dict.fromkeys(["question", *headers])),
    )


def _parse(text: Any) -> ElementTree.Element:
    if not isinstance(text, str) or not text.strip():
        raise InputError("The project has no labeling configuration. Add one in the project settings.")
    if len(text) > MAX_CONFIG_CHARS:
        raise InputError(
            f"The labeling configuration has {len(text)} characters; the limit is {MAX_CONFIG_CHARS}. Shorten it."
        )
    # Entities are declared only in a document type, which has one spelling in decoded text.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError("The labeling configuration declares a document type or entities. Remove them.")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - the lines above reject unsafe XML
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"The labeling configuration is not valid XML: {error}. Repair it.") from error


def _named(tags: list[ElementTree.Element], name: str) -> Iterator[ElementTree.Element]:
    """Tags of a name, ignoring case like Label Studio."""
    return (tag for tag in tags if tag.tag.lower() == name)


def _variable(tag: ElementTree.Element) -> str:
    """Field of the task data that a tag shows; empty for a fixed text."""
    value = tag.get("value", "").strip()
    return value[1:] if value.startswith("$") else ""


def _label_of(tag: ElementTree.Element) -> str:
    """Name of a label in results."""
    return (tag.get("alias") or tag.get("value") or "") if tag.tag.lower() == "label" else ""
