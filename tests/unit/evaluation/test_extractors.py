"""The benchmarks' own extractors, and their differences from the strict one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import InputError
from hart_studio.evaluation.extractors import EXTRACTORS, score_with_official_extractor
from hart_studio.extraction import MAX_TEXT_CHARS
from hart_studio.records import Sample
from hart_studio.scoring import score_answer

CHOICES = ("red", "a dog", "blue", "three")
CHOICE = Sample(id="1", image="a.png", question="Which?", choices=CHOICES, answer="C")
FIVE = Sample(id="1", image="a.png", question="Which?", choices=(*CHOICES, "none of them"), answer="C")
OPEN = Sample(id="1", image="a.png", question="What?", answer="The Two Dogs")


def read(name: str, text: str, sample: Sample) -> tuple[str | None, str]:
    score = score_with_official_extractor(name, text, sample)
    assert score is not None
    return score.extracted, score.rule.removeprefix(f"{name}:")


# (text, letter, rule)
MME = [
    ("C", "C", "first_letter"),
    ("(C) blue", "C", "first_letter"),
    ("The best answer is: C", "C", "first_letter"),
    ("The best option is D.", "D", "first_letter"),
    ("Best answer: C", "C", "first_letter"),  # the opening is taken off, or its B would be read
    ("Based on the sign, the answer is (C)", "B", "first_letter"),  # the known trap
    ("Reading At the sign, (C)", "A", "first_letter"),
    ("E", "E", "first_letter"),
    ("F", "E", "part_of_option"),  # the f of "none of them"
    ("X", None, "none"),
    ("blue", "C", "part_of_option"),
    ("dog", "B", "part_of_option"),
    ("c", "C", "part_of_option"),  # a part of "(c) blue"; of "(b) a dog" it is none
    ("The answer is blue", "C", "part_of_option"),
    ("green", None, "none"),
    ("", None, "none"),
    ("The answer is", None, "none"),
    ("it is hard to say which of these is the right one here", None, "none"),  # more than ten words
]
TREEBENCH = [
    ("C", "C", "whole"),
    (" C\n", "C", "whole"),
    ("c", None, "none"),  # capitals are made in the tag only
    ("<think>B</think><answer>c</answer>", "C", "answer_tag"),
    ("<answer> C </answer>", "C", "answer_tag"),
    ("<answer>A</answer> or <answer>C</answer>", "A", "answer_tag"),  # the first counts
    ("<answer>C. blue</answer>", None, "none"),
    ("<answer>C", None, "none"),
    ("The answer is C", None, "none"),
    ("<answer>E</answer>", None, "none"),
    ("", None, "none"),
]
VSTAR = [
    ("C", "C", "start"),
    ("c. blue", "C", "start"),
    ("Because the answer is C", "B", "start"),  # the known trap
    ("the answer is C", "C", "statement"),
    ("My choice: (C)", "C", "bracket"),
    ("it is (d), or is it", "D", "bracket"),
    ("it must be C.", "C", "mark"),
    ("it must be C here", "C", "alone"),
    ("It is a dog", "A", "alone"),  # an article
    ("<think>A</think> C", "C", "start"),
    ("Zinc", "C", "only_letter"),
    ("green", None, "none"),
    ("", None, "none"),
]
HR_BENCH = [
    ("C", "C", "token"),
    ("(C) blue", "C", "token"),
    ("A is wrong. The option, I think, must be: **C**.", None, "none"),  # two letters, and no "answer is"
    ("I think that it must be: **C**.", "C", "token"),
    ("C is what one sees when one views the image", None, "none"),  # the letter is not near the end
    ("A or C", None, "none"),  # two letters
    ("A is wrong, so the correct answer is **C**", "C", "statement"),
    ("Not A, not B: it is blue", "C", "option"),
    ("it is blue", "C", "option"),
    ("red or blue", None, "none"),  # two options
    ("the answer is unknown", None, "none"),
    ("", None, "none"),
]
MMSTAR = [
    ("C", "C", "first_letter"),
    ("c: blue", "C", "first_letter"),
    ("Car", "C", "first_letter"),  # whatever begins with it
    ("Based on the sign, C", "B", "first_letter"),
    ("(C) blue", "C", "bracket"),
    ("Option C", "C", "option"),
    ("The answer is C.", "C", "statement"),
    ("The answer is: C.", None, "none"),
    ("It is C", None, "none"),
    ("", None, "none"),
]
TABLES = {"treebench": TREEBENCH, "vstar": VSTAR, "hr_bench": HR_BENCH, "mmstar": MMSTAR}


@pytest.mark.parametrize(("text", "letter", "rule"), MME)
def test_mme_realworld(text: str, letter: str | None, rule: str) -> None:
    assert read("mme_realworld", text, FIVE) == (letter, rule)


@pytest.mark.parametrize(
    ("name", "text", "letter", "rule"), [(name, *row) for name, rows in TABLES.items() for row in rows]
)
def test_the_other_benchmarks_with_options(name: str, text: str, letter: str | None, rule: str) -> None:
    assert read(name, text, CHOICE) == (letter, rule)


@pytest.mark.parametrize(
    ("text", "found", "rule"),
    [
        ("two dogs.", "2 dogs", "exact"),
        ("The 2 Dogs!", "2 dogs", "exact"),
        ("I can see two dogs on the grass", "2 dogs", "contains"),
        ("twenty-two dogsleds", None, "none"),  # whole words only
        ("dogs two", None, "none"),
        ("", None, "none"),
    ],
)
def test_visual_cot_compares_words(text: str, found: str | None, rule: str) -> None:
    assert read("visual_cot", text, OPEN) == (found, rule)


def test_what_is_read_is_compared_with_the_answer() -> None:
    for text, value in (("C", 1.0), ("A", 0.0), ("nothing to be read", 0.0)):
        score = score_with_official_extractor("treebench", text, CHOICE)
        assert score is not None and (score.value, score.expected) == (value, "C")


@pytest.mark.parametrize("name", list(EXTRACTORS))
def test_an_unknown_answer_is_not_scored(name: str) -> None:
    sample = OPEN if name == "visual_cot" else FIVE
    score = score_with_official_extractor(name, "C", sample.model_copy(update={"answer": None}))
    assert score is not None and (score.value, score.expected) == (None, None)
    assert score.rule.startswith(f"{name}:")


def test_the_strict_extractor_does_not_guess() -> None:
    text = "Based on the sign one cannot say"
    score = score_with_official_extractor("mme_realworld", text, FIVE)
    assert score is not None and score.extracted == "B"
    assert score_answer(text, FIVE.choices, "C").extracted is None


def test_a_benchmark_without_an_extractor() -> None:
    assert score_with_official_extractor("", "C", CHOICE) is None
    with pytest.raises(InputError, match=r"Unknown extractor 'needle'. Choose one of: mme_realworld"):
        score_with_official_extractor("needle", "C", CHOICE)


TEXTS = st.text(max_size=80) | st.text(alphabet="ABCDEabc()<>/answerthinkis.*: \n\ud800", max_size=80)


@pytest.mark.parametrize("name", list(EXTRACTORS))
@pytest.mark.parametrize("sample", [CHOICE, FIVE, OPEN], ids=["four", "five", "open"])
@given(text=TEXTS)
def test_no_text_raises(name: str, sample: Sample, text: str) -> None:
    score = score_with_official_extractor(name, text, sample)
    assert score is not None and score.value in (0.0, 1.0)
    assert (score.extracted is None) == (score.rule == f"{name}:none")
    assert score.value == 0.0 or score.extracted is not None
    score.model_dump_json()


@pytest.mark.parametrize("name", list(EXTRACTORS))
@pytest.mark.parametrize(
    "unit", ["<answer>", "<think>", "answer is ", "(", "A", "a ", "*", " ", "answer is" + " " * 99]
)
def test_time_is_bounded(name: str, unit: str) -> None:
    text = unit * (5 * MAX_TEXT_CHARS // len(unit)) + "x"
    started = time.process_time()
    score_with_official_extractor(name, text, OPEN if name == "visual_cot" else FIVE)
    assert time.process_time() - started < 2.0
