r"""Extract answers from model text: ONE strict extractor for every dataset and for the reward.

A model would learn to exploit a lenient extractor, so nothing is read from prose: the first letter of
"Based on the sign" is not an answer, and neither is an article. Rules; the first one that matches applies:

1. ``boxed``: the last ``\boxed{...}`` that is not empty;
2. ``answer_tag``: the last ``<answer>`` that is not empty, also without its end;
3. ``statement``: the last statement of an answer: "the answer is X", "I choose X", "option X is correct", "答案是X", X
   under a heading such as "Final answer", or a last line of which X is all;
4. ``letter``: the whole text is a letter, as ``C``, ``(c).`` or ``Option C``;
5. ``option``: the whole text is one option, as ``red`` or ``C. red``;
6. ``first_line``: the text begins with a marked letter and then explains it, as ``C. The hat is red.``;
7. ``conclusion``: the text ends with a letter that its last sentence concludes with, as "so it is C", or whose option
   that sentence names, as "a red hat (C)".

Open questions have rules 1 to 3, and ``whole``: a text of at most ten words.

Rules 1 and 2 are explicit: if their content cannot be read, no weaker rule is tried. Of two different answers under one
rule the last counts. What is denied, supposed ("if it is lit, the answer is A") or one of two letters is no answer, and
neither is anything inside a ``<think>`` that is not closed.

``tests/data/answer_replies.jsonl`` holds replies with what they mean; add to it what is read wrongly.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hart_studio.errors import InputError
from hart_studio.spelling import normalize_text, split_spelled

MAX_TEXT_CHARS = 20_000
"""Longer text is cut at the start: answers come last, and the time stays bounded."""
MAX_STATEMENTS = 200
"""Only the last statements of each form are read: the time stays bounded."""
MAX_OPEN_WORDS = 10
"""Longer text without an explicit answer is prose, not an answer."""


class Extraction(NamedTuple):
    """Extracted answer."""

    value: str | None
    """A letter, or normalized text for an open question; None if extraction failed."""
    rule: str
    """The rule that matched; ``none`` if and only if ``value`` is None."""


NOT_FOUND = Extraction(None, "none")
"""Result of a failed extraction."""

# Cleaning -------------------------------------------------------------------------------------------------------------

_THINKING_END = re.compile(r"</think(?:ing)?>")
_THINKING_START = re.compile(r"<think(?:ing)?>")
_LATEX_STYLE = re.compile(r"\\(?:text|math)(?:bf|it|rm|sf|tt)?\s?\{([^{}]{0,200})\}")
_LATEX_ESCAPE = re.compile(r"\\([()\[\]%$&#_])")
_HEADING_MARK = re.compile(r"(?<![^\n])[#>]{1,6} ?")

# Explicit answers -----------------------------------------------------------------------------------------------------

_BOXED = re.compile(r"\bboxed ?\{((?:(?!\bboxed)[^{}]|\{[^{}]*\})*)\}")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(?:</answer|\Z)", re.IGNORECASE | re.DOTALL)

# Statements with the answer after them --------------------------------------------------------------------------------

_QUALITY = r"(?:final|correct|best|right)"
_NOUN = r"(?:option|choice|description|statement|response|selection|pick|guess|letter|one)"
_ADVERBS = (
    r"(?:,?\s(?:therefore|thus|hence|then|so|most\slikely|likely|indeed|again|also|now|here"
    r"|(?!unlikely|hardly|possibly|barely|supposedly|scarcely)\w{3,20}ly),?){0,3}"
)
_STATEMENT = re.compile(
    rf"""
    (?: \b (?: answer (?:\s(?:option|choice))? ["']? (?:\s(?:to|for)(?:\s\w{{1,30}}){{1,6}}?)?
                (?:\s(?:that\s)?(?:I|we)(?:\s\w{{1,30}}){{1,3}}?)? (?:,[^,.;:\n]{{1,60}},)?
             | (?:{_QUALITY}|my|the) \s {_NOUN} (?:\s(?:that|which)\s(?:is\s)?(?:{_QUALITY}|fits|matches))?
             | (?: (?<![^\n]) | (?<=[.!?]\s) ) (?:option|choice|conclusion|correction|verdict|ans\.?) )
        {_ADVERBS} \s?
        (?: \b (?: is | (?:would|should|must|has\sto) {_ADVERBS} \sbe )\b {_ADVERBS}
          | [:=] | (?<=answer)\s?(?:[-–—]>?|→)(?=\s) | (?<=ans\.) )
      | \b (?:I|we)
        (?: ['’](?:d|ll|m|re) | \s(?:would|will|must|shall|am|therefore|thus|hence|have\sto|going\sto) ){{0,3}} \s
        (?: choos(?:e|ing) | select(?:ing)? | pick(?:ing)? | answer | say | go(?:ing)?\s(?:for|with) | opt\sfor
          | conclude\sthat\sit\sis )
      | (?<![^\n]) (?:\d[.)]\s)? (?:the\s)? (?:(?:{_QUALITY}|my)\s)? (?:answer|choice|conclusion) \s?:? (?=\n)
    )
    [\s:=]{{0,3}}
    (?: (?:the\s)? (?:{_QUALITY}\s)? (?:option|choice|letter|answer)\b
        (?!\s(?:is|would|should|must|to|for)\b) [\s:]{{0,3}} )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CHINESE_STATEMENT = re.compile(
    r"(?:答案|选项|结论)(?:应该|应当|应|就)?(?:是|为|选择|选|:|：)[\s:：]{0,2}(?:选项)?"
    r"|(?:故|应该|应|我|本题|因此|所以|只能|必须)?(?<!不)(?<!不应该)(?<!不能)(?<!可)选(?:择|项)?(?:是|为|:|：)?\s?(?:选项)?"
    r"|而是\s?(?:选项)?"
)
_DENIAL = re.compile(
    r"(?:\b(?:not|never|cannot|no|nor|neither|wrong|incorrect|false|worst|bad|another|other|alternative|possible|if"
    r"|whether|suppose|supposing|assume|assuming|unless|doubt|unlikely|mistaken|nobody|no one|hardly)|n['’]t)"
    r"(?: (?:would|could|can|think|believe|say|said|sure|certain|to|that|the|my|a|your|option|choice"
    rf"|{_QUALITY}))* ?\Z",
    re.IGNORECASE,
)
"""Text right before a statement that makes it a denial or a supposition."""
_CONDITION = re.compile(
    r"(?:\b(?:if|unless|assuming|suppose|supposing|provided|in (?:the )?case)\b"
    r"(?!\s(?:you|we|i|one)\s(?:look|zoom|examine|inspect|read)\b)"
    r"|(?<![^\s])(?:should|were)\s(?:the|it|this|that|there|they|he|she)\b(?=[^.!?\n]{0,200},)"
    r"|(?:^|[,;:]\s?)when(?:ever)?\s(?!(?:zoom|look|count|examin|inspect|read|enlarg|view|compar|i\b|we\b|you\b|one\b))"
    r"|如果|假如|若|要是|假设|除非)",
    re.IGNORECASE,
)
"""What makes the rest of a sentence a supposition."""
_LATER_CONDITION = re.compile(r",?\s(?:only\s)?(?:if|when|unless|provided|assuming)\b", re.IGNORECASE)
_CONSEQUENCE = re.compile(r"\s?(?:then|in that case|那么)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|never|no|neither|nor|cannot|exclude|excluded|eliminate|eliminated)\b|n['’]t\b", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?=[\s\"')\]]|\Z)|[\n。！？；]")
_RETRACTION = re.compile(
    r"\b(?:wait|hmm+|hold on|scratch that|on second thought|let me (?:re|check again))", re.IGNORECASE
)
_REST_OF_STATEMENT = re.compile(
    r"(.{0,200}?)(?=[!;\n。！；]|\Z|\.[\"')\]}]{0,3}(?: [A-Z(]| ?\Z|\n)|,? (?i:because|since)\b)"
)

_OPENING = r"[\"'“‘(\[{<$]"
_CLOSING = r"[\"'”’)\]}>$]"
_CHINESE = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
_STATED_LETTER = re.compile(rf"(?:{_OPENING}\s?){{0,3}}([A-Za-z])")
_LETTER_END = re.compile(
    rf"""
    \s?\Z | \s?\n | \s?{_CLOSING}(?!\w|\s?\?) | \s?[,;:!](?!\d) | \.(?!\d|[^\W\d_](?!\w)) | \s[-–—]\s | \s?{_CHINESE}
    | \s(?:because|since|as|for|due|based|which|where|given|so|in|from|with|according|here)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Text that may follow a stated letter. Any other word would make an article of "a": "The answer is a dog"."""
_COMPETING_LETTER = re.compile(
    rf"""
    {_CLOSING}{{0,3}} (?: \s?[,/&](?:\s?(?:or|and)\b)? | \s(?:or|and)\b | \s?[和或与、] | (?=\s?[(\[]) ) \s?
    {_OPENING}? ([A-Z](?![\w'’]) | [a-z](?=[.,;:!)\]/\n]|\Z))
    """,
    re.VERBOSE,
)
_BUT = re.compile(rf"\bnot\s(?:option\s)?{_OPENING}?[A-Z]{_CLOSING}?,?\sbut\s(?:rather\s)?(?:option\s)?", re.IGNORECASE)
"""The denied letter of "the answer is not A but D"."""

# Statements with the answer before them -------------------------------------------------------------------------------

_CONFIRMATION = re.compile(
    rf"""
    (?: \b (?P<named>(?i:option|choice)) \s {_OPENING}? (?P<letter>[A-Z]) {_CLOSING}?
      | (?: (?<![^\n]) | (?<=[.!?:;,]\s) | (?<=\b[Ss]o\s) | (?<=\b[Tt]hus\s) | (?<=\b[Hh]ence\s) | (?<=\b[Tt]herefore\s)
          | (?<=\bthat\s) | (?<=\bbelieve\s) | (?<=\bthink\s) | (?<=\b[Oo]nly\s) | (?<=\bmakes\s) )
        {_OPENING}? (?P<bare>[A-Z]) {_CLOSING}? )
    (?: \s (?: (?: is | (?:would|must|should)\sbe )
              (?:\s(?:indeed|clearly|definitely|therefore|thus|the|most|likely)){{0,3}} | the )
        \s (?: correct | right | best | accurate | appropriate | answer | true ) \b (?!\s(?:that|side|of|hand|corner))
      | \s (?: best\s | clearly\s | exactly\s )? (?: matches | fits | describes | corresponds )
        (?= \s(?:the|what|best|this|it|with|here)\b | [.,;!\n] | \s?\Z )
    )
    """,
    re.VERBOSE,
)
_CHINESE_CONFIRMATION = re.compile(r"(?:选项\s?([A-Z])|(?<![A-Za-z])([A-Z])\s?选?项?)\s?(?:是|为)?(?:正确|对的|符合)")
_MATCH = re.compile(
    rf"""
    \b (?: match(?:es)? | fits?(?:\sis)? | corresponds? | describe[sd] | represented | points? | leads? | leaves
         | makes | suggests? )
    (?: \s(?:to|by|with|only|us|best) ){{0,2}} \s (?:the\s)? (?:option|choice|answer) \s {_OPENING}? ([A-Z]) (?![\w'’-])
    """,
    re.VERBOSE,
)

# Whole texts and lines ------------------------------------------------------------------------------------------------

_SOLE_LETTER = re.compile(
    rf"(?:(?:option|choice|answer|letter)\b)?[\s:]*(?:{_OPENING}\s*)*([A-Z])(?:[\s.,:;!。]|{_CLOSING})*", re.IGNORECASE
)
_MARKED_OPTION = re.compile(rf"(?:{_OPENING}\s?)*([A-Z])\s?[.:)\]}}]+\s?(\S.*)", re.IGNORECASE | re.DOTALL)
_OPTION_MARK = re.compile(r"\b[A-Z][.:)\]]")
_LEAD = re.compile(
    rf"""
    (?P<word> (?i:option|choice|answer)\b [\s:]? )? {_OPENING}? (?P<letter>[A-Z])
    (?: \s?[.:)\]}}]+ (?=\s|\Z) | \s[-–—]\s | \n
      | ,\s(?=because|since|as\b|not\b|the\b|it\b|there\b|[a-z]+\s(?:is|are)\b)
      | (?(word) ,\s | (?!) ) )
    """,
    re.VERBOSE,
)
_LIST_LINE = re.compile(rf"(?<![^\n])(?:[-•]\s)?{_OPENING}?(?:[Oo]ption\s)?([A-Z])\s?[.:)\]]")
_FINAL_LETTER = re.compile(
    rf"""
    (?P<conclusion> (?: \b(?:so|hence|thus|therefore|consequently|accordingly)\b | [-=]> | → ) \s?,?\s?
        (?: (?:it|this|that) (?: \s(?:is|must\sbe|should\sbe|has\sto\sbe) | ['’]s ) \s )? (?:the\s)?
      | \b (?:it|this|that|which) (?: \s(?:is|must\sbe|should\sbe|has\sto\sbe) | ['’]s ) \s
        (?=option|choice|[A-Z]\W{{0,3}}\Z) )?
    (?: (?P<mark>[(\[–—-]|[,:;]\s?) \s? )? (?P<word> (?:option|choice|answer)\s )? {_OPENING}?
    (?<![\w'’]) (?P<letter>[A-Z]) {_CLOSING}{{0,2}} \s? [.!]? [\"')\]]? \s? \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MARKED_IN_SENTENCE = re.compile(r"\b(?:is|are|shows|says|reads)\s([A-Z])[.:)]\s?(\S[^\n]*)\Z")


def extract_choice(text: str, letters: str, choices: Sequence[str] = ()) -> Extraction:
    """Extract the chosen letter.

    Args:
        text: Raw model text; only the last ``MAX_TEXT_CHARS`` characters are read, without the text before a
            closing ``</think>``.
        letters: Option letters of the question, such as ``"ABCD"``; no other letter is an answer.
        choices: Option texts in the order of ``letters``. Without them, rule ``option`` accepts ``C. some words`` by
            form only.

    Returns:
        A letter of ``letters`` and the rule, or ``NOT_FOUND``. Never raises on any ``text``.

    Raises:
        InputError: If ``letters`` is empty or not in capitals.
    """
    if not (letters.isascii() and letters.isalpha() and letters.isupper()):
        raise InputError(f"expected option letters such as 'ABCD', got {letters!r}; give one capital letter per option")
    text = _cleaned(text)
    contents, rule = _explicit_contents(text)
    if contents:
        letter = _read_explicit(contents[-1], letters, choices)
        return Extraction(letter, rule) if letter else NOT_FOUND
    stated = sorted(_statements(text, letters, choices), key=lambda found: found[0])
    if stated:
        end, letter = stated[-1]
        return Extraction(letter, "statement") if letter and not _RETRACTION.search(text, end) else NOT_FOUND
    if letter := _sole_letter(text, letters):
        return Extraction(letter, "letter")
    if letter := _named_option(text, letters, choices, may_differ=not choices):
        return Extraction(letter, "option")
    if letter := _first_line(text, letters, choices):
        return Extraction(letter, "first_line")
    letter = _conclusion(text, letters, choices)
    return Extraction(letter, "conclusion") if letter else NOT_FOUND


def extract_open(text: str) -> Extraction:
    """Extract the answer to an open question.

    Args:
        text: Raw model text, read within the same limits as in ``extract_choice``.

    Returns:
        Normalized text under rule ``boxed``, ``answer_tag``, ``statement`` or ``whole`` (a text of at most
        ``MAX_OPEN_WORDS`` words), or ``NOT_FOUND``.
    """
    text = _cleaned(text)
    contents, rule = _explicit_contents(text)
    if contents:
        stated = list(_stated_texts(contents[-1]))
        return _open_extraction(stated[-1] if stated else contents[-1], rule)
    stated = list(_stated_texts(text))
    if stated:
        return _open_extraction(stated[-1], "statement")
    is_short = len(text.split()) <= MAX_OPEN_WORDS and not _CONDITION.search(text)
    return _open_extraction(text, "whole") if is_short else NOT_FOUND


def _cleaned(text: str) -> str:
    """End of the text after the reasoning, without Markdown and LaTeX markup; single spaces and newlines."""
    end = unicodedata.normalize("NFKC", text[-MAX_TEXT_CHARS:])[-MAX_TEXT_CHARS:]
    end = _THINKING_START.split(_THINKING_END.split(end)[-1], maxsplit=1)[0]
    end = end.encode(errors="ignore").decode()  # a lone surrogate cannot be stored
    plain = _LATEX_STYLE.sub(r"\1", _LATEX_STYLE.sub(r"\1", end.replace("*", "").replace("`", "")))  # two levels
    plain = _LATEX_ESCAPE.sub(r"\1", plain)
    lines = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", plain)).strip()
    return _HEADING_MARK.sub("", lines)


def _explicit_contents(text: str) -> tuple[list[str], str]:
    """Contents of the strongest explicit rule that matches, in order, and the name of the rule."""
    for pattern, rule in ((_BOXED, "boxed"), (_ANSWER_TAG, "answer_tag")):
        contents = [content.strip() for content in pattern.findall(text) if content.strip()]
        if contents:
            return contents, rule
    return [], "none"


def _read_explicit(content: str, letters: str, choices: Sequence[str]) -> str | None:
    read = _sole_letter(content, letters) or _named_option(content, letters, choices, may_differ=True)
    return read or next(reversed([letter for _, letter in _stated_options(content, letters, choices)]), None)


def _statement_ends(text: str) -> Iterator[int]:
    """Positions right after each "the answer is" that is neither denied nor supposed."""
    for statement in _last_matches(_STATEMENT, text):
        denied = _BUT.match(text, statement.end())
        if not _is_denied(text, statement.start()):
            yield denied.end() if denied else statement.end()
    yield from (denied.end() for denied in _last_matches(_BUT, text))
    for statement in _last_matches(_CHINESE_STATEMENT, text):
        if not _is_denied(text, statement.start()):
            yield statement.end()


def _last_matches(pattern: re.Pattern[str], text: str) -> Iterable[re.Match[str]]:
    return deque(pattern.finditer(text), maxlen=MAX_STATEMENTS)


def _is_denied(text: str, start: int) -> bool:
    """Whether a statement that starts there is denied, or supposed by its sentence."""
    before = text[max(0, start - 300) : start]
    *earlier, sentence = _SENTENCE_END.split(before)
    if earlier and _CONSEQUENCE.match(f"{sentence}{text[start : start + 9]}"):
        sentence = f"{earlier[-1]} {sentence}"
    return _DENIAL.search(before[-80:]) is not None or _CONDITION.search(sentence) is not None


def _statements(text: str, letters: str, choices: Sequence[str]) -> Iterator[tuple[int, str | None]]:
    """All statements: where each ends, and its letter, None for one with two letters."""
    yield from _stated_options(text, letters, choices)
    for pattern in (_CONFIRMATION, _CHINESE_CONFIRMATION, _MATCH):
        for match in _last_matches(pattern, text):
            letter = next(group for group in reversed(match.groups()) if group and len(group) == 1)
            is_torn = _COMPETING_LETTER.match(text, match.end()) or _LATER_CONDITION.match(text, match.end())
            if letter in letters and not is_torn and not _is_denied(text, match.start()):
                yield match.end(), letter
    before, newline, line = text.rpartition("\n")
    listed = _LIST_LINE.match(line)
    if newline and not (listed and _LIST_LINE.match(before.rpartition("\n")[2])):
        letter = _sole_letter(line, letters) or (listed and _named_option(line, letters, choices))
        if letter:
            yield len(text), letter


def _stated_options(text: str, letters: str, choices: Sequence[str]) -> Iterator[tuple[int, str | None]]:
    """End and letter of each statement, None for a statement with two letters; other statements are skipped."""
    for end in _statement_ends(text):
        stated = _STATED_LETTER.match(text, end)
        letter = stated[1].upper() if stated else ""
        if stated and letter in letters:
            competing = _COMPETING_LETTER.match(text, stated.end())
            if competing and competing[1].upper() in letters.replace(letter, ""):
                yield end, None
                continue
            if _LETTER_END.match(text, stated.end()):
                yield end, letter
                continue
        if option := _named_option(_rest_of_statement(text, end), letters, choices):
            yield end, option


def _stated_texts(text: str) -> Iterator[str]:
    """Text of each statement up to the end of its sentence; empty ones are skipped."""
    return (rest for end in _statement_ends(text) if (rest := _rest_of_statement(text, end)).strip())


def _rest_of_statement(text: str, start: int) -> str:
    rest = _REST_OF_STATEMENT.match(text, start)
    return rest[1] if rest else ""


def _first_line(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """The marked letter that a text begins with, unless it begins a list of options or contradicts its words."""
    lead = _LEAD.match(text)
    if not lead or lead["letter"] not in letters or _CONDITION.search(_SENTENCE_END.split(text[:300])[0]):
        return None
    letter = lead["letter"]
    listed = _LIST_LINE.findall(text) + [mark[0] for mark in _OPTION_MARK.findall(text[:-2], lead.end())]
    others = {found for found in listed if found in letters} - {letter}
    competing = _COMPETING_LETTER.match(text, lead.start("letter") + 1)
    if others or (competing and competing[1].upper() in letters.replace(letter, "")) or _RETRACTION.search(text):
        return None
    rest = _REST_OF_STATEMENT.match(text, lead.end())
    named = _option_with_words(rest[1], letters, choices) if rest else None
    return letter if named in (None, letter) else None


def _conclusion(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """The letter that the last sentence ends with, if it is concluded or its option is named in that sentence."""
    sentences = [part for part in re.split(r"(?<=[.!?])(?<!i\.e\.)(?<!e\.g\.)\s|\n", text) if part.strip()]
    last = sentences[-1][-400:] if sentences else ""
    if _CONDITION.search(last):
        return None
    marked = _MARKED_IN_SENTENCE.search(text[-400:])
    if marked and marked[1] in letters and _option_with_words(marked[2], letters, choices) == marked[1]:
        return marked[1]
    final = next((found for found in _final_letters(last) if found["letter"].isupper()), None)
    if not final or final["letter"] not in letters or _DENIAL.search(last[: final.start()]):
        return None
    said = last[: final.start("letter")]
    if re.search(rf"\b[{letters}]\b(?:\s(?:or|and)|\s?[/,&])\s?(?:\w+\s)?{_OPENING}?\Z", said):
        return None
    if final["conclusion"]:
        return final["letter"]
    if _NEGATION.search(said):
        return None
    words = f" {normalize_text(said)} "
    named = [letter for letter, choice in zip(letters, choices, strict=False) if f" {normalize_text(choice)} " in words]
    return final["letter"] if named == [final["letter"]] and (final["mark"] or final["word"]) else None


def _final_letters(sentence: str) -> Iterator[re.Match[str]]:
    """Ways to read the last letter of a sentence, the longest first."""
    start = max(0, len(sentence) - 60)
    for place in range(start, len(sentence)):
        if found := _FINAL_LETTER.match(sentence, place):
            yield found


def _sole_letter(text: str, letters: str) -> str | None:
    """The letter, if the text contains nothing else."""
    sole = _SOLE_LETTER.fullmatch(text)
    return sole[1].upper() if sole and sole[1].upper() in letters else None


def _named_option(text: str, letters: str, choices: Sequence[str], *, may_differ: bool = False) -> str | None:
    """Letter of the only option that a text spells out: ``red``, ``C. red`` or ``C red``.

    Args:
        text: A complete answer.
        letters: The option letters.
        choices: Their texts.
        may_differ: Whether ``C. a few words`` is C if the words match no option. Words of another option never match.
    """
    spelled = split_spelled(text)
    exact = [
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if spelled in (split_spelled(choice), split_spelled(f"{letter}. {choice}"))
    ]
    if len(exact) == 1:
        return exact[0]
    marked = _MARKED_OPTION.fullmatch(text)
    if not marked or marked[1].upper() not in letters:
        return _option_with_words(text, letters, choices)
    letter, words = marked[1].upper(), marked[2]
    matched = _option_with_words(words, letters, choices)
    if matched is None and may_differ and len(words.split()) <= MAX_OPEN_WORDS and not _OPTION_MARK.search(words):
        return letter
    return letter if matched == letter else None


def _option_with_words(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """The letter of the only option whose normalized text equals that of ``text``."""
    wanted = normalize_text(text)
    hits = [letter for letter, choice in zip(letters, choices, strict=False) if normalize_text(choice) == wanted]
    return hits[0] if len(hits) == 1 else None


def _open_extraction(text: str, rule: str) -> Extraction:
    value = normalize_text(text)
    return Extraction(value, rule) if value else NOT_FOUND
