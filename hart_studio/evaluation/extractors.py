"""Answer extractors of the benchmarks, for comparison with published results; never used for rewards.

Most of them guess: the first capital from A to E in "Based on the sign" is B. Such an answer counts for them, but not
for ``scoring``, which the project uses everywhere else. Where the published extractor asks a judge model, the answer
counts as wrong here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hart_studio.errors import InputError
from hart_studio.extraction import MAX_TEXT_CHARS, NOT_FOUND, Extraction
from hart_studio.records import Sample, Score
from hart_studio.spelling import normalize_text

Extractor = Callable[[str, Sample], Score]
"""Scores the text of a model; never raises."""

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
    """MME-RealWorld: strip common openings, then the first option capital anywhere, else part of an option.

    A text of more than ten words without such a capital, and an empty text, are not read.
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
    """TreeBench: the first ``<answer>`` tag, or the whole text, must be exactly the letter."""
    _, tag, rest = text.partition("<answer>")
    inside, end, _ = rest.partition("</answer>")
    has_tag = bool(tag and end)
    said = inside.strip().upper() if has_tag else text.strip()
    if len(said) != 1 or said not in sample.letters:
        return _score(sample, NOT_FOUND, "treebench")
    return _score(sample, Extraction(said, "treebench:answer_tag" if has_tag else "treebench:whole"))


def score_vstar(text: str, sample: Sample) -> Score:
    """V* Bench: a capital letter at the start, stated, in brackets, before punctuation, or alone."""
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
    """HR-Bench: the only option letter near the end, else a stated letter, else the only option in the text.

    The published extractor asks a judge model for the rest.
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
    """MMStar: the first letter of the text, in any case, or the letter after a bracket or a fixed opening."""
    said = text.lower().replace("\n", " ").strip()
    for opening, detail in _MMSTAR_POSITIONS.items():
        letter = said[len(opening) : len(opening) + 1].upper() if said.startswith(opening) else ""
        if letter and letter in sample.letters:
            return _score(sample, Extraction(letter, f"mmstar:{detail}"))
    return _score(sample, NOT_FOUND, "mmstar")


def score_visual_cot(text: str, sample: Sample) -> Score:
    """Visual-CoT: the normalized text equals the expected one, or contains its words in sequence.

    Project default: the published results use a GPT judge with scores from 0 to 1; this extractor replaces it.
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
"""Name, the prefix of ``Score.rule`` -> extractor."""


def score_with_official_extractor(name: str, text: str, sample: Sample) -> Score | None:
    """Score an answer, which may be any text, with a benchmark's own extractor; None without a name of one.

    The value of the score is None if the correct answer is unknown.

    Raises:
        InputError: If the extractor does not exist.
    """
    if not name:
        return None
    if name not in EXTRACTORS:
        raise InputError(f"Unknown extractor {name!r}. Choose one of: {', '.join(EXTRACTORS)}.")
    return EXTRACTORS[name](text, sample)


def _without_thinking(text: str) -> str:
    """Remove text between ``<THINK>`` and ``</THINK>``; an unclosed tag stays."""
    kept: list[str] = []
    start = 0
    while True:  # by index: copying the rest for each tag would take quadratic time
        opening = text.find("<THINK>", start)
        closing = text.find("</THINK>", opening) if opening >= 0 else -1
        if closing < 0:
            kept.append(text[start:])
            return "".join(kept)
        kept.append(text[start:opening])
        start = closing + len("</THINK>")


def _score(sample: Sample, read: Extraction, name: str = "") -> Score:
    """Score of a letter; ``name`` is the extractor, for a text without a letter."""
    rule = read.rule if read.value is not None else f"{name}:none"
    value = None if sample.answer is None else float(read.value == sample.answer)
    return Score(value=value, extracted=read.value, expected=sample.answer, rule=rule)
