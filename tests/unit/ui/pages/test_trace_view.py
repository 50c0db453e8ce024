from datetime import UTC, datetime
from pathlib import Path

import pytest

from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.trace import SavedTrace, Trace, TraceImage, TraceModel
from hart_studio.pipeline.verification import Verification
from hart_studio.records import Box, Rollout, Score, Turn
from hart_studio.ui.pages.trace_view import build_answers_panel, build_model_inputs

AREA = Box.from_xyxy((100.0, 200.0, 300.0, 400.0))


def turn(kind="answer", text="\\boxed{A}", tokens=48):
    return Turn(
        kind=kind,
        prompt="p",
        image_sizes_wh=((256, 192),),
        text=text,
        finish_reason="stop",
        prompt_tokens=tokens + 10,
        visual_tokens=tokens,
        completion_tokens=5,
        seconds=0.5,
    )


def rollout(protocol="crops_only", extracted="A", value=1.0, outcome="ok", crops=(AREA,), answered=True, **more):
    turns = () if protocol == "direct" else (turn("grounding", "[box]", 40),)
    return Rollout(
        sample_id="s",
        protocol=protocol,
        turns=(*turns, turn()) if answered else turns,
        boxes=crops if protocol != "direct" else (),
        crops=crops if protocol != "direct" else (),
        outcome=outcome,
        score=Score(value=value, extracted=extracted, expected=None if value is None else "A", rule="boxed"),
        **more,
    )


def trace(*rollouts, choices=("five", "six"), answer="A", **checks):
    base = {
        "sample_id": "s", "evidence": "known_answer", "sufficiency": None, "necessity": None, "consensus": None,
        "agreement": None, "majority_answer": None, "area_share": None, "full_image": None, "masked": None,
    }  # fmt: skip
    verification = Verification(**{**base, "rollouts": rollouts, **checks}) if checks else None
    return Trace(
        app_version="0",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        image=TraceImage(name="a.jpg", width=4000, height=3000, format="JPEG", sha256="0" * 64),
        question="q",
        choices=choices,
        answer=answer,
        model=TraceModel(name="/srv/models/m", family="qwen3_vl"),
        settings=LoopSettings(),
        protocols={one.protocol: one for one in rollouts},
        verification=verification,
    )


def card(one, **more):
    return build_answers_panel(trace(one, **more), "m").cards[0]


def checks(**measured):
    return {check.name: check for check in build_answers_panel(trace(rollout(), **measured), "m").checks}


def test_a_card_says_letter_option_verdict_and_the_cost_of_all_turns():
    shown = card(rollout())
    assert (shown.letter, shown.answer, shown.note) == ("A", "five", "")
    assert (shown.verdict, shown.verdict_text) == ("unproven", "Correct from the crop (50 % by random guess)")
    assert (shown.visual_tokens, shown.seconds) == (88, 1.0)
    assert [said.title for said in shown.turns] == ["Grounding · 40 visual tokens", "Answer · 48 visual tokens"]
    assert shown.is_primary


def test_a_right_answer_is_green_only_if_guessing_is_unlikely_and_the_region_is_needed():
    open_question = {"choices": (), "answer": "five"}
    plain = card(rollout(extracted="five"), **open_question)
    assert (plain.verdict, plain.verdict_text) == ("right", "Correct from the crop")
    needed = card(rollout(extracted="five"), **open_question, sufficiency=1.0, necessity=True)
    assert needed.verdict == "right"
    without = card(rollout(extracted="five"), **open_question, sufficiency=1.0, necessity=False)
    assert (without.verdict, without.verdict_text) == (
        "unproven",
        "Correct from the crop (the same answer with the region masked)",
    )
    found = build_answers_panel(
        trace(rollout(extracted="five"), **open_question, sufficiency=1.0, necessity=False), "m"
    )
    assert found.checks[0].state == "neutral"
    found = build_answers_panel(trace(rollout(extracted="five"), **open_question, sufficiency=1.0), "m")
    assert (found.checks[0].value, found.checks[0].state) == ("yes", "good")


def test_nothing_is_green_where_the_model_was_not_made_for_the_image():
    one = trace(rollout(extracted="five"), choices=(), answer="five", sufficiency=1.0, necessity=True)
    board = build_answers_panel(one.model_copy(update={"warnings": ("It means nothing.",)}), "m")
    assert board.warnings == ("It means nothing.",)
    assert [shown.verdict for shown in board.cards] == ["unproven"]
    assert {check.state for check in board.checks} == {"neutral"}


def test_an_open_question_has_no_letter_and_an_unknown_answer_no_verdict():
    shown = card(rollout("direct", "a red sign", None), choices=(), answer=None)
    assert (shown.letter, shown.answer, shown.verdict) == ("", "a red sign", "")
    assert not shown.is_primary


