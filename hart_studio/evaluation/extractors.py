"""The benchmarks' own extractors, by name: for comparison with published figures, and never for a reward.

Most of them guess: the first capital from A to E in "Based on the sign" is B. Such an answer counts for them and not
for ``scoring``, which judges everything else in the project. Where a published one leaves a text to a judge model, the
answer is not read here and counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hart_studio.errors import InputError
from hart_studio.records import Sample, Score
from hart_studio.scoring import MAX_TEXT_CHARS, NOT_FOUND, Extraction, normalize_text

Extractor = Callable[[str, Sample], Score]
"""Judges a model's text; never raises on any text."""

_MME_PREFIXES: Final = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
_MME_MAX_WORDS: Final = 10
_HR_BENCH_BLANKS: Final = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_HR_BENCH_LAST_TOKENS: Final = 5
_MMSTAR_POSITIONS: Final = {"": "first_letter", "(": "bracket", "option ": "option", "the answer is ": "statement"}


def score_mme_realworld(text: str, sample: Sample) -> Score:
    """MME-RealWorld: without the usual openings, the first capital of an option anywhere, else a part of an option.

    A text of more than ten words without such a capital is not read, and neither is an empty one.
    """
    said = text.strip()
    for prefix in _MME_PREFIXES:
        said = said.replace(prefix, "")
    letters = frozenset(sample.letters)
    if capital := next((character for character in said if character in letters), None):
        return _score(sample, Extraction(capital, "mme_realworld:first_letter"))
    wanted = said.strip().lower()
    if not wanted or len(wanted.split()) > _MME_MAX_WORDS:
        return _score(sample, NOT_FOUND, "mme_realworld")
    options = zip(sample.letters, sample.choices, strict=True)
    held = next((letter for letter, option in options if wanted in f"({letter}) {option}".lower()), None)
    return _score(sample, Extraction(held, "mme_realworld:part_of_option") if held else NOT_FOUND, "mme_realworld")


def score_treebench(text: str, sample: Sample) -> Score:
    """TreeBench: the first ``<answer>`` tag, or the whole text, must be the letter and nothing else."""
    _, tag, rest = text.partition("<answer>")
    inside, end, _ = rest.partition("</answer>")
    has_tag = bool(tag and end)
    said = inside.strip().upper() if has_tag else text.strip()
    if len(said) != 1 or said not in sample.letters:
        return _score(sample, NOT_FOUND, "treebench")
    return _score(sample, Extraction(said, "treebench:answer_tag" if has_tag else "treebench:whole"))


def score_vstar(text: str, sample: Sample) -> Score:
    """V* Bench: in capitals, a letter that begins the text, is stated, stands in brackets, before a mark or alone."""
    if not sample.letters:
        return _score(sample, NOT_FOUND, "vstar")
    said = _without_thinking(text.strip().upper()).strip()
    letter = rf"([{sample.letters}])"
    patterns = {
        "start": rf"\A{letter}",
        "statement": rf"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+{letter}",
        "bracket": rf"\({letter}\)",
        "mark": rf"{letter}\s*[.)\]]",
        "alone": rf"(?:\A|\s){letter}(?:\s|\Z)",
    }
    for detail, pattern in patterns.items():
        if found := re.search(pattern, said):
            return _score(sample, Extraction(found[1], f"vstar:{detail}"))
    known = frozenset(sample.letters)
    letters = [character for character in said if character in known]
    return _score(sample, Extraction(letters[0], "vstar:only_letter") if len(letters) == 1 else NOT_FOUND, "vstar")


