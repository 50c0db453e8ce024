"""Answers without the folders of this machine: what a public page may say of a file is its name.

Texts of errors, logs and settings name files as the machine knows them, which helps whoever runs the page and tells
strangers how it is built.
"""

from __future__ import annotations

import re
from typing import Any, Final

_START: Final = r"(?: (?:file:)?/{1,3} | [A-Za-z]:[\\/] | \\\\ | ~[\w.-]*/ )"
_PLACE: Final = re.compile(
    rf"""
    (?<![\w/.<~\\]) (?!(?<=:)//)          # not the middle of a word, of an address or of a relative path
    {_START}
    (?: [^\s/\\"'`<>|:;,()\[\]{{}}]+ [/\\]+ )+
    (?P<name> [^\s/\\"'`<>|:;,()\[\]{{}}]* )
    """,
    re.VERBOSE,
)
# Folders with blanks or brackets in their names can be told only where the end is: in quotes, or of the whole text.
_PART: Final = r"""[^\n/\\"'`<>|:;,]"""
_WITH_BLANKS: Final = rf"(?!\s) {_PART}+ (?:[/\\]+ {_PART}+)* [/\\]+ (?P<name> {_PART}*)"
_QUOTED: Final = re.compile(rf"""(?P<mark>["'`]) {_START} {_WITH_BLANKS} (?P=mark)""", re.VERBOSE)
_WHOLE: Final = re.compile(rf"(?!.*\s{_START}) {_START} {_WITH_BLANKS}", re.VERBOSE)  # one place, not several


def redact_absolute_paths(value: Any) -> Any:
    """The same JSON, or text, in which absolute paths are their last parts: ``/srv/runs/a.json`` -> ``a.json``.

    Addresses of web pages, relative paths and single slashes stay.
    """
    if isinstance(value, str):
        return _hide(value) if "/" in value or "\\" in value else value
    if isinstance(value, dict):
        return {redact_absolute_paths(key): redact_absolute_paths(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_absolute_paths(each) for each in value]
    return value


def _hide(text: str) -> str:
    if whole := _WHOLE.fullmatch(text):
        return whole["name"] or "…"
    text = _QUOTED.sub(lambda match: f"{match['mark']}{match['name'] or '…'}{match['mark']}", text)
    return _PLACE.sub(lambda match: match["name"] or "…", text)
