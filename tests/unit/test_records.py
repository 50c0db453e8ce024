import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hart_studio.records import (
    PROTOCOLS,
    Box,
    Credit,
    GoldSample,
    Record,
    Rollout,
    RolloutGroup,
    Sample,
    Score,
    Turn,
    is_finite_xyxy,
)

SCORED = Score(value=1.0, extracted="B", expected="B", rule="boxed")


def turn(kind: str, **changes: Any) -> Turn:
    values: dict[str, Any] = {
        "kind": kind,
        "prompt": "<image>Where?",
        "image_sizes_wh": [(1204, 812)],
        "text": "<b>[1, 2]</b>",
        "finish_reason": "stop",
        "prompt_tokens": 30,
        "visual_tokens": 20,
        "completion_tokens": 4,
        "seconds": 0.5,
    }
    return Turn(**{**values, **changes})


def rollout(**changes: Any) -> Rollout:
    values: dict[str, Any] = {
        "sample_id": "s1",
        "protocol": "crops_only",
        "turns": (turn("grounding"), turn("answer")),
        "boxes": (Box.from_xyxy((1.5, 2, 3, 4), label="sign", score=0.25),),
        "crops": (Box.from_xyxy((1, 2, 3, 4)),),
        "outcome": "ok",
        "score": SCORED,
    }
    return Rollout(**{**values, **changes})


def gold_sample() -> GoldSample:
    return GoldSample(
        id="s1",
        image="a.jpg",
        question="Which sign?",
        choices=("stop", "go"),
        answer="B",
        category="detail",
        source="needle",
        gold_boxes=(Box.from_xyxy((0, 0, 1, 1)),),
    )


# --- Box ------------------------------------------------------------------------------------------------------------


def test_box_measures() -> None:
    box = Box.from_xyxy((1.5, 2, 4, 12))
    assert box.xyxy == (1.5, 2.0, 4.0, 12.0)
    assert (box.width, box.height, box.area) == (2.5, 10, 25)


@pytest.mark.parametrize(
    ("xyxy", "message"),
    [
        ((3, 0, 3, 1), r"expected x_min < x_max and y_min < y_max, got \[3, 0, 3, 1\]"),
        ((0, 1, 1, 1), "expected x_min < x_max"),
        ((4, 0, 3, 1), "expected x_min < x_max"),
        ((0, 4, 1, 3), "expected x_min < x_max"),
        ((0, 0, math.inf, 1), "finite number"),
        ((math.nan, 0, 1, 1), "finite number"),
    ],
)
def test_box_refuses_what_is_no_rectangle(xyxy: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Box.from_xyxy(xyxy)


def test_records_are_frozen_and_closed() -> None:
    box = Box.from_xyxy((0, 0, 1, 1))
    with pytest.raises(ValidationError, match="frozen"):
        box.x_min = 5
    with pytest.raises(ValidationError, match="Extra inputs"):
        Box(x_min=0, y_min=0, x_max=1, y_max=1, color="red")  # type: ignore[call-arg]
    assert len({box, Box.from_xyxy((0, 0, 1, 1))}) == 1  # equal by value, so usable as a key


floats = st.floats(allow_nan=True, allow_infinity=True)


@given(st.tuples(floats, floats, floats, floats) | st.lists(floats, max_size=6).map(tuple))
def test_is_finite_xyxy_matches_exactly_what_a_box_accepts(values: tuple[float, ...]) -> None:
    try:
        Box.from_xyxy(values)  # type: ignore[arg-type]
        accepted = True
    except ValueError:  # wrong count, or refused by the record
        accepted = False
    assert is_finite_xyxy(values) is accepted


# --- Sample ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " \n"}, "expected a question, got empty text"),
        ({"choices": ("only",)}, "expected no choices or 2 to 26 of them, got 1"),
        ({"choices": ("x",) * 27}, "expected no choices or 2 to 26 of them, got 27"),
        ({"choices": ("a", " ")}, "expected every choice to have text, got an empty one"),
        ({"choices": ("a", "b"), "answer": "C"}, "one of the letters AB, got 'C'"),
        ({"choices": ("a", "b"), "answer": "a"}, "one of the letters AB, got 'a'"),
        ({"gold_boxes": ()}, "Extra inputs"),
    ],
)
def test_sample_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Sample(**{"id": "s", "image": "a.png", "question": "What?", **changes})


def test_an_empty_answer_is_no_answer() -> None:
    with pytest.raises(ValidationError, match="expected an answer or None"):
        Sample(id="a", image="a.png", question="What?", answer=" ")


@pytest.mark.parametrize("answer", ["", "AB", "BC", "ABC"])
def test_answer_is_exactly_one_letter(answer: str) -> None:
    with pytest.raises(ValidationError, match="one of the letters ABC"):
        Sample(id="s", image="a.png", question="What?", choices=("a", "b", "c"), answer=answer)


