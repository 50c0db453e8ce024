from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.evaluation.accuracy import (
    NO_ANSWER_TURN,
    Accuracy,
    category_at,
    clustered_stderr,
    count_accuracy,
    count_rules,
    cycle_mean,
    has_official,
    macro_mean,
    overall,
    split_records,
    weighted_mean,
)
from hart_studio.records import Score
from tests.unit.evaluation.questions import answer_result, eight_questions, question


def test_unscored_questions_are_counted_and_never_wrong() -> None:
    found = count_accuracy(eight_questions(), "crops_only")
    assert found == Accuracy(right=3.0, scored=6, unscored=2, fallbacks=0)  # f has no score, h did not run
    assert found.share == 0.5
    assert found.stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 6))
    direct = count_accuracy(eight_questions(), "direct")
    assert (direct.right, direct.scored, direct.unscored) == (5.0, 7, 1)
    official = count_accuracy(eight_questions(), "crops_only", "official")
    assert (official.right, official.scored, official.unscored) == (3.0, 6, 2)
    nothing = count_accuracy(eight_questions(), "full_and_crops")
    assert (nothing.share, nothing.stderr, nothing.unscored) == (None, None, 8)


def test_answers_from_the_full_image_are_counted() -> None:
    fallback = question("x", answer_result(1.0, used_fallback=True), None, ())
    assert count_accuracy([fallback], "crops_only").fallbacks == 1


def test_rules_that_fired() -> None:
    assert count_rules(eight_questions(), "crops_only") == {"boxed": 3, "none": 3}
    assert count_rules(eight_questions(), "crops_only", "official") == {"mme:first_letter": 6}
    assert has_official(eight_questions(), "crops_only") and not has_official(eight_questions(), "full_and_crops")


def test_rules_are_over_answers_that_both_extractors_could_score() -> None:
    unread = Score(value=None, extracted="A", expected=None, rule="mme:first_letter")
    silent = Score(value=0.0, extracted=None, expected="A", rule=NO_ANSWER_TURN)
    records = [
        question("read", answer_result(1.0, 1.0), None, ()),
        question("unknown to the strict one", answer_result(None, 1.0), None, ()),
        question(
            "unknown to the official one",
            answer_result(1.0, official=None).model_copy(update={"official": unread}),
            None,
            (),
        ),
        question("failed", answer_result(0.0, 0.0, outcome="error"), None, ()),
        question("not run", answer_result(0.0, 0.0), None, (), error="the image is cut short"),
        question("no box", answer_result(0.0, 0.0, outcome="no_box", text="", score=silent), None, ()),
        question("empty answer", answer_result(0.0, 0.0, text=""), None, ()),
    ]
    assert count_rules(records, "crops_only") == {"boxed": 1, NO_ANSWER_TURN: 1, "none": 1}
    assert count_rules(records, "crops_only", "official") == {"mme:first_letter": 2, NO_ANSWER_TURN: 1}


def test_means_over_parts() -> None:
    parts = split_records(eight_questions(), lambda record: category_at(record, 2))
    found = [count_accuracy(part, "crops_only") for part in parts.values()]
    assert list(parts) == ["Perception/Attributes", "Perception/OCR", "Reasoning/Ordering"]
    assert [part.share for part in found] == [0.5, 1.0, 0.0]  # 2 of 4, 1 of 1, 0 of 1
    assert overall(found) == pytest.approx(3 / 6)
    assert macro_mean(found) == pytest.approx(0.5)
    assert weighted_mean([(30.0, 1), (60.0, 2)]) == pytest.approx(50.0)
    assert weighted_mean([]) is None and macro_mean([]) is None


def hr_question(number: int, cycle: int, right: bool) -> object:
    return question(
        f"{number}-{cycle}",
        answer_result(float(right)),
        None,
        (),
        category=f"single/cycle {cycle}",
        question=f"q{number}",
    )


def test_the_mean_over_cycles_by_hand() -> None:
    # Cycle 0: 1 of 1; cycle 1: 1 of 3. Mean of the cycles 2/3, share of all answers 1/2.
    records = [hr_question(1, 0, True), hr_question(1, 1, True), hr_question(2, 1, False), hr_question(3, 1, False)]
    assert cycle_mean(records, "crops_only") == pytest.approx(2 / 3)  # type: ignore[arg-type]
    assert cycle_mean([], "crops_only") is None


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_over_whole_cycles_the_mean_is_the_share_of_all_answers(rights: list[list[bool]]) -> None:
    records = [hr_question(n, cycle, right) for n, row in enumerate(rights) for cycle, right in enumerate(row)]
    share = sum(map(sum, rights)) / (4 * len(rights))
    assert cycle_mean(records, "crops_only") == pytest.approx(share)  # type: ignore[arg-type]


def test_the_error_of_repeated_questions_is_over_questions() -> None:
    # Means of the questions: 1 and 0. Their deviation is sqrt(1/2), over the root of two questions 1/2.
    records = [hr_question(n, cycle, n == 1) for n in (1, 2) for cycle in range(4)]
    assert clustered_stderr(records, "crops_only") == pytest.approx(0.5)  # type: ignore[arg-type]
    assert clustered_stderr(records[:4], "crops_only") is None  # type: ignore[arg-type]
    assert clustered_stderr(records, "crops_only", "official") is None, "no one asked it"  # type: ignore[arg-type]
