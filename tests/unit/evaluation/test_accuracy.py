from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.evaluation.accuracy import (
    NO_ANSWER_TURN,
    Accuracy,
    category_at,
    clustered_stderr,
    compare_answers,
    compare_grounding,
    count_accuracy,
    count_rules,
    cycle_mean,
    macro_mean,
    overall,
    split_records,
    weighted_mean,
)
from hart_studio.evaluation.statistics import estimate_difference, resamples_of
from hart_studio.records import Score
from tests.unit.evaluation.questions import FAR_GOLD, ON, answer_result, eight_questions, question


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


def test_differences_are_over_common_scored_questions() -> None:
    better = [question(name, answer_result(1.0), None, (ON,)) for name in "bdfz"]
    found = compare_answers(better, eight_questions(), "crops_only")
    assert found is not None
    assert found.questions == 2  # b and d; f is unscored on the other side, z is not there
    assert found.gain.value == pytest.approx(0.5)
    boxes = compare_grounding(better, eight_questions())
    assert boxes is not None
    assert (boxes.questions, boxes.gain.value) == (3, pytest.approx(2 / 3))
    assert compare_answers(better, [], "crops_only") is None


@pytest.mark.parametrize(
    "changes", [{"question": "Another?"}, {"choices": ("red", "green")}, {"gold_boxes": (FAR_GOLD,)}], ids=str
)
def test_another_question_of_the_same_id_is_no_pair(changes: dict[str, object]) -> None:
    first = [question("a", answer_result(1.0), None, (ON,)), question("b", answer_result(1.0), None, (ON,))]
    second = [question("a", answer_result(1.0), None, (ON,)), question("b", answer_result(0.0), None, (), **changes)]
    found = compare_answers(first, second, "crops_only")
    assert found is not None
    assert (found.gain.value, found.questions, found.others) == (0.0, 1, 1)
    boxes = compare_grounding(first, second)
    assert boxes is not None and (boxes.gain.value, boxes.questions, boxes.others) == (0.0, 1, 1)
    assert compare_answers(first[1:], second[1:], "crops_only") is None


def test_repeated_questions_are_drawn_together() -> None:
    # Two questions in four cycles each: one is always gained, the other never, so a draw gains all, half or nothing.
    kinds = {"first": (1.0, 0.0), "second": (1.0, 1.0)}
    first, second = (
        [
            question(f"{kind} {cycle}", answer_result(values[side]), None, (), question=kind, image=f"{kind}.png")
            for kind, values in kinds.items()
            for cycle in range(4)
        ]
        for side in (0, 1)
    )
    found = compare_answers(first, second, "crops_only")
    assert found is not None
    assert (found.gain, found.questions, found.others) == ((0.5, 0.0, 1.0), 8, 0)
    # The same question on other images is another one: eight units, whose interval is narrower.
    apart = [
        [each.model_copy(update={"image": f"{each.sample_id}.png"}) for each in records] for records in (first, second)
    ]
    alone = compare_answers(*apart, "crops_only")
    assert alone is not None
    plain = estimate_difference(np.ones(8), np.array([0.0] * 4 + [1.0] * 4), resamples_of(8))
    assert alone.gain == pytest.approx(plain) and plain.low > 0.0 and plain.high < 1.0