def test_cards_come_in_the_order_of_the_story():
    board = build_answers_panel(trace(rollout("full_and_crops"), rollout("direct", "B", 0.0), rollout()), "m")
    assert [one.protocol for one in board.cards] == ["crops_only", "direct", "full_and_crops"]
    assert [one.verdict for one in board.cards] == ["unproven", "wrong", "unproven"]
    assert [one.verdict_text for one in board.cards][1:] == ["Wrong", "Correct (50 % by random guess)"]
    assert board.model == "m"
    assert board.expected == "A · five"


@pytest.mark.parametrize(
    ("one", "note"),
    [
        (rollout(outcome="no_box", crops=(), extracted=None, value=0.0, answered=False), "No region predicted."),
        (
            rollout(outcome="bad_box", crops=(), extracted=None, value=0.0, answered=False),
            "no predicted box lies on the image",
        ),
        (
            rollout(outcome="truncated", crops=(), extracted=None, value=0.0, answered=False),
            "before a region was predicted",
        ),
        (rollout(outcome="no_box", crops=(), used_fallback=True), "This answer is from the full image."),
        (rollout(outcome="truncated", extracted=None, value=0.0), "Answer truncated"),
        (rollout("direct", None, 0.0), "No answer could be parsed"),
        (rollout("direct", None, None, outcome="error", answered=False, error="the file is damaged"), "is damaged"),
    ],
)
def test_a_card_warns_of_what_a_reader_must_know(one, note):
    shown = card(one)
    assert note in shown.note
    assert shown.answer == ("five" if one.score.extracted else "")


def test_images_carry_the_size_that_the_model_saw():
    saved = SavedTrace(trace(rollout()), Path("overview.png"), (Path("crop_1.png"),))
    shown = build_model_inputs(saved)
    assert (shown.overview.width, shown.overview.height) == (256, 192)
    assert shown.original_wh == (4000, 3000)
    assert shown.crops[0].area == AREA


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (
            rollout(outcome="bad_box", crops=(), extracted=None, value=0.0, answered=False),
            "no predicted box lies on the image",
        ),
        (rollout("direct"), "No protocol with crops was selected."),
    ],
)
def test_missing_crops_are_explained(one, reason):
    assert reason in build_model_inputs(SavedTrace(trace(one), Path("o.png"), ())).no_crops_reason


def test_only_measured_checks_become_badges_and_always_whether_the_region_is_needed():
    assert set(checks(sufficiency=None)) == {"Region necessary (masking test)"}
    assert set(checks(sufficiency=1.0, area_share=0.02)) == {"Sufficient", "Region necessary (masking test)", "Area"}


@pytest.mark.parametrize(
    ("measured", "value", "help_"),
    [
        ({}, "not checked without Crops only", "choose Crops only and Full image under Settings"),
        ({"area_share": 0.1}, "not checked without Full image", "choose Crops only and Full image under Settings"),
        ({"full_image": rollout("direct")}, "unknown: no region", "nothing could be masked"),
        (
            {"full_image": rollout("direct", None, 0.0), "masked": rollout("direct")},
            "unknown: no full-image answer",
            "No answer could be parsed",
        ),
        (
            {"full_image": rollout("direct", "B", 0.0), "masked": rollout("direct")},
            "inconclusive: full-image answer is wrong",
            "masking shows nothing",
        ),
    ],
)
def test_a_region_of_which_no_one_knows_whether_it_is_needed_says_why(measured, value, help_):
    check = checks(**measured)["Region necessary (masking test)"]
    assert (check.value, check.state) == (value, "neutral")
    assert check.help.startswith("Masking test:") and help_ in check.help


@pytest.mark.parametrize(
    ("measured", "name", "value", "state"),
    [
        ({"sufficiency": 1.0}, "Sufficient", "yes (50 % by random guess)", "neutral"),
        ({"sufficiency": 0.0}, "Sufficient", "no", "bad"),
        ({"necessity": True}, "Region necessary (masking test)", "yes", "good"),
        ({"necessity": False}, "Region necessary (masking test)", "no", "bad"),
        ({"consensus": 0.875}, "Consistent regions", "IoU 0.88", "good"),
        ({"consensus": 0.1}, "Consistent regions", "IoU 0.10", "bad"),
        ({"agreement": 0.75}, "Consistent answer", "75 % of 1", "good"),
        ({"area_share": 0.0213}, "Area", "2.1 % of the image", "neutral"),
        ({"area_share": 0.0004}, "Area", "0.04 % of the image", "neutral"),
        ({"area_share": 1.0}, "Area", "100.0 % of the image", "bad"),
    ],
)
def test_a_badge_says_what_was_measured(measured, name, value, state):
    check = checks(**measured)[name]
    assert (check.value, check.state) == (value, state)
    assert len(check.help) > 40


def test_agreement_alone_is_not_called_sufficiency():
    assert set(checks(evidence="agreement", sufficiency=0.5, agreement=0.5)) == {
        "Region necessary (masking test)",
        "Consistent answer",
    }


def test_sufficiency_over_samples_is_a_share():
    found = build_answers_panel(trace(rollout(), sufficiency=0.75, rollouts=(rollout(),) * 4), "m").checks[0]
    assert found.value == "75 % of 4 (50 % by random guess)"
