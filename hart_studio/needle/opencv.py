"""Optional import of OpenCV, which needs system libraries; only drawing uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from hart_studio.errors import DataError

__all__ = ["cv2"]


class MissingOpenCv:
    """Placeholder for OpenCV if it cannot be imported; its use raises an error with installation advice."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        """Raise ``DataError`` for any attribute; ``AttributeError`` for dunder names."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise DataError(
            f"OpenCV is needed to draw needle images: {self._reason}. On Debian and Ubuntu: apt-get install "
            "libgl1 libglib2.0-0"
        )


if TYPE_CHECKING:
    import cv2
else:
    try:
        import cv2
    except ImportError as error:
        cv2 = MissingOpenCv(str(error))
