"""What the tools take, and how they are carried out: the same calls of the service as the endpoints for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.records import MAX_QUESTION_CHARS, Box, Protocol, Record
from hart_studio.ui.api.ask import AskForm, AskService, read_form
from hart_studio.ui.api.box_input import BoxInput, parse_boxes
from hart_studio.ui.api.endpoints import MAX_BOXES
from hart_studio.ui.api.schemas import AskResponse, LocateResponse, VerifyResponse
from hart_studio.ui.mcp.images import cut_crops, open_base64_image
from hart_studio.ui.progress_stream import Progress

_MAX_CHOICES: Final = 26


class Question(Record):
    """What every tool takes; a client is shown the words under each field."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image: str
    """The image's bytes: a data: URI such as data:image/jpeg;base64,... or the base64 alone. PNG, JPEG, WebP, TIFF,
    BMP or GIF of at most 24 MiB. No path and no address."""
    question: str = Field(max_length=MAX_QUESTION_CHARS)
    """The question about the image, without its choices."""
    choices: tuple[str, ...] = Field(default=(), max_length=_MAX_CHOICES)
    """2 to 26 options without letters; none for an open question."""
    model: str = ""
    """Which model is asked; leave it out for the server's own choice."""


class AnswerableQuestion(Question):
    """A question that may come with its answer."""

    answer: str = Field(default="", max_length=MAX_QUESTION_CHARS)
    """The right answer if it is known: an option's letter or text."""


class AskArguments(AnswerableQuestion):
    """What ``ask`` takes."""

    protocols: tuple[Protocol, ...] = ("crops_only", "direct")
    """How the image is seen: the crops alone, the full image, or both. Each one takes time."""


class VerifyArguments(AnswerableQuestion):
    """What ``verify`` takes."""

    boxes: tuple[BoxInput, ...] = Field(min_length=1, max_length=MAX_BOXES)
    """The boxes to look into, in pixels of the original image."""


@dataclass(frozen=True)
class Tool:
    """One tool, as a client sees it."""

    name: str
    """What it is called by."""
    title: str
    """Its name for people."""
    description: str
    """What a language model reads to choose it."""
    arguments: type[Question]
    """What it takes."""
    reply: type[Record]
    """What it returns."""


TOOLS: Final = (
    Tool(
        "ask",
        "Ask about an image",
        "Answer a question about a large image. A vision model points at the decisive region, the region is cut from "
        "the original at full resolution, and the answer comes from that crop alone; the answer from the whole image "
        "stands beside it. Returns the boxes in pixels of the original, the answers, a self-check, and the crops.",
        AskArguments,
        AskResponse,
    ),
    Tool(
        "locate",
        "Find the region",
        "Find the region of a large image that a question is about, without answering it: the fastest tool. Returns "
        "boxes in pixels of the original, and the regions cut at full resolution for you to look at.",
        Question,
        LocateResponse,
    ),
    Tool(
        "verify",
        "Check boxes",
        "Check whether given boxes really hold what a question needs: the question is answered from the crops of "
        "exactly these boxes, from the whole image, and from the image with the boxes painted over. Returns the "
        "three answers, whether the crops are sufficient and necessary, and the crops.",
        VerifyArguments,
        VerifyResponse,
    ),
)
"""The tools by the order in which they are listed."""


@dataclass(frozen=True)
class ToolResult:
    """What a tool has found."""

    found: dict[str, Any]
    """One JSON object, of the tool's ``reply``."""
    crops: tuple[bytes, ...]
    """Regions that the answer rests on, JPEG."""


class Toolbox:
    """Carries the tools out.

    Attributes:
        models: Names that a client may choose from; the first is the default. They are few: whoever can name any model
            can make the server fetch it.
    """

    def __init__(self, service: AskService, models: Sequence[str]) -> None:
        """Nothing is asked yet.

        Args:
            service: Asks models.
            models: At least one name.
        """
        self._service = service
        self.models = tuple(dict.fromkeys(models))

    def describe(self, tool: Tool) -> dict[str, Any]:
        """JSON schema of what a tool takes."""
        schema = tool.arguments.model_json_schema()
        schema["properties"]["model"] |= {"enum": list(self.models), "default": self.models[0]}
        return schema

    def call(self, tool: Tool, arguments: Mapping[str, Any], progress: Progress) -> ToolResult:
        """Carry a tool out; takes as long as the model does.

        Args:
            tool: One of ``TOOLS``.
            arguments: From a client.
            progress: Told about each stage.

        Raises:
            HartError: If an argument or the image is not usable.
        """
        given = _read(tool.arguments, arguments)
        model = given.model or self.models[0]
        if model not in self.models:
            raise InputError(
                f"expected one of the models {', '.join(self.models)}, got another one; choose one of them"
            )
        with open_base64_image(given.image, self._service.folder) as path:
            found = self._ask(given, path, model, progress)
            boxes = tuple(Box(**box) for box in found["boxes"])
            return ToolResult(found, tuple(cut_crops(path, boxes)))

    def _ask(self, given: Question, path: Path, model: str, progress: Progress) -> dict[str, Any]:
        if isinstance(given, AskArguments):
            form = _form(given, path, given.answer, given.protocols)
            return AskResponse.model_validate(self._service.answer(form, model, progress)).model_dump(mode="json")
        if isinstance(given, VerifyArguments):
            boxes = parse_boxes([box.model_dump() for box in given.boxes], MAX_BOXES, least=1)
            form = _form(given, path, given.answer)
            return self._service.verify(form, boxes, model, progress).model_dump(mode="json")
        return self._service.locate(_form(given, path), model, progress).model_dump(mode="json")


def _form(given: Question, path: Path, answer: str = "", protocols: Sequence[Protocol] | None = None) -> AskForm:
    return read_form(path, given.question, given.choices, answer, protocols)


def _read(kind: type[Question], arguments: Mapping[str, Any]) -> Question:
    """Check the arguments; what a client sent is never repeated to it in full: an image is megabytes of text."""
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80] or "the arguments"
        names = ", ".join(kind.model_fields)
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"expected arguments of the tool ({names}), got {where}: {reason}") from error