def score_hr_bench(text: str, sample: Sample) -> Score:
    """HR-Bench: the only option letter among the words, near the end; a stated one; else the only option in the text.

    The published one asks a judge model for the rest.
    """
    tokens = text.translate(_HR_BENCH_BLANKS).split()
    named = [letter for letter in sample.letters if letter in tokens]
    if len(named) == 1 and tokens.index(named[0]) > len(tokens) - _HR_BENCH_LAST_TOKENS:
        return _score(sample, Extraction(named[0], "hr_bench:token"))
    if sample.letters:
        stated = re.search(rf"(?i:answer\s+is)\s+\**([{sample.letters}])\**(?!\w)", text)
        if stated:
            return _score(sample, Extraction(stated[1], "hr_bench:statement"))
    lowered = text.lower()
    options = zip(sample.letters, sample.choices, strict=True)
    held = [letter for letter, option in options if option.strip().lower() in lowered]
    return _score(sample, Extraction(held[0], "hr_bench:option") if len(held) == 1 else NOT_FOUND, "hr_bench")


def score_mmstar(text: str, sample: Sample) -> Score:
    """MMStar: the letter that begins the text, in any case, or that stands behind a bracket or a fixed opening."""
    said = text.lower().replace("\n", " ").strip()
    for opening, detail in _MMSTAR_POSITIONS.items():
        letter = said[len(opening) : len(opening) + 1].upper() if said.startswith(opening) else ""
        if letter and letter in sample.letters:
            return _score(sample, Extraction(letter, f"mmstar:{detail}"))
    return _score(sample, NOT_FOUND, "mmstar")


def score_visual_cot(text: str, sample: Sample) -> Score:
    """Visual-CoT: the normalized text is the expected one, or holds its words in a row.

    Project default: the published figures come from a GPT judge that gives marks from 0 to 1, which this replaces.
    """
    said = normalize_text(text[-MAX_TEXT_CHARS:].encode(errors="ignore").decode())
    expected = normalize_text(sample.answer or "")
    if expected and said == expected:
        read = Extraction(said, "visual_cot:exact")
    elif expected and f" {expected} " in f" {said} ":
        read = Extraction(expected, "visual_cot:contains")
    else:
        read = NOT_FOUND
    value = None if sample.answer is None else float(read.value is not None)
    rule = read.rule if read.value is not None else "visual_cot:none"
    return Score(value=value, extracted=read.value, expected=sample.answer, rule=rule)


EXTRACTORS: Final[dict[str, Extractor]] = {
    "mme_realworld": score_mme_realworld,
    "treebench": score_treebench,
    "vstar": score_vstar,
    "hr_bench": score_hr_bench,
    "mmstar": score_mmstar,
    "visual_cot": score_visual_cot,
}
"""Name, which is what stands before the colon in ``Score.rule``, -> extractor."""


def score_with_official_extractor(name: str, text: str, sample: Sample) -> Score | None:
    """Judge an answer by a benchmark's own extractor.

    Args:
        name: Key of ``EXTRACTORS``; empty for a benchmark that has none.
        text: Raw output; anything.
        sample: The question.

    Returns:
        The score, its value None when the answer is unknown; None for a benchmark without an extractor.

    Raises:
        InputError: If there is no extractor of that name.
    """
    if not name:
        return None
    if name not in EXTRACTORS:
        raise InputError(f"Unknown extractor {name!r}. Choose one of: {', '.join(EXTRACTORS)}.")
    return EXTRACTORS[name](text, sample)


def _without_thinking(text: str) -> str:
    """The text without what stands between ``<THINK>`` and ``</THINK>``; an open one stays."""
    kept: list[str] = []
    start = 0
    while True:  # by places, not by parts: copying the rest for each tag takes time that grows with the square
        opening = text.find("<THINK>", start)
        closing = text.find("</THINK>", opening) if opening >= 0 else -1
        if closing < 0:
            kept.append(text[start:])
            return "".join(kept)
        kept.append(text[start:opening])
        start = closing + len("</THINK>")


def _score(sample: Sample, read: Extraction, name: str = "") -> Score:
    """The score of a letter; ``name`` is the extractor's, for a text that could not be read."""
    rule = read.rule if read.value is not None else f"{name}:none"
    value = None if sample.answer is None else float(read.value == sample.answer)
    return Score(value=value, extracted=read.value, expected=sample.answer, rule=rule)
