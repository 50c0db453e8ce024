"""Replies with what they mean: the strict extractor neither misses nor guesses. The reward depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.extraction import extract_choice, extract_open
from hart_studio.spelling import normalize_text

REPLIES = Path(__file__).resolve().parents[1] / "data" / "answer_replies.jsonl"
"""One reply a line: its text, the option texts (empty for an open question), its meaning (a letter, a text, or null for
no answer), and its style."""
LETTERS = "ABCDEFGH"
MIN_READ = 0.98


def read_replies() -> list[dict[str, Any]]:
    return [json.loads(line) for line in REPLIES.read_text(encoding="utf-8").splitlines()]


def read_as(reply: dict[str, Any], text: str | None = None) -> str | None:
    """What the extractor reads."""
    letters = LETTERS[: len(reply["choices"])]
    said = reply["text"] if text is None else text
    return (extract_choice(said, letters, reply["choices"]) if letters else extract_open(said)).value


def meant(reply: dict[str, Any]) -> str | None:
    meaning = reply["meaning"]
    return meaning if reply["choices"] or meaning is None else normalize_text(meaning)


def test_the_replies_are_many_and_well_formed() -> None:
    replies = read_replies()
    assert len(replies) >= 600
    assert len({(reply["text"], *reply["choices"]) for reply in replies}) == len(replies), "a reply occurs twice"
    for reply in replies:
        assert set(reply) == {"style", "choices", "meaning", "text"}
        if reply["choices"] and reply["meaning"] is not None:
            assert reply["meaning"] in LETTERS[: len(reply["choices"])], reply
    styles = {reply["style"] for reply in replies}
    assert styles >= {
        "qwen",
        "internvl",
        "llava",
        "gpt",
        "gemini",
        "chinese",
        "think",
        "conditional",
        "refusal",
        "denial",
    }


def test_no_reply_is_read_as_what_it_does_not_mean() -> None:
    wrong = [
        (reply["text"], read_as(reply), meant(reply)) for reply in read_replies() if read_as(reply) != meant(reply)
    ]
    assert [each for each in wrong if each[1] is not None] == []


def test_replies_are_read_as_they_are_meant() -> None:
    replies = read_replies()
    missed = [reply["text"] for reply in replies if read_as(reply) is None and meant(reply) is not None]
    assert len(missed) <= (1 - MIN_READ) * len(replies), missed


@pytest.mark.parametrize("opening", ["<think>\n", "Let me think.\n<think>"])
def test_reasoning_that_is_not_closed_holds_no_answer(opening: str) -> None:
    for reply in read_replies():
        if "think" not in reply["text"] and reply["choices"]:
            assert read_as(reply, opening + reply["text"]) is None, reply["text"]


@pytest.mark.parametrize("opening", ["If the crop shows it, ", "It is wrong that ", "I do not think that "])
def test_what_is_supposed_or_denied_is_no_answer(opening: str) -> None:
    statements = [f"{subject} is {letter}." for subject in ("the answer", "the correct option") for letter in "ABCD"]
    for statement in [*statements, *(f"option {letter} is correct." for letter in "ABCD")]:
        assert extract_choice(opening + statement, "ABCD").value is None, opening + statement
        assert extract_choice(statement[0].upper() + statement[1:], "ABCD").value is not None, statement


def test_an_answer_after_any_reply_counts() -> None:
    """The last statement counts, whatever the text before it says."""
    for reply in read_replies():
        if reply["choices"] and "boxed" not in reply["text"] and "<" not in reply["text"]:
            assert read_as(reply, f"{reply['text']}\n\nThe answer is A.") == "A", reply["text"]
