"""What Label Studio asks for: the labeling configuration of a project, and the image and question of a task.

A configuration comes from the network, so it is XML of bounded size without a document type, which leaves nothing to
expand and nothing to load.
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
"""A longer configuration is none, characters."""

_MAX_REASON_CHARS: Final = 500
_QUICK_UPLOAD: Final = "$undefined$"


@dataclass(frozen=True)
class LabelConfig:
    """The parts of a labeling configuration that a prediction needs.

    Attributes:
        controls: Names of its tags.
        labels: What a box may be called; empty for boxes without labels.
        image_field: Field of a task's data with the image.
        question_fields: Fields that may hold the question, the first that does counts.
    """

    controls: Controls
    labels: tuple[str, ...]
    image_field: str
    question_fields: tuple[str, ...]

    def choose_label(self, wanted: str) -> str:
        """The label of the same name, else the first."""
        same = (label for label in self.labels if label.casefold() == wanted.casefold())
        return next(same, self.labels[0] if self.labels else "")

    def get_image_reference(self, data: Mapping[str, Any]) -> str:
        """Where the image of a task is.

        Raises:
            ValueError: If the task names none.
        """
        found = data.get(self.image_field, data.get(_QUICK_UPLOAD))
        if not isinstance(found, str) or not found:
            raise ValueError(f"expected the image in the field {self.image_field!r}, got {type(found).__name__}")
        return found

    def read_sample(self, data: Mapping[str, Any], image: str) -> Sample:
        """The question of a task.

        Args:
            data: The task's data.
            image: Path or key of its image.

        Raises:
            ValueError: If there is no question, or its choices or its answer cannot be used.
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
        """The boxes of a request that someone has just drawn on the image: the interactive mode."""
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

    The first control for boxes counts whose image is a variable of the task: ``RectangleLabels``, else ``Rectangle``.

    Raises:
        InputError: If it is no such configuration.
    """
    tags = list(_parse(text).iter())
    images = {tag.get("name", ""): field for tag in _named(tags, "image") if (field := _variable(tag))}
    for kind in ("rectanglelabels", "rectangle"):
        for tag in _named(tags, kind):
            labels = tuple(label for each in tag.iter() if (label := _label_of(each)))
            if tag.get("name") and tag.get("toName") in images and (labels or kind == "rectangle"):
                return _cluster_around(tags, images, tag, labels)
    raise InputError(
        'expected <Image name="image" value="$image"/> and <RectangleLabels name="label" toName="image"> with a '
        "<Label value=...> in it, got a labeling configuration without; add them in the project's settings"
    )


class OpenedTask(NamedTuple):
    """A task that the model can be asked about."""

    sample: Sample
    """Its question; the image's path is a key that no other image has."""
    image: SourceImage
    """Its image."""
    identity: str
    """The same for the same question about the same image."""


def read_task(
    config: LabelConfig, task: Any, loader: ImageLoader, opened: dict[str, SourceImage], deadline: float
) -> OpenedTask | str:
    """Open the image and read the question of a task.

    Args:
        config: Of its project.
        task: As Label Studio sends it.
        loader: Where images may come from.
        opened: Images that are open, by key; a new one is added.
        deadline: For fetching the image, by ``time.monotonic``.

    Returns:
        The task, or why the model cannot be asked about it.
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
    """A box that someone has drawn, in original pixels.

    Raises:
        ValueError: If it is no upright rectangle on this image.
    """
    return read_region(region, FoundImage(image.name, image.name, image.wh))


def describe_error(error: Exception) -> str:
    """One line; what is not ours is named only, for its text is not meant for other machines."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")[:_MAX_REASON_CHARS]
    if isinstance(error, (HartError, ValueError)):
        return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:_MAX_REASON_CHARS]
    return f"the model failed: {type(error).__name__}"


def _cluster_around(
    tags: list[ElementTree.Element], images: Mapping[str, str], boxes: ElementTree.Element, labels: tuple[str, ...]
) -> LabelConfig:
    image = boxes.get("toName", "")
    own = [tag for tag in tags if tag.get("toName") == image and tag.get("perRegion") != "true"]
    texts = [tag.get("name", "") for tag in _named(own, "textarea")]
    # Of several text fields only the one of that name is surely for the answer.
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
        raise InputError("expected the XML of a labeling configuration, got none; set one up in the project's settings")
    if len(text) > MAX_CONFIG_CHARS:
        raise InputError(
            f"expected a labeling configuration of at most {MAX_CONFIG_CHARS} characters, got {len(text)}; shorten it"
        )
    # Entities can be declared in a document type only. In decoded text its name has one spelling.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(
            "expected a labeling configuration without document type and entities, got one with; remove them"
        )
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - the lines above have refused what makes it unsafe
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"expected a labeling configuration in XML, got: {error}; repair it") from error


def _named(tags: list[ElementTree.Element], name: str) -> Iterator[ElementTree.Element]:
    """The tags of a name; Label Studio does not mind its case."""
    return (tag for tag in tags if tag.tag.lower() == name)


def _variable(tag: ElementTree.Element) -> str:
    """The field of a task's data that a tag shows; empty when it shows a fixed text."""
    value = tag.get("value", "").strip()
    return value[1:] if value.startswith("$") else ""


def _label_of(tag: ElementTree.Element) -> str:
    """What a result calls a label."""
    return (tag.get("alias") or tag.get("value") or "") if tag.tag.lower() == "label" else ""
