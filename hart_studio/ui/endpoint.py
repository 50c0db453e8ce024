"""The same question as one call: the ``/ask`` endpoint, for ``gradio_client`` and plain HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.events import api
from gradio.utils import get_upload_folder

from hart_studio.errors import InputError
from hart_studio.ui.failures import describe
from hart_studio.ui.services import AskService, read_form

MODEL_QUEUE: Final = "model"
"""Everything that runs a model shares one place in the queue: two at once would only make both slow."""


def build_ask_endpoint(service: AskService, default_model: str) -> None:
    """Add ``/ask`` to the current ``gr.Blocks``: the same question as one call, for scripts."""

    def ask(
        image: dict[str, Any],
        question: str,
        choices: list[str] | str = "",
        answer: str = "",
        model: str = default_model,
        protocols: list[str] | None = None,
    ) -> dict[str, Any]:
        """Ask a question about a picture: where to look, what the crops show, what the full image shows.

        Args:
            image: The uploaded picture.
            question: The question, without its choices.
            choices: The options, as a list or one per line; empty for an open question.
            answer: The known answer, a letter or the text; empty when unknown.
            model: The built-in model's name, a local folder, or a hub id.
            protocols: Any of crops_only, direct, full_and_crops; all three when left out.

        Returns:
            One object with boxes in original pixels, protocols (name -> answer, text, visual_tokens, seconds),
            outcome, model and image (width, height).
        """
        try:
            form = read_form(_uploaded_file(image), question, choices, answer, protocols)
            return service.ask(form, model or default_model, lambda fraction, stage: None).summary
        except Exception as error:
            failure = describe(error)
            raise gr.Error(failure.message, title=failure.title, print_exception=False) from error

    api(ask, api_name="ask", concurrency_limit=1, concurrency_id=MODEL_QUEUE)


def _uploaded_file(image: Any) -> Path | None:
    """The path of a picture sent to the endpoint; only the server's own upload folder is trusted."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not path:
        return None
    file = Path(path).resolve()
    if Path(get_upload_folder()).resolve() not in file.parents:
        raise InputError("expected an uploaded picture, got another path; send it with handle_file of gradio_client")
    return file
