"""MCP tools: arguments and calls of ``AskService``, as for the API endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.records import MAX_QUESTION_CHARS, Box, Protocol, Record
from hart_studio.ui.api.ask import AskForm, AskService, read_form
from hart_studio.ui.api.endpoints import MAX_BOXES
from hart_studio.ui.api.schemas import AskResponse, BoxInput, LocateResponse, VerifyResponse, parse_boxes
from hart_studio.ui.mcp.images import cut_crops, open_base64_image
from hart_studio.ui.progress_stream import Progress

_MAX_CHOICES: Final = 26


class Question(Record):
    """Arguments of every tool; field docstrings are sent to the client."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    image: str
    """The image's bytes: a data: URI such as data:image/jpeg;base64,... or the base64 alone. PNG, JPEG, WebP, TIFF,
    BMP or GIF of at most 24 MiB. Not a path or URL."""
    question: str = Field(max_length=MAX_QUESTION_CHARS)
    """The question about the image, without its choices."""
    choices: tuple[str, ...] = Field(default=(), max_length=_MAX_CHOICES)
    """2 to 26 options without letters; none for an open question."""
    model: str = ""
    """Model to ask; omit it for the default of the server."""


class AnswerableQuestion(Question):
    """A question with an optional known answer."""

    answer: str = Field(default="", max_length=MAX_QUESTION_CHARS)
    """The correct answer if it is known: an option's letter or text."""


class AskArguments(AnswerableQuestion):
    """Arguments of ``ask``."""

    protocols: tuple[Protocol, ...] = ("crops_only", "direct")
    """What the answer is based on: the crops alone, the full image, or both. Each one takes time."""


class VerifyArguments(AnswerableQuestion):
    """Arguments of ``verify``."""

    boxes: tuple[BoxInput, ...] = Field(min_length=1, max_length=MAX_BOXES)
    """The boxes to verify, in pixels of the original image."""


@dataclass(frozen=True)
class Tool:
    """One MCP tool."""

    name: str
    """Name in calls."""
    title: str
    """Display name."""
    description: str
    """Description for the language model."""
    arguments: type[Question]
    """Arguments."""
    reply: type[Record]
    """Result."""


TOOLS: Final = (
    Tool(
        "ask",
        "Ask about an image",
        "Answer a question about a large image. A vision model points at the decisive region, the region is cut from "
        "the original at full resolution, and the answer comes from that crop alone; the answer from the whole image "
        "is returned as well. Returns the boxes in pixels of the original, the answers, a self-check, and the crops.",
        AskArguments,
        AskResponse,
    ),
    Tool(
        "locate",
        "Find the region",
        "Find the region of a large image that a question is about, without answering it: the fastest tool. Returns "
        "boxes in pixels of the original, and the regions cut at full resolution as images.",
        Question,
        LocateResponse,
    ),
    Tool(
        "verify",
        "Check boxes",
        "Check whether given boxes really hold what a question needs: the question is answered from the crops of "
        "exactly these boxes, from the whole image, and from the image with the boxes masked. Returns the "
        "three answers, whether the crops are sufficient and necessary, and the crops.",
        VerifyArguments,
        VerifyResponse,
    ),
)
"""All tools, in listing order."""


@dataclass(frozen=True)
class ToolResult:
    """Result of a tool."""

    found: dict[str, Any]
    """JSON object of type ``Tool.reply``."""
    crops: tuple[bytes, ...]
    """Crops of the regions, JPEG."""


class Toolbox:
    """Calls the tools.

    Attributes:
        models: Models that a client may choose; the first is the default. The list is fixed, because a free choice
            would let clients make the server download models.
    """

    def __init__(self, service: AskService, models: Sequence[str]) -> None:
        """Create the toolbox.

        Args:
            service: Asks models.
            models: At least one name.
        """
        self._service = service
        self.models = tuple(dict.fromkeys(models))

    def describe(self, tool: Tool) -> dict[str, Any]:
        """JSON schema of the arguments of a tool."""
        schema = tool.arguments.model_json_schema()
        schema["properties"]["model"] |= {"enum": list(self.models), "default": self.models[0]}
        return schema

    def call(self, tool: Tool, arguments: Mapping[str, Any], progress: Progress) -> ToolResult:
        """Call a tool; blocks until the model has answered.

        Args:
            tool: One of ``TOOLS``.
            arguments: Arguments from the client.
            progress: Called at each stage.

        Raises:
            HartError: If an argument or the image is not usable.
        """
        given = _read(tool.arguments, arguments)
        model = given.model or self.models[0]
        if model not in self.models:
            raise InputError(f"Unknown model. Choose one of {', '.join(self.models)}.")
        with open_base64_image(given.image, self._service.folder) as path:
            found = self._ask(given, path, model, progress)
            boxes = tuple(Box(**box) for box in found["boxes"])
            return ToolResult(found, tuple(cut_crops(path, boxes)))

    def _ask(self, given: Question, path: Path, model: str, progress: Progress) -> dict[str, Any]:
        if isinstance(given, AskArguments):
            form = _form(given, path, given.answer, given.protocols)
            return AskResponse.model_validate(self._service.answer(form, model, progress)).model_dump(mode="json")
        if isinstance(given, VerifyArguments):
            boxes = parse_boxes([box.model_dump() for box in given.boxes], MAX_BOXES, min_boxes=1)
            form = _form(given, path, given.answer)
            return self._service.verify(form, boxes, model, progress).model_dump(mode="json")
        return self._service.locate(_form(given, path), model, progress).model_dump(mode="json")


def _form(given: Question, path: Path, answer: str = "", protocols: Sequence[Protocol] | None = None) -> AskForm:
    return read_form(path, given.question, given.choices, answer, protocols)


def _read(kind: type[Question], arguments: Mapping[str, Any]) -> Question:
    """Validate the arguments; errors do not repeat the input, which may be megabytes."""
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80] or "the arguments"
        names = ", ".join(kind.model_fields)
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"Invalid argument {where}: {reason}. The arguments are {names}.") from error
