"""A whole tab as one display: its script does everything through the functions that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hart_studio.ui.components.display import Display, serve
from hart_studio.ui.theme import ASSETS


class PageComponent(Display):
    """What the tabs of this kind share; each names its files.

    Attributes:
        template: File of ``assets/html`` with the constant part of the page.
        scripts: Files of ``assets/js``, each building on those before it.
    """

    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]]

    def __init__(
        self, marker: Path, choices: object, answers: Sequence[Callable[..., Any]], *, is_open: bool, **layout: Any
    ) -> None:
        """Prepare.

        Args:
            marker: A file in the folder of served files; the page finds the others beside its address.
            choices: What the page offers, a data class.
            answers: What the script may call, by their names.
            is_open: Whether visitors may make or start anything here.
            **layout: As for ``gr.HTML``.
        """
        self._marker = marker
        self._is_open = is_open
        template = (ASSETS / "html" / self.template).read_text("utf-8")
        super().__init__(template, self.scripts, choices, server_functions=list(answers), **layout)

    def postprocess(self, value: object) -> dict[str, Any]:  # type: ignore[override]
        """The choices, with where served files lie."""
        return {**vars(value), "marker": serve(self._marker), "is_open": self._is_open}
