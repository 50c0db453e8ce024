"""A whole tab as one component; its script calls the given server functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hart_studio.ui.components.display import Display, serve
from hart_studio.ui.theme import ASSETS


class PageComponent(Display):
    """Base class of whole-tab components.

    Attributes:
        template: File in ``assets/html``.
        scripts: Files in ``assets/js``, in loading order.
    """

    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]]

    def __init__(
        self, marker: Path, choices: object, answers: Sequence[Callable[..., Any]], *, is_open: bool, **layout: Any
    ) -> None:
        """Load the template and the scripts.

        Args:
            marker: A file in the served folder; the page derives the URLs of other files from it.
            choices: Options of the page, a data class.
            answers: Functions that the script may call by name.
            is_open: Whether visitors may create or start anything.
            **layout: As for ``gr.HTML``.
        """
        self._marker = marker
        self._is_open = is_open
        template = (ASSETS / "html" / self.template).read_text("utf-8")
        super().__init__(template, self.scripts, choices, server_functions=list(answers), **layout)

    def postprocess(self, value: object) -> dict[str, Any]:  # type: ignore[override]
        """The options and the URL of the marker file."""
        return {**vars(value), "marker": serve(self._marker), "is_open": self._is_open}
