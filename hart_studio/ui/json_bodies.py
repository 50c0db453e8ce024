"""Check JSON bodies of requests before the application parses them: number of values, depth, names, URLs."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from hart_studio.files import is_url

MAX_NESTED: Final = 64
"""Maximum nesting of JSON; the pages send less than 10. Project default."""

MAX_VALUES: Final = 20_000
"""Objects, lists and separators in a body, counted before parsing, including commas in strings; the largest body of the
pages has some hundred. Parsing that many takes a few milliseconds. Project default."""


class BodyError(Exception):
    """Refused JSON body; the message is for the client.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def parse_body(text: bytes, *, takes_files: bool) -> Any:
    """Parse and check a JSON body.

    Args:
        text: The body.
        takes_files: Whether Gradio reads files named in it.

    Raises:
        BodyError: If it is not JSON, has too many values, is nested too deeply, or names a file by URL.
    """
    if text.count(b"{") + text.count(b"[") + text.count(b",") > MAX_VALUES:
        raise BodyError(413, f"Request too large: at most {MAX_VALUES:,} JSON values are allowed. Send less at once.")
    try:
        value = json.loads(text, parse_constant=_refuse_word, object_pairs_hook=_read_object)
    except (ValueError, RecursionError):
        raise BodyError(400, "Invalid JSON, or JSON with NaN, infinity or duplicate names.") from None
    layer, depth = [value], 0
    while layer := [child for each in layer for child in _children(each)]:
        depth += 1
        if depth > MAX_NESTED:
            raise BodyError(400, f"JSON is nested too deeply: at most {MAX_NESTED} levels are allowed.")
        # Gradio would fetch a file from any server that the URL names.
        if takes_files and any(isinstance(each, dict) and _is_address(each.get("path")) for each in layer):
            raise BodyError(400, "Expected an uploaded file, got a URL. Upload the file.")
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name")
    return found


def _is_address(path: Any) -> bool:
    return isinstance(path, str) and is_url(path)


def _refuse_word(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
