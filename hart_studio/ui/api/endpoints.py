"""Three calls for programs: ``/ask``, ``/locate`` and ``/verify``, for ``gradio_client`` and plain HTTP.

Arguments and answers are described in ``docs/api.md``. Whatever a client sends is checked before a model is asked.
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
from hart_studio.ui.api.box_input import parse_boxes
from hart_studio.ui.client_connection import ClientConnection
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.model_queue import MAX_MODEL_CALLS
from hart_studio.ui.progress_stream import Progress

MAX_BOXES: Final = 16
"""Boxes of one ``/verify``; project default: each becomes a crop that the model reads."""


def build_endpoints(service: AskService, default_model: str) -> None:
    """Add the three calls to the current ``gr.Blocks``.

    Args:
        service: Asks models.
        default_model: The model of a call that names none.
    """
    # The default stays out of the signatures: Gradio writes those into the page, also for whoever has not logged in.

    def ask(
        image: dict[str, Any],
        question: str,
        choices: list[str] | str = "",
        answer: str = "",
        model: str = "",
        protocols: list[str] | None = None,
    ) -> dict[str, Any]:
        """Ask a question about an image: where to look, what the crops show, what the full image shows.

        Args:
            image: The uploaded image.
            question: The question, without its choices.
            choices: The options, as a list or one per line; empty for an open question.
            answer: The known answer, a letter or the text; empty when unknown.
            model: The built-in model's name, a local folder, or a hub id; empty for the default of the server.
            protocols: Any of crops_only, direct, full_and_crops; all three when left out.

        Returns:
            One object with boxes in original pixels, protocols (name -> answer, text, visual_tokens, seconds),
            outcome, model, image (width, height) and warnings, a list of sentences.
        """
        with _explained():
            form = read_form(_uploaded_file(image), question, choices, answer, protocols)
            return service.answer(form, model or default_model, _while_waited_for())

    def locate(image: dict[str, Any], question: str, choices: list[str] | str = "", model: str = "") -> dict[str, Any]:
        """Ask where to look, and nothing else: the grounding turn alone.

        Args:
            image: The uploaded image.
            question: The question, without its choices.
            choices: The options; checked, but never shown in this turn.
            model: The built-in model's name, a local folder, or a hub id; empty for the default of the server.

        Returns:
            One object with boxes in original pixels, outcome, model, image (width, height), text, visual_tokens,
            seconds and warnings, a list of sentences.
        """
        with _explained():
            form = read_form(_uploaded_file(image), question, choices)
            return service.locate(form, model or default_model, _while_waited_for()).model_dump(mode="json")

    def verify(
        image: dict[str, Any],
        question: str,
        boxes: list[dict[str, Any]],
        choices: list[str] | str = "",
        answer: str = "",
        model: str = "",
    ) -> dict[str, Any]:
        """Ask what given boxes are worth: what their crops say alone, and whether the image needs them.

        Args:
            image: The uploaded image.
            question: The question, without its choices.
            boxes: 1 to 16 boxes with x_min, y_min, x_max, y_max in original pixels, and a label if you like.
            choices: The options, as a list or one per line; empty for an open question.
            answer: The known answer, a letter or the text; empty when unknown.
            model: The built-in model's name, a local folder, or a hub id; empty for the default of the server.

        Returns:
            One object with crops_answer, full_answer and masked_answer, whether they are right when the answer is
            known, sufficient, necessary, area_share, cautions, boxes, model, image (width, height)
            and warnings, a list of sentences.
        """
        with _explained():
            form = read_form(_uploaded_file(image), question, choices, answer)
            given = parse_boxes(boxes, MAX_BOXES, least=1)
            return service.verify(form, given, model or default_model, _while_waited_for()).model_dump(mode="json")

    for call in (ask, locate, verify):
        api(call, api_name=call.__name__, concurrency_limit=MAX_MODEL_CALLS)


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever goes wrong inside becomes words for the client; none of them are of a stack trace."""
    try:
        yield
    except Exception as error:
        failure = describe(error)
        raise gr.Error(failure.message, title=failure.title, print_exception=False) from error


def _while_waited_for() -> Progress:
    """Reports to no one, which end the work once the client has gone."""
    caller = ClientConnection()
    caller.wait_for_reader()
    return caller.watch(lambda fraction, stage: None)


def _uploaded_file(image: Any) -> Path | None:
    """The path of an image sent to the endpoint; only the server's own upload folder is trusted."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not path:
        return None
    file = Path(path).resolve()
    if Path(get_upload_folder()).resolve() not in file.parents:
        raise InputError("expected an uploaded image, got another path; send it with handle_file of gradio_client")
    return file