def test_sample_letters_follow_the_choices() -> None:
    assert Sample(id="s", image="a.png", question="What?", answer="forty").letters == ""
    assert Sample(id="s", image="a.png", question="What?", choices=("a", "b", "c")).letters == "ABC"
    assert Sample(id="s", image="a.png", question="What?", choices=("x",) * 26, answer="Z").letters[-1] == "Z"


def test_blind_sample_has_no_gold_boxes_and_nothing_else_changed() -> None:
    gold = gold_sample()
    blind = gold.without_gold_boxes()
    assert type(blind) is Sample
    with pytest.raises(AttributeError):
        blind.gold_boxes  # type: ignore[attr-defined]  # noqa: B018
    assert "gold" not in blind.model_dump_json()
    assert blind.model_dump() == gold.model_dump(exclude={"gold_boxes"})


# --- turns, scores, rollouts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "thinking"},
        {"finish_reason": "eos"},
        {"prompt_tokens": -1},
        {"visual_tokens": -1},
        {"completion_tokens": 1.5},
        {"seconds": -0.1},
        {"seconds": math.inf},
        {"image_sizes_wh": [(1, 2, 3)]},
    ],
)
def test_turn_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        turn(**{"kind": "answer", **changes})


def test_score_is_none_or_a_number_never_nan() -> None:
    assert Score(value=None, extracted=None, expected=None, rule="none").value is None
    with pytest.raises(ValidationError, match="finite number"):
        Score(value=math.nan, extracted=None, expected=None, rule="none")


def test_rollout_finds_its_turns() -> None:
    both = rollout()
    assert both.grounding_turn == both.turns[0]
    assert both.answer_turn == both.turns[1]
    unanswered = rollout(turns=(turn("grounding"),), outcome="no_box")
    assert unanswered.answer_turn is None
    direct = rollout(turns=(turn("answer"),), protocol="direct")
    assert direct.grounding_turn is None
    failed = rollout(turns=(), outcome="error", error="the image is missing")
    assert failed.grounding_turn is failed.answer_turn is None


@pytest.mark.parametrize("changes", [{"outcome": "fine"}, {"protocol": "two_turn"}, {"boxes": [[1, 2, 3, 4]]}])
def test_rollout_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rollout(**changes)


def test_group_holds_one_sample_under_one_protocol() -> None:
    RolloutGroup(sample_id="s1", protocol="crops_only", rollouts=(rollout(), rollout(outcome="bad_box")))
    for stranger in (rollout(sample_id="s2"), rollout(protocol="direct")):
        with pytest.raises(ValidationError, match="expected rollouts of 's1' under crops_only, got 's"):
            RolloutGroup(sample_id="s1", protocol="crops_only", rollouts=(rollout(), stranger))


def test_group_holds_a_credit_for_each_rollout_or_none() -> None:
    credit = Credit(advantage=-0.5, policy_weight=0.7, kl_weight=0.052)
    rollouts = (rollout(), rollout())
    for credits in ((), (credit, credit)):
        RolloutGroup(sample_id="s1", protocol="crops_only", rollouts=rollouts, credits=credits)
    with pytest.raises(ValidationError, match="expected one credit per rollout or none, got 1 for 2"):
        RolloutGroup(sample_id="s1", protocol="crops_only", rollouts=rollouts, credits=(credit,))


@pytest.mark.parametrize("changes", [{"policy_weight": -0.1}, {"kl_weight": -0.1}, {"advantage": math.nan}])
def test_credit_refuses(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Credit(**{"advantage": 1.0, "policy_weight": 1.0, "kl_weight": 0.04, **changes})


def test_every_protocol_is_accepted() -> None:
    assert {rollout(protocol=protocol).protocol for protocol in PROTOCOLS} == {"crops_only", "direct", "full_and_crops"}


@pytest.mark.parametrize(
    "record",
    [
        Box.from_xyxy((0.1, 0.2, 1e3, 8191.999999), label="<b>ü\n中</b>", score=1.0),
        gold_sample(),
        gold_sample().without_gold_boxes(),
        turn("answer", text="", image_sizes_wh=[]),
        SCORED,
        Score(value=None, extracted=None, expected=None, rule="none"),
        rollout(),
        rollout(turns=(), boxes=(), crops=(), outcome="error", error="gone", used_fallback=True),
        RolloutGroup(sample_id="s1", protocol="crops_only", rollouts=(rollout(), rollout())),
        RolloutGroup(
            sample_id="s1",
            protocol="crops_only",
            rollouts=(rollout(),),
            credits=(Credit(advantage=0.1, policy_weight=1.0, kl_weight=0.0),),
        ),
    ],
    ids=lambda record: type(record).__name__,
)
def test_json_round_trip(record: Record) -> None:
    text = record.model_dump_json()
    assert type(record).model_validate_json(text) == record
    assert (
        type(record).model_validate(json.loads(json.dumps(record.model_dump(mode="json"), allow_nan=False))) == record
    )
