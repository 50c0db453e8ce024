from __future__ import annotations

from hart_studio.evaluation.failures import (
    VERDICTS,
    count_verdicts,
    filter_records,
    get_verdict,
    select_contrast,
    select_failures,
    sort_records,
)
from hart_studio.evaluation.joint import measure_joint
from tests.unit.evaluation.questions import ON, answer_result, eight_questions, evaluation, question


def test_how_every_question_ended() -> None:
    assert {record.sample_id: get_verdict(record, "crops_only") for record in eight_questions()} == {
        "a": "correct answer, correct box",
        "b": "correct answer, wrong or no box",
        "c": "wrong answer, correct box",
        "d": "wrong answer, wrong box",
        "e": "correct answer, wrong or no box",
        "f": "unscored",
        "g": "no valid box",
        "h": "unscored",
    }
    assert get_verdict(question("x", answer_result(1.0), None, (ON,), gold_boxes=()), "crops_only") == "correct answer"
    assert (
        get_verdict(question("x", None, answer_result(0.0), (), has_grounding_turn=False), "direct") == "wrong answer"
    )


def test_endings_add_up_to_the_joint_counts() -> None:
    for protocol in ("crops_only", "direct"):
        counts = count_verdicts(eight_questions(), protocol)
        joint = measure_joint(eight_questions(), protocol)
        assert joint is not None
        assert joint.counts == (
            counts.get("correct answer, wrong or no box", 0),
            counts.get("correct answer, correct box", 0),
            counts.get("wrong answer, wrong box", 0) + counts.get("no valid box", 0),
            counts.get("wrong answer, correct box", 0),
        )
        assert sum(counts.values()) == 8


def test_lucky_answers_come_first_and_the_furthest_box_first_among_them() -> None:
    found = [record.sample_id for record in sort_records(eight_questions(), "crops_only")]
    assert found == ["b", "e", "c", "d", "g", "h", "f", "a"]
    assert set(VERDICTS) >= set(count_verdicts(eight_questions(), "direct"))


def test_filters_add_up() -> None:
    def names(**conditions: object) -> str:
        found = filter_records(eight_questions(), "crops_only", **conditions)  # type: ignore[arg-type]
        return "".join(record.sample_id for record in found)

    assert names() == "abcdefgh"
    assert names(verdicts=("unscored", "no valid box")) == "fgh"
    assert names(category="Perception") == "abcde"
    assert names(category="Perception/OCR") == "e"
    assert names(category="Percep") == "", "a level, not the beginning of a word"
    assert names(text="WHAT IS C") == "c"
    assert names(text="the answer is", category="Reasoning") == "fg", "the words of the model are searched too"


def test_lucky_answers_are_drawn_first_and_models_take_turns() -> None:
    other = evaluation(tuple(reversed(eight_questions())), title="other", run_id="r2")
    chosen = select_failures([evaluation(), other], most=4)
    assert [shown[0].record.sample_id for shown in chosen] == ["b", "e", "c", "d"]
    assert [each.name for each in chosen[0]] == ["tiny", "other"]
    all_of_them = select_failures([evaluation()], most=99)
    assert [shown[0].record.sample_id for shown in all_of_them] == ["b", "e", "c", "d", "g", "h", "f"], "a is fine"
    assert select_failures([evaluation()], most=0) == []


def test_figure_4_is_where_models_differ_most() -> None:
    better = tuple(
        r.model_copy(update={"answers": {"crops_only": answer_result(1.0)}}) if r.sample_id == "c" else r
        for r in eight_questions()
    )
    failures = select_failures([evaluation(), evaluation(better, title="other")], most=5)
    contrast = select_contrast(failures)
    assert contrast is not None and contrast[0].record.sample_id == "c"
    assert select_contrast([]) is None
