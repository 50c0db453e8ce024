"""OpenCV, which needs libraries of the system: only drawing needs it, so all else works without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from hart_studio.errors import DataError

__all__ = ["cv2"]


class MissingOpenCv:
    """Stands in for the module where it cannot be imported; whoever draws is told what to install."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        """Raise a ``DataError``, whatever is asked for; an ``AttributeError`` for what Python itself asks."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise DataError(
            f"expected OpenCV, to draw needle images, got: {self._reason}; on Debian and Ubuntu: apt-get install "
            "libgl1 libglib2.0-0"
        )


if TYPE_CHECKING:
    import cv2
else:
    try:
        import cv2
    except ImportError as error:
        cv2 = MissingOpenCv(str(error))
