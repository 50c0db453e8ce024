"""Answers in model text: open answers, scores, and fuzzing; for letters see ``test_scoring_choices``."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import InputError
from hart_studio.extraction import MAX_TEXT_CHARS, NOT_FOUND, Extraction, extract_choice, extract_open
from hart_studio.records import Score
from hart_studio.scoring import answers_agree, score_answer
from hart_studio.spelling import normalize_text
from tests.unit.test_scoring_choices import COLORS

# ---- open questions ----


@pytest.mark.parametrize(
    ("text", "value", "rule"),
    [
        ("green", "green", "whole"),  # what the built-in model writes
        ("Green.", "green", "whole"),  # sentence
        ("A", "a", "whole"),  # a character that happens to be an article
        ("7", "7", "whole"),  # digit
        ("seven", "7", "whole"),  # number word
        ("\\boxed{\\text{green}}", "green", "boxed"),  # LaTeX
        ("\\boxed{12\\%}", "12%", "boxed"),  # escaped unit
        ("\\boxed{3.5\\,\\text{cm}}", "3.5 cm", "boxed"),  # LaTeX space
        ("the answer is red, \\boxed{green}", "green", "boxed"),  # stronger
        ("<answer>The Green</answer>", "green", "answer_tag"),  # tag
        ("<answer>The answer is green.</answer>", "green", "answer_tag"),  # a sentence in the tag
        ("The answer is green.", "green", "statement"),  # sentence
        ("The answer is green because it glows.", "green", "statement"),  # reason
        ("The answer is green. It is a lamp.", "green", "statement"),  # next sentence
        ("**Answer:** the U.S. flag", "us flag", "statement"),  # dots inside the answer
        ("Answer: 3.5 km/h", "3.5 km/h", "statement"),  # decimal point
        ("Answer: red, green and blue", "red green and blue", "statement"),  # a list
        ("The answer is red. No, the answer is green", "green", "statement"),  # the last counts
        ("The answer is not green", "not green", "statement"),  # a denial keeps its word
        ("I don't think the answer is green, sorry, I really cannot say", None, "none"),  # denied, and long
        ("one two three four five six seven eight nine ten", "1 2 3 4 5 6 7 8 9 10", "whole"),  # ten words
        ("there is a lamp and below it there is one more lamp", None, "none"),  # eleven and more: prose
        ("", None, "none"),  # empty
        ("\\boxed{ }", "boxed", "whole"),  # an empty box is a short text like another
    ],
)
def test_open(text, value, rule):
    assert extract_open(text) == Extraction(value, rule)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Red Triangle", "red triangle"),  # case, article
        ("  a \n b  ", "b"),  # blanks
        ("Zero, one; TWENTY twenty-one", "0 1 20 20 1"),  # number words up to twenty
        ("someone", "someone"),  # not inside a word
        ("3.50", "3.50"),  # decimals as written
        ("1,234,567", "1234567"),  # thousands
        ("1,2", "1 2"),  # a list
        ("-5", "-5"),  # sign
        ("−5", "-5"),  # typographic minus
        ("5-10", "5 10"),  # range
        (".5", ".5"),  # leading point
        ("40 %", "40 %"),  # unit untouched
        ("$5", "$5"),  # currency
        ("km/h", "km/h"),  # slash unit
        ("20°C", "20°c"),  # degree
        ("T-shirt", "t shirt"),  # hyphen
        ("driver’s", "drivers"),  # apostrophe
        ("No. 5", "no 5"),  # abbreviation
        ("“STOP!”", "stop"),  # quotes
        ("ＳＴＯＰ", "stop"),  # full width
        ("The", "the"),  # nothing but an article
        ("?", "?"),  # nothing but punctuation
        ("   ", ""),  # nothing
    ],
)
def test_normalized_text(text, normalized):
    assert normalize_text(text) == normalized


# ---- scores ----


def test_score_of_a_choice():
    assert score_answer("green \\boxed{B}", COLORS, "B") == Score(value=1.0, extracted="B", expected="B", rule="boxed")
    assert score_answer("red \\boxed{C}", COLORS, "B").value == 0.0
    assert score_answer("no idea", COLORS, "B") == Score(value=0.0, extracted=None, expected="B", rule="none")
    assert score_answer("\\boxed{B}", COLORS, None) == Score(value=None, extracted="B", expected=None, rule="boxed")


def test_score_of_an_open_answer():
    assert score_answer("Green.", (), "the green") == Score(
        value=1.0, extracted="green", expected="the green", rule="whole"
    )
    assert score_answer("seven dots", (), "7 dots").value == 1.0
    assert score_answer("dark green", (), "green").value == 0.0  # containment is not equality
    assert score_answer("green", (), "dark green").value == 0.0
    assert score_answer("35", (), "3.5").value == 0.0
    assert score_answer("", (), "green") == Score(value=0.0, extracted=None, expected="green", rule="none")
    assert score_answer("green", (), None).value is None
    assert score_answer("gre\ud800en", (), "green").model_dump_json()  # a lone surrogate is no text


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (COLORS, "E", "one of the letters ABCD, got 'E'"),
        (COLORS, "b", "got 'b'"),
        (COLORS, "AB", "got 'AB'"),
        (COLORS, "", "got ''"),
        ((), " ", "expected a non-empty answer"),
    ],
)
def test_an_answer_that_nothing_could_match_is_an_error_not_a_zero(choices, answer, message):
    with pytest.raises(InputError, match=message):
        score_answer("x", choices, answer)


def test_agreement_compares_what_was_read():
    boxed, said, other, unread = (
        score_answer(text, COLORS, None) for text in ("\\boxed{B}", "The answer is B", "C", "hm")
    )
    assert answers_agree(boxed, said)
    assert not answers_agree(boxed, other)
    assert not answers_agree(unread, unread)


# ---- fuzz ----

PIECES = st.sampled_from(
    [
        "\\boxed{", "}", "{", "\\text{", "<answer>", "</answer>", "</think>", "answer", "option", "choice", " is ",
        "the ", "correct ", "not ", "A", "B", "C", "a", "(", ")", "[", "]", ".", ",", ": ", " or ", " and ", "/", "\n",
        " ", "red", "green", "a dog", "because ", "*", "`", "$", "\\", "Ｃ", "（", "ſ", "K", "ı", "\ud800", "\ufdfa",
    ]
)  # fmt: skip
MODEL_TEXT = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=50).map("".join)


@given(text=MODEL_TEXT, count=st.integers(2, 26), has_texts=st.booleans())
def test_a_read_letter_is_one_of_the_question_and_was_written(text, count, has_texts):
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
    choices = tuple(f"thing {letter}" for letter in letters) if has_texts else ()
    value, rule = extract_choice(text, letters, choices)
    assert value is None or (len(value) == 1 and value in letters)
    assert (value is None) == (rule == "none")
    assert rule in ("boxed", "answer_tag", "statement", "letter", "option", "none")


@given(text=MODEL_TEXT)
def test_an_open_answer_is_one_line_of_text_or_none(text):
    value, rule = extract_open(text)
    assert (value is None) == (rule == "none")
    assert value is None or value == " ".join(value.split()) != ""
    score_answer(text, (), None).model_dump_json()


@given(answer=st.text(st.characters(codec="ascii"), max_size=20).filter(str.strip))
def test_case_and_blanks_never_decide(answer):
    assert normalize_text(answer) == normalize_text(f"  {answer.upper()}\n") != ""


@given(words=st.lists(st.sampled_from(["red", "green", "lamp", "dog", "B", "of"]), max_size=12))
def test_prose_without_a_sign_of_an_answer_is_never_read(words):
    prose = " ".join(("A", *words, "is visible above all"))
    assert extract_choice(prose, "ABCD", COLORS) == NOT_FOUND


@given(letter=st.sampled_from("ABCD"), before=st.text(max_size=60), after=st.text(max_size=60))
def test_a_box_is_found_in_any_text(letter, before, after):
    noise = before.replace("boxed", "").replace("<", "").replace("{", "").replace("}", "").replace("\\", "")
    tail = after.replace("boxed", "").replace("<", "").replace("{", "").replace("}", "").replace("\\", "")
    assert extract_choice(f"{noise} \\boxed{{{letter}}} {tail}", "ABCD", COLORS) == (letter, "boxed")


HOSTILE = [
    "\\boxed{", "boxed{a", "\\boxed{{", "\\boxed{{a}", "\\text{", "\\text{a", "<answer>", "<answer>a", "answer is ",
    "answer is a ", "answer is (", "the answer to a b c d ", "answer to ", "answer", "the option is A, ", "A or ", "((",
    "( ", "A", "A. ", "a", " ", "\n", " \n", "*", "$", ".", ". ", "not the ", "not the answer is A. ", "1,000", "1,",
    "'", "-.", "answer is " + " " * 300, "answer: " + "x" * 250, "\ufdfa", "a" * 30 + " ", "\\(", ") ", "option:\n",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_bounded_on_hostile_text(unit):
    text = unit * (MAX_TEXT_CHARS // len(unit)) + "x"
    started = time.process_time()
    extract_choice(text, "ABCD", COLORS)
    extract_open(text)
    assert time.process_time() - started < 2.0  # seconds of CPU; quadratic matching takes tens of them
