"""API endpoints ``/ask``, ``/locate`` and ``/verify`` for ``gradio_client`` and HTTP; see ``docs/api.md``.

Requests are validated before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.events import api
from gradio.utils import get_upload_folder

from hart_studio.errors import InputError
from hart_studio.ui.api.ask import AskService, read_form
from hart_studio.ui.api.schemas import parse_boxes
from hart_studio.ui.client_connection import ClientConnection
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.model_queue import MAX_MODEL_CALLS
from hart_studio.ui.progress_stream import Progress

MAX_BOXES: Final = 16
"""Maximum number of boxes per ``/verify``; each is a crop for the model. Project default."""


def build_endpoints(service: AskService, default_model: str) -> None:
    """Add the endpoints to the current ``gr.Blocks``.

    Args:
        service: Asks models.
        default_model: Model of requests that name none.
    """
    # The default model is not in the signatures, because Gradio writes them into the page before the login.

    def ask(
        image: dict[str, Any],
        question: str,
        choices: list[str] | str = "",
        answer: str = "",
        model: str = "",
        protocols: list[str] | None = None,
    ) -> dict[str, Any]:
        """Ask a question about an image: predicted regions, answers from the crops and from the full image.

        Args:
            image: The uploaded image.
            question: The question, without its choices.
            choices: The choices, as a list or one per line; empty for an open question.
            answer: The known answer, a letter or the text; empty when unknown.
            model: The built-in model's name, a local folder, or a hub id; empty for the default of the server.
            protocols: Any of crops_only, direct, full_and_crops; default: all three.

        Returns:
            One object with boxes in original pixels, protocols (name -> answer, text, visual_tokens, seconds),
            outcome, model, image (width, height) and warnings, a list of sentences.
        """
        with _as_gradio_errors():
            form = read_form(_uploaded_file(image), question, choices, answer, protocols)
            return service.answer(form, model or default_model, _stop_on_disconnect())

    def locate(image: dict[str, Any], question: str, choices: list[str] | str = "", model: str = "") -> dict[str, Any]:
        """Ask for the regions of a question, without an answer.

        Args:
            image: The uploaded image.
            question: The question, without its choices.
            choices: The choices; validated, but not part of the prompt.
            model: The built-in model's name, a local folder, or a hub id; empty for the default of the server.

        Returns:
            One object with boxes in original pixels, outcome, model, image (width, height), text, visual_tokens,
            seconds and warnings, a list of sentences.
        """
        with _as_gradio_errors():
            form = read_form(_uploaded_file(image), question, choices)
            return service.locate(form, model or default_model, _stop_on_disconnect()).model_dump(mode="json")

    def verify(
        image: dict[str, Any],
        question: str,
        boxes: list[dict[str, Any]],
        choices: list[str] | str = "",
        answer: str = "",
        model: str = "",
    ) -> dict[str, Any]:
        """Ask whether given boxes are sufficient and necessary for the answer.

        Args:
            image: The uploaded image.
            question: The question, without its choices.
            boxes: 1 to 16 boxes with x_min, y_min, x_max, y_max in original pixels, and an optional label.
            choices: The choices, as a list or one per line; empty for an open question.
            answer: The known answer, a letter or the text; empty when unknown.
            model: The built-in model's name, a local folder, or a hub id; empty for the default of the server.

        Returns:
            One object with crops_answer, full_answer and masked_answer, whether they are right when the answer is
            known, sufficient, necessary, area_share, cautions, boxes, model, image (width, height)
            and warnings, a list of sentences.
        """
        with _as_gradio_errors():
            form = read_form(_uploaded_file(image), question, choices, answer)
            given = parse_boxes(boxes, MAX_BOXES, min_boxes=1)
            return service.verify(form, given, model or default_model, _stop_on_disconnect()).model_dump(mode="json")

    for call in (ask, locate, verify):
        api(call, api_name=call.__name__, concurrency_limit=MAX_MODEL_CALLS)


@contextmanager
def _as_gradio_errors() -> Iterator[None]:
    """Convert exceptions to ``gr.Error`` messages without stack traces."""
    try:
        yield
    except Exception as error:
        failure = describe(error)
        raise gr.Error(failure.message, title=failure.title, print_exception=False) from error


def _stop_on_disconnect() -> Progress:
    """Progress callback that stops the work if the client disconnects."""
    caller = ClientConnection()
    caller.wait_for_reader()
    return caller.watch(lambda fraction, stage: None)


def _uploaded_file(image: Any) -> Path | None:
    """Path of an uploaded image; only the upload folder of the server is accepted."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not path:
        return None
    file = Path(path).resolve()
    if Path(get_upload_folder()).resolve() not in file.parents:
        raise InputError("The image was not uploaded to this server. Send it with handle_file of gradio_client.")
    return file
