"""Boxes in model text: a table of malformed strings, round trips of all styles, and fuzzing."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hart_studio.geometry import BoxFrame
from hart_studio.parsing import (
    MAX_COORDINATE,
    MAX_LABEL_CHARS,
    MAX_TEXT_CHARS,
    BoxStyle,
    ParsedBox,
    convert_to_original,
    format_boxes,
    parse_boxes,
)

ABCD = [(10, 20, 30, 40)]
TWO = [(10, 20, 30, 40), (50, 60, 70, 80)]

# (text, boxes, status)
UGLY = [
    ('```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "sign"}\n]\n```', ABCD, "ok"),  # Qwen2.5-VL, verbatim
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "sign"}]', ABCD, "ok"),  # no fence
    ('{"bbox_2d": [10, 20, 30, 40]}', ABCD, "ok"),  # a single object, no label
    ('{"bbox": [10, 20, 30, 40]}', ABCD, "ok"),  # key bbox
    ('{"box": [10, 20, 30, 40]}', ABCD, "ok"),  # key box
    ('{"coordinates": [[10, 20, 30, 40]]}', ABCD, "ok"),  # key coordinates, nested list
    ('{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]]}', TWO, "ok"),  # several lists under one key
    ('{"bbox_2d": [[10, 20], [30, 40]]}', ABCD, "ok"),  # two corners as lists
    ('{"bbox_2d": "10, 20, 30, 40"}', ABCD, "ok"),  # the list as a string without brackets
    ('{"bbox_2d": "[10, 20, 30, 40]"}', ABCD, "ok"),  # the list as a string
    ('{"bbox_2d": ["10", "20", "30", "40"]}', ABCD, "ok"),  # the numbers as strings
    ('{\\"bbox_2d\\": [10, 20, 30, 40]}', ABCD, "ok"),  # JSON inside a JSON string
    ("{'bbox_2d': [10, 20, 30, 40], 'label': 'sign'}", ABCD, "ok"),  # Python quotes
    ('[{"bbox_2d": [10, 20, 30, 40,], "label": "a",},]', ABCD, "ok"),  # trailing commas everywhere
    ('{"bbox_2d": [10, 20, 30, 40, "label": "a"}', ABCD, "ok"),  # forgotten bracket, number complete
    ('{"bbox_2d": [10, 20, 30, 40}', ABCD, "ok"),  # wrong bracket
    ('```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```\nand\n```json\n[{"bbox_2d": [50, 60, 70, 80]}]\n```', TWO, "ok"),
    ('```\n[{"bbox_2d": [10, 20, 30, 40]}]', ABCD, "ok"),  # fence never closed, no language
    ('Sure! Here it is:\n[{"bbox_2d": [10, 20, 30, 40]}]\nHope this helps.', ABCD, "ok"),  # text on both sides
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [50, 6', ABCD, "partly_invalid"),  # cut off in a list
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "the red si', ABCD, "ok"),  # cut off in a label
    ('[{"bbox_2d": [10, 20, 30, 40]', ABCD, "ok"),  # cut off after the list
    ('[{"bbox_2d": [10, 20, 30, 4', [], "invalid"),  # cut off in the last number: 4, 40 or 400
    ('[{"bbox_2d": [10, 20,', [], "invalid"),  # cut off after a comma
    ('[{"bbox_2d": [', [], "none"),  # cut off before any number
    ("[10, 20, 30, 40]", ABCD, "ok"),  # bare list
    ("[[10, 20, 30, 40]]", ABCD, "ok"),  # nested once
    ("[[[10, 20, 30, 40], [50, 60, 70, 80]]]", TWO, "ok"),  # nested twice
    ("[10,20,30,40][50,60,70,80]", TWO, "ok"),  # no space at all
    ("[10 20 30 40]", ABCD, "ok"),  # blanks for commas
    ("[10; 20; 30; 40]", ABCD, "ok"),  # semicolons
    ("[\n  10,\n  20,\n  30,\n  40\n]", ABCD, "ok"),  # one number a line
    ("[10px, 20px, 30px, 40px]", ABCD, "ok"),  # with a unit
    ("(10, 20, 30, 40)", ABCD, "ok"),  # tuple
    ("tensor([10., 20., 30., 40.])", ABCD, "ok"),  # a printed tensor
    ("The sign is at [10, 20, 30, 40], next to a tree.", ABCD, "ok"),  # in prose
    ("it's at [10, 20, 30, 40] on the dog's left, [50, 60, 70, 80]", TWO, "ok"),  # apostrophes do not open strings
    ('a 12" pipe at [10, 20, 30, 40] and a 13" one at [50, 60, 70, 80]', TWO, "ok"),  # inch marks neither
    ("\\[10, 20, 30, 40\\]", ABCD, "ok"),  # LaTeX brackets
    ("**[10, 20, 30, 40]**", ABCD, "ok"),  # Markdown
    ("<box>[[10, 20, 30, 40]]</box>", ABCD, "ok"),  # InternVL
    ("<ref>sign</ref><box>[[10, 20, 30, 40], [50, 60, 70, 80]]</box>", TWO, "ok"),  # InternVL, two boxes
    ("sign[[10, 20, 30, 40]]", ABCD, "ok"),  # InternVL, special tokens stripped
    ("<box>[10,20,30,40]</box>", ABCD, "ok"),  # single brackets in the tag
    ("<box>10, 20, 30, 40</box>", ABCD, "ok"),  # no brackets in the tag
    ("<box>[[10, 20, 30, 40]]", ABCD, "ok"),  # tag never closed
    ("<box>(10,20),(30,40)</box>", ABCD, "ok"),  # Qwen-VL, first generation
    ("<|object_ref_start|>sign<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>", ABCD, "ok"),  # Qwen2-VL
    ("<|box_start|>(10,20),(30,40)<|box_end|><|box_start|>(50,60),(70,80)<|box_end|>", TWO, "ok"),  # two of them
    ("sign(10,20),(30,40)", ABCD, "ok"),  # Qwen2-VL, special tokens stripped
    ("(10,20),(30,40)(50,60),(70,80)", TWO, "ok"),  # two of them, stripped
    ("( 10 , 20 ) , ( 30 , 40 )", ABCD, "ok"),  # spaces
    ("<|box_start|>(10,20),(30,", [], "invalid"),  # cut off in the second corner
    ("(10,20),(30,40),(50,60),(70,80)", [], "invalid"),  # a quadrilateral is no box
    ("[0.12, 0.30, 0.5, .75]", [(0.12, 0.3, 0.5, 0.75)], "ok"),  # LLaVA unit floats, no leading zero
    ("[+1e1, 2.0E+1, 300e-1, 40.]", ABCD, "ok"),  # signs and exponents
    ("[-5, -6.5, 7, 8]", [(-5, -6.5, 7, 8)], "ok"),  # partly outside the image: clipped later
    ("［１０，２０，３０，４０］", ABCD, "ok"),  # full-width everything
    ("【10、20、30、40】", ABCD, "ok"),  # CJK brackets and commas
    ("（10，20），（30，40）", ABCD, "ok"),  # full-width corner pair
    ("{“bbox_2d”： [10, 20, 30, 40]}", ABCD, "ok"),  # curly quotes, full-width colon
    ("[10, 20, 30, 40] [10, 20, 30, 40] [10.0, 20, 30, 40]", ABCD, "ok"),  # repetition
    ("", [], "none"),  # empty
    ("   \n\t ", [], "none"),  # blank
    ("I cannot see any relevant region.", [], "none"),  # refusal
    ("[]", [], "none"),  # empty list
    ("```json\n[]\n```", [], "none"),  # empty JSON
    ('{"bbox_2d": null}', [], "none"),  # null
    ("[x1, y1, x2, y2]", [], "none"),  # the template
    ("as shown in [1] and (Fig. 2)", [], "none"),  # footnotes
    ('{"point_2d": [10, 20]}', [], "none"),  # a point
    ("[10%, 20%, 30%, 40%]", [], "none"),  # percentages: documented as unread
    ("[information, 20, 30, 40]", [], "none"),  # a word that begins like a number
    ("[1_0, 20, 30, 40]", [], "none"),  # Python digit groups
    ("[10, 20, 30]", [], "invalid"),  # three numbers
    ("[10, 20, 30, 40, 0.9]", [], "invalid"),  # five numbers: a score has slipped in
    ("[10, 20, 30, 40, 50, 60, 70, 80]", [], "invalid"),  # eight numbers
    ("[1,024, 20, 1,536, 40]", [], "invalid"),  # thousands commas
    ("[30, 20, 10, 40]", [], "invalid"),  # inverted x: never sorted
    ("[10, 40, 30, 20]", [], "invalid"),  # inverted y
    ("[10, 20, 10, 40]", [], "invalid"),  # zero width
    ("[0, 0, 0, 0]", [], "invalid"),  # zero box
    ("[NaN, 20, 30, 40]", [], "invalid"),  # not a number
    ("[10, 20, Infinity, 40]", [], "invalid"),  # infinite
    ("[-inf, 20, 30, 40]", [], "invalid"),  # minus infinite
    ("[10, 20, 1e999, 40]", [], "invalid"),  # overflows to infinity
    ("[10, 20, 30, 99999999]", [], "invalid"),  # absurd magnitude
    ("[10, 20, 30, " + "9" * 5000 + "]", [], "invalid"),  # 5,000 digits
    ("[30, 20, 10, 40] [10, 20, 30, 40]", ABCD, "partly_invalid"),  # one bad, one good
    (
        "built in [1990, 1995, 2000, 2010]",
        [(1990, 1995, 2000, 2010)],
        "ok",
    ),  # years: documented, cannot be distinguished
    ("__import__('os').system('true') [10, 20, 30, 40]", ABCD, "ok"),  # never evaluated
    ("[10*1, 20, 30, 40]", [], "none"),  # an expression is not a number
    ("<script>alert([10, 20, 30, 40])</script>", ABCD, "ok"),  # markup is text
    ("\x00[10, 20, 30, 40]\ud800", ABCD, "ok"),  # NUL and a lone surrogate
    ("[10,\u00a020,\u202f30,\u300040]", ABCD, "ok"),  # exotic spaces
    ("[\u0131nf, 20, 30, 40]", [], "none"),  # dotless i: equal to i when case is ignored, but no number
]


@pytest.mark.parametrize(("text", "boxes", "status"), UGLY)
def test_ugly_text(text, boxes, status):
    parsed = parse_boxes(text)
    assert [box.xyxy for box in parsed.boxes] == boxes
    assert parsed.status == status
    assert bool(parsed.rejected) == (status in ("invalid", "partly_invalid"))


# (text, labels)
LABELS = [
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "sign"}]', ["sign"]),  # after the box
    ('[{"label": "sign", "bbox_2d": [1, 2, 3, 4]}]', ["sign"]),  # before the box
    ('[{"bbox_2d": [1, 2, 3, 4]}, {"label": "b", "bbox_2d": [5, 6, 7, 8]}]', ["", "b"]),  # not the neighbor's
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8]}]', ["a", ""]),  # nor the one before
    ('{"objects": [{"bbox_2d": [1, 2, 3, 4]}], "label": "scene"}', [""]),  # nor that of the whole
    ('{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "both"}', ["both", "both"]),  # one label for two
    ('{"bbox_2d": [1, 2, 3, 4], "label": "at [5, 6, 7, 8] {x}"}', ["at [5, 6, 7, 8] {x}"]),  # a box in a label
    ('{"bbox_2d": [1, 2, 3, 4], "label": "a \\"b\\" \\u00e9"}', ['a "b" é']),  # escapes
    ('{"bbox_2d": [1, 2, 3, 4], "label": "bad \\q escape"}', ["bad \\q escape"]),  # an escape that JSON does not know
    ('{"bbox_2d": [1, 2, 3, 4], "label": "\\ud800x"}', ["x"]),  # a lone surrogate cannot be stored
    ('{"bbox_2d": [1, 2, 3, 4], "label": "two\\nlines\\u0000"}', ["two lines"]),  # one line
    ("{'bbox_2d': [1, 2, 3, 4], 'label': 'sign'}", ["sign"]),  # single quotes
    ("｛“bbox_2d”： ［1, 2, 3, 4］， “label”： “标志，红”｝", ["标志，红"]),  # the label keeps its own punctuation
    (
        '{"bbox_2d": [1, 2, 3, 4], "label": "says “STOP [5, 6, 7, 8]” ＂x＂"}',
        ["says “STOP [5, 6, 7, 8]” ＂x＂"],
    ),  # quoting
    ('{"label": "sign", "bbox_2d": [1, 2, 3, 4], "text_content": "STOP"}', ["sign"]),  # the first of two names
    ('{"bbox_2d": [1, 2, 3, 4], "label": 7}', [""]),  # not a text
    ('{"bbox_2d": [1, 2, 3, 4], "label": "cut of', ["cut of"]),  # cut off
    ("<ref>the sign</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box> [9, 9, 10, 10]", ["the sign", "the sign", ""]),
    ("<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>(5,6),(7,8)", ["a", ""]),
    ("<ref><b>x</b></ref><box>[[1, 2, 3, 4]]</box>", [""]),  # markup in a name
]


@pytest.mark.parametrize(("text", "labels"), LABELS)
def test_labels(text, labels):
    assert [box.label for box in parse_boxes(text).boxes] == labels


def test_rejections_say_what_was_got():
    parsed = parse_boxes("[30, 20, 10, 40] [1, 2, 3] [NaN, 0, 1, 1] (1,2),(3,4),(5,6) [7, 8")
    assert parsed.rejected == (
        "expected x1 < x2 and y1 < y2, got [30, 20, 10, 40]",
        "expected 4 numbers, got 3: [1, 2, 3]",
        f"expected finite coordinates up to {MAX_COORDINATE:g}, got [nan, 0, 1, 1]",
        "expected two corner points, got 3: [1, 2, 3, 4, 5, 6]",
        "expected a closed list, got [7, 8] cut off by the end of the text",
    )


def test_box_limit_is_reported_and_repetition_is_not():
    many = " ".join(f"[0, 0, {side}, 1]" for side in range(1, 71))
    parsed = parse_boxes(many)
    assert len(parsed.boxes) == 64
    assert parsed.status == "partly_invalid"
    assert parsed.rejected == ("expected at most 64 boxes, got more; the rest was not read",)
    assert parse_boxes("[0, 0, 1, 1]" * 500, max_boxes=1).status == "ok"


def test_only_the_beginning_of_a_long_text_is_read():
    assert parse_boxes(" " * (MAX_TEXT_CHARS - 12) + "[0, 0, 1, 1]").status == "ok"
    assert parse_boxes(" " * MAX_TEXT_CHARS + "[0, 0, 1, 1]").status == "none"
    assert len(parse_boxes('{"bbox_2d": [0, 0, 1, 1], "label": "' + "x" * 350 + '"}').boxes[0].label) == MAX_LABEL_CHARS


# ---- placing on the original ----


@pytest.mark.parametrize(
    ("frame", "text", "expected"),
    [
        (BoxFrame.MODEL_PIXELS, "[100, 50, 200, 150]", (400, 200, 800, 600)),
        (BoxFrame.NORMALIZED_1000, "[100, 50, 200, 150]", (400, 150, 800, 450)),
        (BoxFrame.NORMALIZED_1, "[0.1, 0.05, 0.2, 0.15]", (400, 150, 800, 450)),
        (BoxFrame.UNIT_PADDED_SQUARE, "[0.1, 0.25, 0.2, 0.5]", (400, 500, 800, 1500)),
    ],
)
def test_boxes_reach_the_right_pixels_of_the_original(frame, text, expected):
    boxes, status = convert_to_original(parse_boxes(text), frame, (4000, 3000), (1000, 750))
    assert boxes[0].xyxy == pytest.approx(expected)
    assert status == "ok"


def test_what_is_outside_is_clipped_or_dropped_and_counted():
    half_out = parse_boxes("[[900, 900, 1100, 1100], [1001, 0, 1100, 50]]")
    boxes, status = convert_to_original(half_out, BoxFrame.NORMALIZED_1000, (4000, 3000), (100, 75))
    assert [box.xyxy for box in boxes] == [(3600, 2700, 4000, 3000)]
    assert status == "partly_invalid"
    outside = convert_to_original(parse_boxes("[1001, 0, 1100, 50]"), BoxFrame.NORMALIZED_1000, (4000, 3000), (100, 75))
    assert outside == ((), "invalid")
    nothing = convert_to_original(parse_boxes("nothing here"), BoxFrame.NORMALIZED_1000, (4000, 3000), (100, 75))
    assert nothing == ((), "none")
    one_bad = convert_to_original(
        parse_boxes("[0, 0, 9, 9] [1, 2, 3]"), BoxFrame.NORMALIZED_1000, (4000, 3000), (100, 75)
    )
    assert (len(one_bad.boxes), one_bad.status) == (1, "partly_invalid")


def test_a_width_lost_by_the_change_of_frame_is_invalid_not_an_error():
    hair = parse_boxes("[1e-30, 0.2, 2e-30, 0.4]")
    assert hair.status == "ok"
    assert convert_to_original(hair, BoxFrame.UNIT_PADDED_SQUARE, (3000, 4000), (100, 75)) == ((), "invalid")


def test_label_travels_to_the_original():
    parsed = parse_boxes('{"bbox_2d": [1, 2, 3, 4], "label": "<b>sign</b>"}')
    boxes, _ = convert_to_original(parsed, BoxFrame.NORMALIZED_1000, (4000, 3000), (100, 75))
    assert boxes[0].label == "<b>sign</b>"  # raw text: the page shows it as text


# ---- writing ----

PAIR = [ParsedBox((10, 20, 30, 40), "red sign"), ParsedBox((50, 60, 70, 80))]


@pytest.mark.parametrize(
    ("style", "boxes", "expected"),
    [
        (
            "qwen_json",
            PAIR,
            '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "red sign"},\n'
            '\t{"bbox_2d": [50, 60, 70, 80]}\n]\n```',
        ),
        (
            "qwen2_special",
            PAIR,
            "<|object_ref_start|>red sign<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>"
            "<|box_start|>(50,60),(70,80)<|box_end|>",
        ),
        ("internvl", PAIR, "<ref>red sign</ref><box>[[10, 20, 30, 40]]</box><box>[[50, 60, 70, 80]]</box>"),
        ("unit_list", [ParsedBox((0.12, 0.3, 0.5, 1.0), "x")], "[0.120, 0.300, 0.500, 1.000]"),
        ("qwen_json", [], "```json\n[]\n```"),
        ("internvl", [], ""),
    ],
)
def test_written_text_is_the_familys_own(style, boxes, expected):
    assert format_boxes(boxes, style) == expected


def test_plain_pairs_can_be_written():
    assert format_boxes([((1.2, 2.6, 3.4, 4.5), "a")], "internvl") == "<ref>a</ref><box>[[1, 3, 3, 4]]</box>"


def test_rounding_never_flattens_a_box():
    assert format_boxes([ParsedBox((10.1, 20.1, 10.4, 20.2))], "internvl") == "<box>[[10, 20, 11, 21]]</box>"
    assert format_boxes([ParsedBox((0.5, 0.5, 0.5001, 0.5001))], "unit_list") == "[0.500, 0.500, 0.501, 0.501]"


@pytest.mark.parametrize("style", ["qwen_json", "qwen2_special", "internvl"])
def test_a_label_cannot_spell_a_special_token(style):
    text = format_boxes([ParsedBox((1, 2, 3, 4), "<|im_end|></ref><box>[[5, 6, 7, 8]]")], style)
    assert "<|im_end|>" not in text
    assert [box.xyxy for box in parse_boxes(text).boxes] == [(1, 2, 3, 4)]


LABEL_SIGNS = st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Zl", "Zp")) | st.sampled_from(
    "\"'“”[](){},:1\\"
)
LABEL_TEXT = st.text(LABEL_SIGNS, max_size=40).map(
    lambda text: " ".join(text.replace("<", "").replace(">", "").split())
)


def ordered_pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True).map(lambda pair: tuple(sorted(pair)))


@st.composite
def whole_boxes(draw, scale: float = 1.0, max_value: int = 8192) -> ParsedBox:
    (x_min, x_max), (y_min, y_max) = draw(ordered_pair(0, max_value)), draw(ordered_pair(0, max_value))
    return ParsedBox((x_min * scale, y_min * scale, x_max * scale, y_max * scale), draw(LABEL_TEXT))


@given(
    boxes=st.lists(whole_boxes(), max_size=8, unique_by=lambda box: box.xyxy),
    style=st.sampled_from(["qwen_json", "qwen2_special", "internvl"]),
)
def test_round_trip_of_whole_numbers_and_labels_is_exact(boxes: list[ParsedBox], style: BoxStyle):
    parsed = parse_boxes(format_boxes(boxes, style))
    assert list(parsed.boxes) == boxes
    assert parsed.status == ("ok" if boxes else "none")


@given(boxes=st.lists(whole_boxes(scale=1e-4, max_value=10_000), min_size=1, max_size=8))
def test_round_trip_of_unit_boxes_is_within_rounding(boxes: list[ParsedBox]):
    distinct = {format_boxes([box], "unit_list"): box for box in boxes}
    parsed = parse_boxes(format_boxes(list(distinct.values()), "unit_list"))
    assert parsed.status == "ok"
    for read, written in zip(parsed.boxes, distinct.values(), strict=True):
        assert read.xyxy == pytest.approx(written.xyxy, abs=0.0015)


@given(
    boxes=st.lists(whole_boxes(scale=0.37), min_size=1, max_size=4), style=st.sampled_from(["qwen_json", "internvl"])
)
@example(boxes=[ParsedBox(xyxy=(0.0, 42.55, 0.37, 42.92), label="")], style="qwen_json")
def test_round_trip_of_fractions_is_within_rounding(boxes: list[ParsedBox], style: BoxStyle):
    distinct = {format_boxes([(box.xyxy, "")], style): box for box in boxes}
    parsed = parse_boxes(format_boxes(list(distinct.values()), style))
    assert parsed.status == "ok"
    for read, written in zip(parsed.boxes, distinct.values(), strict=True):
        # Half a unit for each edge, and a whole one more where a thinner box is kept one unit wide.
        assert read.xyxy == pytest.approx(written.xyxy, abs=1.5)
        assert read.label == written.label


# ---- fuzz ----

FRAGMENTS = st.sampled_from(
    [
        "[", "]", "(", ")", "{", "}", ",", " ", "\n", ":", ";", '"', "'", "\\", "<box>", "</box>", "<ref>", "</ref>",
        "<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>", '"bbox_2d": ', '"label": "',
        "bbox", "```json", "```", "sign", "nan", "-inf", "1e400", "-", "+", ".", "e", "0", "1", "10", "999.5", "px",
        "，", "［", "（", "“", "İnf", "ınf", "٣", "\ud800",
    ]
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-50, 1200).map(str), st.floats().map(str), st.floats(-1, 2).map("{:.3f}".format))
LISTS = st.lists(NUMBERS, min_size=1, max_size=6).map(lambda numbers: f"[{', '.join(numbers)}]")
MODEL_TEXT = st.lists(st.one_of(FRAGMENTS, NUMBERS, LISTS, st.text(max_size=8)), max_size=60).map("".join)
SIZES = st.tuples(st.integers(1, 9000), st.integers(1, 9000))


@given(text=MODEL_TEXT, frame=st.sampled_from(BoxFrame), original_wh=SIZES, model_wh=SIZES)
def test_no_text_raises_and_no_box_leaves_the_image(text, frame, original_wh, model_wh):
    parsed = parse_boxes(text)
    assert len({box.xyxy for box in parsed.boxes}) == len(parsed.boxes) <= 64
    for box in parsed.boxes:
        x_min, y_min, x_max, y_max = box.xyxy
        assert all(math.isfinite(value) and abs(value) <= MAX_COORDINATE for value in box.xyxy)
        assert x_min < x_max and y_min < y_max
        assert len(box.label) <= MAX_LABEL_CHARS and "\n" not in box.label
    placed = convert_to_original(parsed, frame, original_wh, model_wh)
    for box in placed.boxes:
        assert 0 <= box.x_min < box.x_max <= original_wh[0]
        assert 0 <= box.y_min < box.y_max <= original_wh[1]
        box.model_dump_json()
    for outcome, count in ((parsed, len(parsed.boxes)), (placed, len(placed.boxes))):
        assert (outcome.status in ("ok", "partly_invalid")) == (count > 0)
    assert (placed.status == "none") == (parsed.status == "none")


@given(boxes=st.lists(st.tuples(*[st.floats(-2e6, 2e6)] * 4), min_size=1, max_size=6))
def test_a_list_is_usable_exactly_when_it_is_a_box(boxes):
    parsed = parse_boxes("\n".join(f"[{', '.join(map(repr, box))}]" for box in boxes))
    good = [box for box in boxes if max(map(abs, box)) <= MAX_COORDINATE and box[0] < box[2] and box[1] < box[3]]
    assert [box.xyxy for box in parsed.boxes] == list(dict.fromkeys(good))
    assert len(parsed.rejected) == len(boxes) - len(good)


HOSTILE = [
    "[", "[[", "(", "[1", "[1,", "[1,1,1,1", "(1,1),", "(1,1)", "[1 ", "[" + " " * 50, "1", "1,", "<box>", "<ref>",
    "<ref>x", '"label":"', "'label':'", '"label":"\\', "“label”：“", '"bbox_2d":"', "{", '{"bbox_2d":[1,1,', "[nan,",
    "[.", "[1e", "[1.", "[-", "[1px", "\\", "<|object_ref_start|>", "[1,2,3,4", " ", "[1" + " " * 400,
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("lead", ["", "[1", "[1,", "(1,1)", "<box>", '"label":"'])
def test_time_is_bounded_on_hostile_text(unit, lead):
    text = lead + unit * ((MAX_TEXT_CHARS - len(lead) - 1) // len(unit)) + "x"  # the x denies every match at the end
    started = time.process_time()
    parse_boxes(text)
    assert time.process_time() - started < 1.0  # seconds of CPU; quadratic matching takes tens of them
