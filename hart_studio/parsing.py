r"""Parse boxes from model text and format them. The text is untrusted: it is scanned once and never evaluated.

All coordinates are in the MODEL's frame, except the result of ``convert_to_original``.

One scanner reads every notation, because models mix them, truncate them and wrap them in prose:
``[x1, y1, x2, y2]`` and ``(x1, y1, x2, y2)`` anywhere, alone, nested, in JSON, in a fence or in ``<box>`` tags, and
the corner pair ``(x1,y1),(x2,y2)`` with or without Qwen's special tokens. A label is taken from ``<ref>`` tags, from
``<|object_ref_start|>`` or from a ``"label"`` key of the same JSON object.

Limits (project defaults): a list of four numbers that is not a box, such as years in prose, is read as
one. One or two numbers alone are ignored. Percentages and ``width x height`` notations
are not read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hart_studio.geometry import WH, XYXY, BoxFrame, clip, to_original
from hart_studio.records import Box, is_finite_xyxy

ParseStatus = Literal["ok", "none", "partly_invalid", "invalid"]
"""``none``: no coordinates were written. ``invalid``: some were, none is valid. ``partly_invalid``: some are."""

BoxStyle = Literal["qwen_json", "qwen2_special", "internvl", "unit_list"]
"""Native box text of a model family (``models.families``)."""

MAX_TEXT_CHARS = 20_000
"""Longer text is cut at the end: boxes come first, and the time stays bounded."""
MAX_LABEL_CHARS = 200
"""A longer label is cut."""
MAX_COORDINATE = 1e6
"""Larger coordinates are invalid: no supported image is this large."""
UNIT_DECIMALS = 3
"""Decimals of a coordinate in [0, 1]: a thousandth, as fine as the families that write whole thousandths."""


class ParsedBox(NamedTuple):
    """A rectangle as a model writes it."""

    xyxy: XYXY
    """Finite ``(x_min, y_min, x_max, y_max)`` in the MODEL's frame, in order, of positive area."""
    label: str = ""
    """Label by the model, one line; empty if there is none."""


@dataclass(frozen=True)
class ParsedBoxes:
    """Boxes of a text. No coordinates and invalid coordinates are different statuses.

    Attributes:
        boxes: Usable boxes in output order, without duplicates.
        status: Result of parsing.
        rejected: One reason per number list that was rejected.
    """

    boxes: tuple[ParsedBox, ...]
    status: ParseStatus
    rejected: tuple[str, ...] = ()


class ConvertedBoxes(NamedTuple):
    """Boxes on the original image, and the status after those outside the image were dropped."""

    boxes: tuple[Box, ...]
    status: ParseStatus


# Full-width and other typographic list characters are mapped to ASCII one to one, so positions in both texts agree and
# labels are taken from the original text. Quotes stay, because a label may contain a quotation.
_ASCII_FORM = str.maketrans("０１２３４５６７８９．＋－−–，、；：（）［］【】〔〕｛｝", "0123456789.+---,,;:()[][][]{}")

