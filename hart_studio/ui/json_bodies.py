"""Check JSON bodies of requests before the application parses them: size in values, depth, names, addresses."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from hart_studio.files import is_url

MAX_NESTED: Final = 64
"""Depth of JSON, project default; the pages send less than 10."""

MAX_VALUES: Final = 20_000
"""Objects, lists and separators of a body, counted before it is parsed; the page's largest has some hundred. Commas in
texts count too. A body with so many takes a few milliseconds. Project default."""


class BodyError(Exception):
    """The JSON body is refused; the text is for the client.

    Attributes:
        status: Status of the answer.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def parse_body(text: bytes, *, takes_files: bool) -> Any:
    """Parse a JSON body that a page could have sent.

    Args:
        text: The body.
        takes_files: Whether Gradio looks for files in it.

    Raises:
        BodyError: If it is no JSON, has too many values, is nested too deeply, or names a file by an address.
    """
    if text.count(b"{") + text.count(b"[") + text.count(b",") > MAX_VALUES:
        raise BodyError(413, f"Expected JSON with at most {MAX_VALUES:,} values, got more. Send less at once.")
    try:
        value = json.loads(text, parse_constant=_refuse_word, object_pairs_hook=_read_object)
    except (ValueError, RecursionError):
        raise BodyError(400, "Expected JSON without NaN, infinity and double names.") from None
    layer, depth = [value], 0
    while layer := [child for each in layer for child in _children(each)]:
        depth += 1
        if depth > MAX_NESTED:
            raise BodyError(400, f"Expected JSON nested at most {MAX_NESTED} deep.")
        # Gradio would fetch a file that is named by an address from whatever server that is.
        if takes_files and any(isinstance(each, dict) and _is_address(each.get("path")) for each in layer):
            raise BodyError(400, "Expected an uploaded file, got an address. Upload the file.")
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _is_address(path: Any) -> bool:
    return isinstance(path, str) and is_url(path)


def _refuse_word(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
