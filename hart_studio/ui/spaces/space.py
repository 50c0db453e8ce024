"""What only a Space has: visitors' rooms, evaluations of the examples, the owner's sign-in, a way to copy it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gradio as gr

from hart_studio.ui.api.ask import AskService
from hart_studio.ui.components.example_picker import Example
from hart_studio.ui.security.permissions import Permissions
from hart_studio.ui.spaces.example_evaluations import ExampleEvaluations
from hart_studio.ui.spaces.sessions import SessionStore

_WORDS: Final = (
    "You may ask, label and evaluate the examples here. To train, or to use models of your own, duplicate this Space: "
    "choose your hardware, and set the variables of [docs/spaces.md]"
    "(https://huggingface.co/spaces/{space}/blob/main/docs/spaces.md)."
)
_PLAIN_WORDS: Final = (
    "You may ask, label and evaluate the examples here. To train, run python app.py on a machine of yours."
)


@dataclass(frozen=True)
class SpaceServices:
    """The desks of a Space's visitors."""

    visitors: SessionStore
    """Their labeling projects."""
    examples: ExampleEvaluations
    """Evaluations that everyone sees."""

    def close(self) -> None:
        """End what continues for visitors, and remove their projects."""
        self.examples.close()
        self.visitors.close()


def create_space_services(private: Path, service: AskService, examples: Sequence[Example]) -> SpaceServices:
    """Open the desks of a Space.

    Args:
        private: An existing folder of this server alone, which is not served.
        service: Opens images and asks models; knows which are allowed.
        examples: What may be evaluated.
    """
    sessions, evaluations = private / "visitors", private / "examples"
    for folder in (sessions, evaluations):
        folder.mkdir(mode=0o700)
    visitors = SessionStore(sessions, service, service.allowed)
    visitors.start()
    return SpaceServices(visitors, ExampleEvaluations(evaluations, service.folder, examples))


def build_space_banner(permissions: Permissions, space_id: str | None) -> None:
    """Lay out the line above the tabs, inside the current ``gr.Blocks``.

    Args:
        permissions: Owners, where they can sign in. Nowhere else is there a button for it: off a Space gradio signs
            everyone in as this machine's user.
        space_id: ``owner/name`` of the Space, from ``gradio.utils.get_space``; None = the server is on none.
    """
    with gr.Row(elem_id="space-bar"):
        gr.Markdown(_WORDS.format(space=space_id) if space_id else _PLAIN_WORDS, elem_id="space-words")
        if space_id:
            gr.DuplicateButton("Duplicate this Space", size="sm", elem_id="space-duplicate")
        if permissions.owners:
            gr.LoginButton("Sign in as the owner", "Sign out ({})", size="sm", scale=0, elem_id="space-login")
