"""Answers without the folders of this machine: what a public page may say of a file is its name.

Texts of errors, logs and settings name files as the machine knows them, which helps whoever runs the page and tells
strangers how it is built.
"""

from __future__ import annotations

import re
from typing import Any, Final

_PLACE: Final = re.compile(
    r"""
    (?<![\w/.<~\\]) (?!(?<=:)//)          # not the middle of a word, of an address or of a relative path
    (?: (?:file:)?/{1,3} | [A-Za-z]:[\\/] | \\\\ | ~[\w.-]*/ )
    (?: [^\s/\\"'`<>|:;,()\[\]{}]+ [/\\]+ )+
    (?P<name> [^\s/\\"'`<>|:;,()\[\]{}]* )
    """,
    re.VERBOSE,
)


def hide_places(value: Any) -> Any:
    """The same JSON, or text, in which absolute paths are their last parts: ``/srv/runs/a.json`` -> ``a.json``.

    Addresses of web pages, relative paths and single slashes stay.
    """
    if isinstance(value, str):
        return _PLACE.sub(lambda match: match["name"] or "…", value) if "/" in value or "\\" in value else value
    if isinstance(value, dict):
        return {hide_places(key): hide_places(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide_places(each) for each in value]
    return value
