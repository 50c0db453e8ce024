"""Replace absolute paths in responses of a public page by file names.

Errors, logs and settings contain absolute paths. They help the operator, but disclose the file system to visitors.
"""

from __future__ import annotations

import re
from typing import Any, Final

_START: Final = r"(?: (?:file:)?/{1,3} | [A-Za-z]:[\\/] | \\\\ | ~[\w.-]*/ )"
_PLACE: Final = re.compile(
    rf"""
    (?<![\w/.<~\\]) (?!(?<=:)//)          # not inside a word, a URL or a relative path
    {_START}
    (?: [^\s/\\"'`<>|:;,()\[\]{{}}]+ [/\\]+ )+
    (?P<name> [^\s/\\"'`<>|:;,()\[\]{{}}]* )
    """,
    re.VERBOSE,
)
# Paths with blanks or brackets are recognized only in quotes or as the whole text, where their end is known.
_PART: Final = r"""[^\n/\\"'`<>|:;,]"""
_WITH_BLANKS: Final = rf"(?!\s) {_PART}+ (?:[/\\]+ {_PART}+)* [/\\]+ (?P<name> {_PART}*)"
_QUOTED: Final = re.compile(rf"""(?P<mark>["'`]) {_START} {_WITH_BLANKS} (?P=mark)""", re.VERBOSE)
_WHOLE: Final = re.compile(rf"(?!.*\s{_START}) {_START} {_WITH_BLANKS}", re.VERBOSE)  # one path only


def redact_absolute_paths(value: Any) -> Any:
    """Replace absolute paths in JSON or text by their last part: ``/srv/runs/a.json`` -> ``a.json``.

    URLs, relative paths and single slashes are unchanged.
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
