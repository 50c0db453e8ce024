"""No private words: names and sentences use the terms of the field, in American spelling."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = (".py", ".js", ".css", ".html", ".md", ".toml", ".yml")

EXEMPT = (
    "tests/unit/evaluation/test_extractors.py",  # sentences of models
    "tests/contract/test_words.py",
    "docs/LOG.md",  # history: what was found under the names of its day
    "docs/results/evaluation/",  # measured reports, with the questions and file names of the needle data
    "assets/hart-tiny",  # vocabulary of the built-in models
    "assets/examples/",
    "hart_studio/needle/questions.py",  # questions, as the built-in models learned them
    "hart_studio/needle/questions.py",
    "hart_studio/needle/examples.py",
)

EXEMPT_LINES = re.compile(
    r"</?picture>"  # HTML
    r"|\.tell\(|def tell\("  # of a file
    r"|\"picture\": \"\""  # a claim of OpenID Connect
    r"|\"img\", \"picture\""  # name of a column in files of others
    r"|mistaken\|nobody\|no one|\(\?:look\|zoom\||\(\?:zoom\|look\|"  # words in replies of models
    r"|Which picture shows|What colour is|\"colour\""  # questions, as the built-in models learned them
)
"""Lines with words that are not this project's."""

METAPHORS = """
anew desk desks door doors gaze gazed glance glances glanced heap look looks looked looking lent lesson lessons lot
lots lossiness news peek peeks peeked peeking pupil pupils rival rivals room rooms seal seals sealed tally ticket
tickets told tell tells telling somebody nobody anybody everybody whoever whom speak speaks spoken speaking bring
mend mends mended mending picture pictures ours
"""
"""Words that no user of TRL, Gradio, Label Studio or W&B would search for. Part of a name counts as a word."""

BRITISH = """
behaviour behaviours centre centres centred colour colours coloured colouring favour grey greyscale honour labelled
labelling modelling neighbour neighbours neighbouring normalise normalised optimise optimised organise recognise
recognised travelled analyse analysed initialise initialised serialise serialised summarise summarised
"""

OLD_NAMES = """
label_desk ReviewDesk ReviewCalls evaluation_desk launch_desk RunWatch run_watch run_shapes label_outputs
evaluation_outputs PlainFaults LentModel malloc_heap find_rival deal_rows draw_audit noted_signals telling_apart
tell_phase tell_scores let_go find_obstacle _show_something is_discreet TokenDoor turn_item split_items group_items
visitor_desk
"""

PHRASES = (
    r"\(ours\)",
    r"\bat work\b",
    r"\bgo(es|ing)? on\b",
    r"\bwent on\b",
    r"accepted unseen",
    r"number type",
    r"course of the rate",
    r"greatest gradient norm",
    r"questions at a time",
    r"look inside",
    r"find out\b",
    r"nothing waits for you",
    r"what needs you",
    r"what the model (sees first|wrote)",
    r"the region it asked for",
    r"for whom",
    r"\bno use\b",
    r"\bthis house\b",
    r"accept nothing unseen",
    r"groups without a signal",
    r"boxes that can be read",
    r"expected room\b",
)
"""Labels, headings and sentences that have a standard term."""


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return [name for name in listed if name.endswith(SUFFIXES) and not name.startswith(EXEMPT)]


def split_words(line: str) -> str:
    """Separate the parts of names: ``glanceCache`` and ``glance_cache`` both hold the word ``glance``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-.]", " ", line)
    return spaced.lower()


WORDS = re.compile(rf"\b({'|'.join([*METAPHORS.split(), *BRITISH.split()])})\b")
NAMES = re.compile(rf"\b({'|'.join(OLD_NAMES.split())})\b")
SENTENCES = re.compile("|".join(PHRASES), re.IGNORECASE)


def find_banned(text: str) -> Iterator[tuple[int, str]]:
    """Number and banned word of each line that has one."""
    for number, line in enumerate(text.split("\n"), start=1):
        if EXEMPT_LINES.search(line):
            continue
        found = NAMES.search(line) or SENTENCES.search(line) or WORDS.search(split_words(line))
        if found:
            yield number, found[0]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("class LabelDesk:", "desk"),
        ("def _glance_at(self) -> int:", "glance"),
        ('gr.Button("Look inside")', "Look inside"),
        ("self.peekedRows = 1", "peeked"),
        ("a colour of their own", "colour"),
        ("deal_rows(items)", "deal_rows"),
    ],
)
def test_a_banned_word_is_found_in_names_and_sentences(line: str, word: str) -> None:
    assert [found for _, found in find_banned(line)] == [word]


@pytest.mark.parametrize(
    "line", ["a lookup of the outlook", "heapq", "storytelling", "allotted", "a mushroom", "pickets"]
)
def test_parts_of_other_words_are_no_words(line: str) -> None:
    assert not list(find_banned(line))


def test_names_and_sentences_are_the_fields() -> None:
    found = [
        f"{name}:{number}: {word}"
        for name in tracked_files()
        for number, word in find_banned((ROOT / name).read_text("utf-8"))
    ]
    assert not found, f"{len(found)} lines:\n" + "\n".join(found[:200])
