"""MCP tools: arguments and calls of ``AskService``, as for the API endpoints.

Clients send image bytes, never a path or URL, which the server would have to open or fetch.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError

from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import SourceImage
from hart_studio.records import MAX_QUESTION_CHARS, Box, Protocol, Record
from hart_studio.ui.api.ask import AskForm, AskService, read_form
from hart_studio.ui.api.endpoints import MAX_BOXES
from hart_studio.ui.api.schemas import AskResponse, BoxInput, LocateResponse, VerifyResponse, parse_boxes
from hart_studio.ui.model_calls import Progress

_MAX_CHOICES: Final = 26

MAX_IMAGE_BYTES: Final = 24 * 2**20
"""Largest image file; an 8192 x 5460 JPEG has about 15 MB. Project default."""

MAX_TEXT: Final = MAX_IMAGE_BYTES // 3 * 4 + 4096
"""Characters of the largest image in base64, including a ``data:`` prefix and line breaks."""

MAX_SHOWN: Final = 4
"""Maximum number of returned crops. Project default."""

SHOWN_SIDE: Final = 1024
"""Greatest side of a returned crop, pixels; smaller crops keep native resolution."""

_DATA_URI: Final = re.compile(r"data:[\w.+/-]{0,64}(?:;[\w.+=-]{1,64}){0,4};base64,", re.IGNORECASE | re.ASCII)
_BLANKS: Final = b" \t\r\n"


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
    title: str
    description: str
    """For the language model."""
    arguments: type[Question]
    reply: type[Record]


TOOLS: Final = (
    Tool(
        "ask",
        "Ask about an image",
        "Answer a question about a large image. A vision model predicts the relevant region, the region is cut from "
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
        "Verify boxes",
        "Check whether given boxes contain enough to answer a question: the question is answered from the crops of "
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
        models: At least one model that a client may choose; the first is the default. The list is fixed, because a free
            choice would let clients make the server download models.
    """

    def __init__(self, service: AskService, models: Sequence[str]) -> None:
        self._service = service
        self.models = tuple(dict.fromkeys(models))

    def describe(self, tool: Tool) -> dict[str, Any]:
        """JSON schema of the arguments of a tool."""
        schema = tool.arguments.model_json_schema()
        schema["properties"]["model"] |= {"enum": list(self.models), "default": self.models[0]}
        return schema

    def call(self, tool: Tool, arguments: Mapping[str, Any], progress: Progress) -> ToolResult:
        """Call a tool; blocks until the model has answered.

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


@contextmanager
def open_base64_image(text: str, folder: Path) -> Iterator[Path]:
    """Write an image from a message to a file that is removed after the block.

    Args:
        text: The file as a ``data:`` URI or plain base64. The media type of the URI is ignored; ``imaging`` detects it.
        folder: Folder for the temporary file.

    Raises:
        ImageError: If it is too large or not base64.
    """
    data = _decode(text)
    with tempfile.TemporaryDirectory(prefix="received-", dir=folder) as place:
        path = Path(place) / "image"
        path.write_bytes(data)
        yield path


def cut_crops(path: Path, boxes: Sequence[Box]) -> list[bytes]:
    """Encode the first regions as JPEG; the boxes are in original pixels.

    Raises:
        ImageError: If the image is damaged.
    """
    found = []
    with SourceImage(path) as image:
        for crop in image.crops(boxes[:MAX_SHOWN]):
            crop.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            stream = io.BytesIO()
            crop.save(stream, "JPEG", quality=88)
            found.append(stream.getvalue())
    return found


def _decode(text: str) -> bytes:
    if len(text) > MAX_TEXT:
        raise ImageError(
            f"Image too large: about {len(text) * 3 // 4 >> 20} MiB, at most {MAX_IMAGE_BYTES >> 20} MiB are allowed. "
            "Send a smaller copy or a JPEG."
        )
    beginning = _DATA_URI.match(text)
    try:
        content = text[beginning.end() if beginning else 0 :].encode("ascii").translate(None, _BLANKS)
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ImageError(
            "The image is not base64 or a data: URI. Paths and URLs are not opened; read the file and send its bytes."
        ) from error
