"""Hugging Face Space: visitor sessions, example evaluations, owner sign-in, duplicate button."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gradio as gr

from hart_studio.ui.api.ask import AskService
from hart_studio.ui.pages.examples import Example
from hart_studio.ui.security.access import Permissions
from hart_studio.ui.spaces.example_evaluations import ExampleEvaluations
from hart_studio.ui.spaces.sessions import SessionStore

_WORDS: Final = (
    "You can ask questions, label images and evaluate the examples here. To train or to use your own models, duplicate "
    "this Space, choose hardware and set the variables listed in [docs/spaces.md]"
    "(https://huggingface.co/spaces/{space}/blob/main/docs/spaces.md)."
)
_PLAIN_WORDS: Final = (
    "You can ask questions, label images and evaluate the examples here. To train, run python app.py on your own "
    "machine."
)


@dataclass(frozen=True)
class SpaceServices:
    """Services for visitors of a Space."""

    visitors: SessionStore
    """Sessions with labeling projects."""
    examples: ExampleEvaluations
    """Public evaluations of the examples."""

    def close(self) -> None:
        """Stop all runs of visitors and remove their projects."""
        self.examples.close()
        self.visitors.close()


def create_space_services(private: Path, service: AskService, examples: Sequence[Example]) -> SpaceServices:
    """Create the services of a Space.

    Args:
        private: Existing folder of this server, not served.
        service: Opens images and asks models; knows which are allowed.
        examples: Examples to evaluate.
    """
    sessions, evaluations = private / "visitors", private / "examples"
    for folder in (sessions, evaluations):
        folder.mkdir(mode=0o700)
    visitors = SessionStore(sessions, service, service.allowed)
    visitors.start()
    return SpaceServices(visitors, ExampleEvaluations(evaluations, service.folder, examples))


def build_space_banner(permissions: Permissions, space_id: str | None) -> None:
    """Build the banner above the tabs, inside the current ``gr.Blocks``.

    Args:
        permissions: Owners who can sign in; without owners there is no button. Outside a Space, gradio signs everyone
            in as the user of this machine.
        space_id: ``owner/name`` of the Space, from ``gradio.utils.get_space``; None = not on a Space.
    """
    with gr.Row(elem_id="space-bar"):
        gr.Markdown(_WORDS.format(space=space_id) if space_id else _PLAIN_WORDS, elem_id="space-words")
        if space_id:
            gr.DuplicateButton("Duplicate this Space", size="sm", elem_id="space-duplicate")
        if permissions.owners:
            gr.LoginButton("Sign in as owner", "Sign out ({})", size="sm", scale=0, elem_id="space-login")