# Every repetition is bounded or starts with what the one before cannot end with, so a failed match costs one pass
# over the characters that it scanned, and no two attempts scan the same long run.
# ``a``: case folding in Unicode would match a dotless i in "inf", which ``float`` does not accept.
_NUMBER = r"(?a:[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?:px)?|[-+]?(?:nan|inf(?:inity)?))"
_POINT = rf"[\[(]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\\?[\])]"
_BOX_KEY = r"""["'](?:bbox_2d|bbox|box|coordinates)["']\s{0,9}:\s{0,9}["']"""
_TOKEN = re.compile(
    rf"""
      (?P<brace>[{{}}])
    | (?P<box_end></box>|<\|box_end\|>)
    | <ref>(?P<ref>[^<]{{0,400}})</ref>
    | <\|object_ref_start\|>(?P<object_ref>[^<]{{0,400}})<\|object_ref_end\|>
    | ["'“”](?:label|name|text_content)["'“”]\s{{0,9}}:\s{{0,9}}
      (?P<label>"(?:[^"\\]|\\.){{0,400}}(?:"|\Z) | '(?:[^'\\]|\\.){{0,400}}(?:'|\Z) | “[^”]{{0,400}}(?:”|\Z))
    | (?P<points>{_POINT}(?:\s*,\s*{_POINT})+)
    | (?:[\[(]|<box>|{_BOX_KEY})\s*["']?
      (?P<numbers>{_NUMBER}(?:(?:["']?\s*[,;]\s*["']?|\s+){_NUMBER})*)
      ["']?\s*(?:[,;]\s*)?(?:(?P<cut_off>\Z)|\\?[\])]|(?=["'}}<]))
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_NUMBER_IN_LIST = re.compile(_NUMBER, re.IGNORECASE)


def parse_boxes(text: str, *, max_boxes: int = 64) -> ParsedBoxes:
    """Parse all boxes in a model's text.

    Inverted and empty boxes are rejected, not repaired: sorting the corners would reward a model for
    wrong output. A list that is cut off by the end of the text is rejected too, because its last number may
    be incomplete.

    Args:
        text: Raw model text; only the first ``MAX_TEXT_CHARS`` characters are read.
        max_boxes: Boxes to keep, at least 1. The first box beyond is reported in ``rejected`` and ends parsing.

    Returns:
        The boxes in the MODEL's frame. Never raises, whatever the text.
    """
    boxes: dict[XYXY, ParsedBox] = {}
    rejected: list[str] = []
    for found, label in _scan(text[:MAX_TEXT_CHARS]):
        if isinstance(found, str):
            rejected.append(found)
        elif reason := _invalid_reason(found):
            rejected.append(reason)
        elif found not in boxes and len(boxes) == max_boxes:
            rejected.append(f"expected at most {max_boxes} boxes, got more; the rest was not read")
            break
        else:
            boxes.setdefault(found, ParsedBox(found, label))
    return ParsedBoxes(tuple(boxes.values()), _status_of(len(boxes), len(rejected)), tuple(rejected))


def convert_to_original(parsed: ParsedBoxes, frame: BoxFrame, original_wh: WH, model_wh: WH) -> ConvertedBoxes:
    """Convert parsed boxes to the original image.

    Args:
        parsed: Boxes in ``frame``.
        frame: The frame that the model family writes.
        original_wh: Size of the original upright image, pixels.
        model_wh: Size of the image that the model saw, pixels, from the output of the processor.

    Returns:
        Boxes in ORIGINAL pixels, clipped to the image, in output order. One with no part inside the image is
        dropped and counts as invalid.
    """
    placed = []
    for parsed_box in parsed.boxes:
        xyxy = to_original(parsed_box.xyxy, frame, original_wh, model_wh)
        # A width below the float step of a large coordinate is lost by the conversion.
        box = clip(Box.from_xyxy(xyxy, parsed_box.label), original_wh) if is_finite_xyxy(xyxy) else None
        if box is not None:
            placed.append(box)
    dropped = len(parsed.boxes) - len(placed)
    return ConvertedBoxes(tuple(placed), _status_of(len(placed), len(parsed.rejected) + dropped))


def format_boxes(boxes: Sequence[tuple[XYXY, str]], style: BoxStyle) -> str:
    """Write boxes as a model family does, for training targets; ``parse_boxes`` reads them back.

    Args:
        boxes: ``ParsedBox`` or other ``(xyxy, label)`` pairs in that family's frame. Coordinates are rounded to whole
            numbers, or to ``UNIT_DECIMALS`` for ``unit_list``; a box that would become empty by rounding keeps one unit
            of the last place.
        style: The family's native text. ``unit_list`` has no labels.

    Returns:
        The text. Labels become one line without ``<`` and ``>``, so that no label contains a special token.
    """
    if style == "qwen_json":
        lines = ",\n".join(f"\t{_json_object(xyxy, _label_text(label))}" for xyxy, label in boxes)
        return f"```json\n[\n{lines}\n]\n```" if boxes else "```json\n[]\n```"
    if style == "unit_list":
        return "\n".join(f"[{', '.join(_rounded(xyxy, UNIT_DECIMALS))}]" for xyxy, _ in boxes)
    write = _qwen2_special if style == "qwen2_special" else _internvl
    return "".join(write(xyxy, _label_text(label)) for xyxy, label in boxes)


def _scan(text: str) -> list[tuple[XYXY | str, str]]:
    """Find all candidate boxes.

    Returns:
        Four numbers, or the reason for rejection, each with its label.
    """
    ascii_text = text.translate(_ASCII_FORM)
    found: list[tuple[XYXY | str, str]] = []
    label, object_start = "", 0
    for token in _TOKEN.finditer(ascii_text):
        kind = token.lastgroup
        if kind in ("brace", "box_end"):
            label, object_start = "", len(found)
        elif kind in ("ref", "object_ref"):
            label = _one_line(text[slice(*token.span(kind))])
        elif kind == "label":
            label = _one_line(_unquoted(text[slice(*token.span(kind))]))
            # The key may follow the box in the JSON object.
            found[object_start:] = [(what, known or label) for what, known in found[object_start:]]
        else:
            written = _NUMBER_IN_LIST.findall(token["numbers"] or token["points"])
            numbers = tuple(float(number.lower().removesuffix("px")) for number in written)
            if kind == "cut_off":
                found.append((f"expected a closed list, got {_brief(numbers)} cut off by the end of the text", label))
            elif kind == "points" and len(numbers) != 4:
                found.append((f"expected two corner points, got {len(numbers) // 2}: {_brief(numbers)}", label))
            elif len(numbers) == 4:
                found.append(((numbers[0], numbers[1], numbers[2], numbers[3]), label))
            elif len(numbers) > 2:
                found.append((f"expected 4 numbers, got {len(numbers)}: {_brief(numbers)}", label))
    return found


def _invalid_reason(xyxy: XYXY) -> str | None:
    """Why four numbers are an invalid box, or None."""
    if not all(math.isfinite(value) and abs(value) <= MAX_COORDINATE for value in xyxy):
        return f"expected finite coordinates up to {MAX_COORDINATE:g}, got {_brief(xyxy)}"
    if not is_finite_xyxy(xyxy):
        return f"expected x1 < x2 and y1 < y2, got {_brief(xyxy)}"
    return None


def _status_of(usable: int, unusable: int) -> ParseStatus:
    if usable:
        return "partly_invalid" if unusable else "ok"
    return "invalid" if unusable else "none"


def _brief(numbers: Sequence[float]) -> str:
    """The first few numbers, for a message."""
    return f"[{', '.join(f'{number:g}' for number in numbers[:6])}{', ...' if len(numbers) > 6 else ''}]"


def _unquoted(quoted: str) -> str:
    """The content of a quoted label; JSON escapes are decoded."""
    body = quoted[1:-1] if len(quoted) > 1 and quoted[-1] in "\"'”" else quoted[1:]
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError:
        return body


def _one_line(label: str) -> str:
    """Normalize a label: printable, one line, at most ``MAX_LABEL_CHARS``; lone surrogates are not printable."""
    printable = "".join(sign if sign.isprintable() else " " for sign in label)
    return " ".join(printable.split())[:MAX_LABEL_CHARS].rstrip()


def _label_text(label: str) -> str:
    return _one_line(label.replace("<", " ").replace(">", " "))


def _rounded(xyxy: XYXY, decimals: int = 0) -> list[str]:
    """Coordinates as text, at least one unit of the last place wide and high."""
    step = 10**decimals
    x_min, y_min, x_max, y_max = (round(value * step) for value in xyxy)
    whole = (x_min, y_min, max(x_max, x_min + 1), max(y_max, y_min + 1))
    return [f"{value / step:.{decimals}f}" for value in whole]


def _json_object(xyxy: XYXY, label: str) -> str:
    tail = f', "label": {json.dumps(label, ensure_ascii=False)}' if label else ""
    return f'{{"bbox_2d": [{", ".join(_rounded(xyxy))}]{tail}}}'


def _qwen2_special(xyxy: XYXY, label: str) -> str:
    x_min, y_min, x_max, y_max = _rounded(xyxy)
    reference = f"<|object_ref_start|>{label}<|object_ref_end|>" if label else ""
    return f"{reference}<|box_start|>({x_min},{y_min}),({x_max},{y_max})<|box_end|>"


def _internvl(xyxy: XYXY, label: str) -> str:
    reference = f"<ref>{label}</ref>" if label else ""
    return f"{reference}<box>[[{', '.join(_rounded(xyxy))}]]</box>"
