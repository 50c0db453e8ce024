from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hart_studio.errors import InputError
from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.self_verify import (
    ProposalSettings,
    compute_consensus,
    compute_support,
    propose,
    verify_drawn_boxes,
)
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, GoldSample, Sample
from tests.fakes import ScriptedModel, images_in
from tests.unit.pipeline.conftest import boxes_text

ALL = (True, True, True, True)


def at(x: float, y: float = 0, side: float = 100) -> Box:
    return Box.from_xyxy((x, y, x + side, y + side))


def test_consensus_is_the_median_of_most_boxes() -> None:
    found = compute_consensus([(at(0),), (at(10),), (at(20),), (at(5000),)], ALL)
    assert [box.xyxy for box in found] == [(10, 0, 110, 100)]


def test_only_voters_say_where() -> None:
    wrong, right = at(0), at(1000)
    sets = [(wrong,), (wrong,), (wrong,), (right,)]
    assert compute_consensus(sets, (False, False, False, True)) == (right,)
    assert compute_consensus(sets, ALL) == (wrong,)


def test_when_no_voter_has_a_box_all_rollouts_vote() -> None:
    assert compute_consensus([(at(0),), ()], (False, True)) == (at(0),)


def test_two_regions_that_most_mean_are_both_kept() -> None:
    sets = [(at(0), at(500)), (at(500), at(2)), (at(1), at(501)), (at(0),)]
    assert [box.xyxy for box in compute_consensus(sets, ALL)] == [(0.5, 0, 100.5, 100), (500, 0, 600, 100)]


def test_without_a_majority_the_region_with_most_votes_is_returned() -> None:
    sets = [(at(0),), (at(3),), (at(1000),), (at(2000),), (at(3000),), (at(4000),)]
    assert compute_consensus(sets, [True] * 6) == (Box.from_xyxy((1.5, 0, 101.5, 100)),)


def test_no_consensus_without_a_box() -> None:
    assert compute_consensus([(), ()], (True, True)) == ()
    assert compute_consensus([], ()) == ()


def test_one_rollout_counts_once_however_often_it_repeats_itself() -> None:
    stutter = (at(0), at(1), at(2), at(3))
    assert compute_consensus([stutter, (at(1000),), (at(1001),)], (True,) * 3) == (
        Box.from_xyxy((1000.5, 0, 1100.5, 100)),
    )


@given(st.lists(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=3), max_size=6), st.randoms())
def test_the_order_of_rollouts_does_not_move_a_clear_majority(
    places: list[list[tuple[int, int]]], rng: random.Random
) -> None:
    majority = [[at(5000), at(7000)]] * (len(places) + 1)
    sets = [[at(*place) for place in own] for own in places] + majority
    shuffled = list(sets)
    rng.shuffle(shuffled)
    for order in (sets, shuffled):
        assert set(compute_consensus(order, [True] * len(order))[:2]) == {at(5000), at(7000)}


def test_support_is_the_share_that_points_at_all_of_them() -> None:
    sets = [(at(0), at(500)), (at(0),), (at(10), at(490)), ()]
    assert compute_support(sets, (at(0), at(500))) == 0.5
    assert compute_support(sets, (at(0),)) == 0.75
    assert compute_support(sets, ()) is None
    assert compute_support([], (at(0),)) is None


WH = (1000, 1000)
NEAR, FAR = (100, 100, 300, 300), (600, 600, 900, 900)
FOUR = ProposalSettings(rollouts=4)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "plain.png"
    Image.new("RGB", WH, (200, 30, 30)).save(path)
    return path


def ask(image: Path, answer: str | None = "B") -> Sample:
    return Sample(id="s", image=str(image), question="Which digit?", choices=("3", "7"), answer=answer)


def one(model: ScriptedModel, sample: Sample, settings: ProposalSettings = FOUR, given: Sequence[tuple[Box, ...]] = ()):  # type: ignore[no-untyped-def]
    (proposal,) = propose(model, [sample], settings, given)
    return proposal


def test_the_boxes_are_those_of_the_right_rollouts(image: Path) -> None:
    model = ScriptedModel(
        grounding=[boxes_text(NEAR), boxes_text(FAR), boxes_text(NEAR), boxes_text(FAR)],
        crops_only=["A", "B", "A", "B", "B"],
        direct=["B", "A"],
    )
    proposal = one(model, ask(image))
    assert [box.xyxy for box in proposal.boxes] == [tuple(float(edge) for edge in FAR)]
    check = proposal.check
    assert (check.kind, check.rollouts, check.sufficiency, check.support) == ("known_answer", 4, 0.5, 0.5)
    assert (check.crops_answer, check.crops_correct, check.full_answer, check.full_correct) == ("B", True, "B", True)
    assert (check.masked_answer, check.necessity) == ("A", True)
    assert check.area_share == pytest.approx(0.09)
    assert check.consensus == pytest.approx(2 / 6)
    assert check.cautions == ()


def test_without_an_answer_the_majority_says_which_boxes(image: Path) -> None:
    model = ScriptedModel(
        grounding=[boxes_text(NEAR), boxes_text(NEAR), boxes_text(NEAR), boxes_text(FAR)],
        crops_only=["A", "A", "A", "B", "A"],
        direct=["B", "B"],
    )
    check = one(model, ask(image, None)).check
    assert (check.kind, check.majority_answer, check.sufficiency, check.support) == ("agreement", "A", 0.75, 0.75)
    assert (check.crops_correct, check.full_correct, check.necessity) == (True, False, False)


def test_the_masked_region_is_the_label(image: Path) -> None:
    model = ScriptedModel(grounding=boxes_text(NEAR), crops_only="B", direct="B")
    one(model, ask(image))
    full, masked = (images_in(request)[0].pixels for request in model.requests("direct"))
    assert full.size == masked.size
    assert full.tobytes() == masked.tobytes(), "the mean color of one color is that color"
    assert len(model.requests("crops_only")) == 5


def test_no_rollout_has_a_box(image: Path) -> None:
    proposal = one(ScriptedModel(grounding="nothing here", direct="B"), ask(image))
    assert (proposal.boxes, proposal.failure) == ((), "")
    assert (proposal.check.sufficiency, proposal.check.crops_correct, proposal.check.support) == (0.0, None, None)
    assert (proposal.check.full_correct, proposal.check.necessity, proposal.check.area_share) == (True, None, 0.0)


def test_cautions(image: Path) -> None:
    def cautions(*boxes: tuple[int, int, int, int]) -> tuple[str, ...]:
        model = ScriptedModel(grounding=[boxes_text(box) for box in boxes], crops_only="B", direct="B")
        return one(model, ask(image)).check.cautions

    assert cautions(NEAR, NEAR, NEAR, NEAR) == ()
    assert cautions(*[(0, 100, 200, 300)] * 4) == ("touches_border",)
    assert cautions(*[(10, 10, 900, 900)] * 4) == ("covers_half",)
    assert cautions(NEAR, FAR, (400, 400, 500, 500), (700, 100, 800, 200)) == ("scattered",)


def test_no_box_of_any_rollout_is_not_called_scattered(image: Path) -> None:
    model = ScriptedModel(grounding="Somewhere in the middle.", crops_only="B", direct="B")
    proposal = one(model, ask(image))
    assert (proposal.boxes, proposal.check.cautions) == ((), ("no_box",))
    given = (Box.from_xyxy(NEAR),)
    assert one(model, ask(image), given=[given]).check.cautions == ("no_box",), "boxes that came in are no prediction"


def test_given_boxes_are_verified_as_they_are(image: Path) -> None:
    mine = (Box.from_xyxy((590, 590, 910, 910), label="sign"),)
    model = ScriptedModel(
        grounding=[boxes_text(NEAR), boxes_text(FAR), boxes_text(FAR), boxes_text(FAR)],
        crops_only=["A", "A", "A", "A", "B", "B", "B", "A", "B"],
        direct="B",
    )
    proposal = one(model, ask(image), given=[mine])
    assert proposal.boxes == mine
    assert (proposal.check.sufficiency, proposal.check.support, proposal.check.crops_correct) == (0.75, 0.75, True)
    assert proposal.check.consensus < 1, "how much the model's own regions agree"


def test_an_image_that_cannot_be_read_takes_no_other_along(image: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpg"
    Image.effect_noise((900, 900), 90).convert("RGB").save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:60_000])
    model = ScriptedModel(grounding=boxes_text(NEAR), crops_only="B", direct="B")
    gone, cut, good = propose(model, [ask(tmp_path / "gone.png"), ask(damaged), ask(image)], FOUR)
    assert "no file of that name" in gone.failure and gone.check is None
    assert "truncated" in cut.failure and cut.boxes == ()
    assert good.failure == "" and good.check.crops_correct


def test_several_rollouts_at_temperature_0_are_refused(image: Path) -> None:
    settings = ProposalSettings(rollouts=4, loop=LoopSettings())
    with pytest.raises(InputError, match="temperature above 0"):
        propose(ScriptedModel(), [ask(image)], settings)


def test_gold_boxes_are_out_of_reach(image: Path) -> None:
    gold = GoldSample(**ask(image).model_dump(), gold_boxes=(Box.from_xyxy(NEAR),))
    with pytest.raises(AttributeError):
        gold.without_gold_boxes().gold_boxes  # type: ignore[attr-defined]  # noqa: B018


def test_the_checks_are_greedy_and_the_rollouts_sampled(image: Path) -> None:
    model = ScriptedModel(grounding=boxes_text(NEAR), crops_only="B", direct="B")
    one(model, ask(image))
    assert [(call.sampling.temperature, call.group_size) for call in model.calls] == [
        (1.0, 4), (1.0, 1), (1.0, 4), (0.0, 1), (0.0, 1), (0.0, 1),
    ]  # fmt: skip


def test_a_loose_box_is_refined_to_the_predicted_region(image: Path) -> None:
    loose = (Box.from_xyxy((500, 500, 1000, 1000)),)
    model = ScriptedModel(grounding=boxes_text(FAR), crops_only="B", direct="B")
    refined = one(model, ask(image), ProposalSettings(rollouts=4, refinement=BoxRefinementSettings()), [loose])
    assert [box.xyxy for box in refined.boxes] == [tuple(float(edge) for edge in FAR)]
    assert refined.check.area_share == pytest.approx(0.09)


def test_boxes_of_a_person_are_checked_by_greedy_answers_alone(image: Path) -> None:
    model = ScriptedModel(crops_only="B", direct=["B", "A"])
    check, problem = verify_drawn_boxes(model, ask(image), [Box.from_xyxy(FAR)], FOUR.loop)
    assert (problem, check.rollouts, check.sufficiency, check.crops_correct) == ("", 0, None, True)
    assert (check.necessity, check.area_share) == (True, pytest.approx(0.09))
    assert all(call.sampling.temperature == 0 for call in model.calls)


def test_without_an_answer_a_person_is_measured_against_the_rollouts(image: Path) -> None:
    model = ScriptedModel(
        grounding=boxes_text(NEAR), crops_only=["A", "A", "A", "B", "A", "B", "A"], direct="A"
    )  # fmt: skip
    before = one(model, ask(image, None)).check
    assert before.majority_answer == "A"
    assert (
        verify_drawn_boxes(model, ask(image, None), [Box.from_xyxy(FAR)], FOUR.loop, before)[0].crops_correct is False
    )
    alone = verify_drawn_boxes(model, ask(image, None), [Box.from_xyxy(FAR)], FOUR.loop)[0]
    assert (alone.crops_correct, alone.majority_answer) == (None, None)


def test_a_person_says_that_nothing_is_there(image: Path) -> None:
    check, problem = verify_drawn_boxes(ScriptedModel(direct="B"), ask(image), [], FOUR.loop)
    assert (problem, check.crops_correct, check.necessity, check.area_share) == ("", None, None, 0.0)


def test_checking_boxes_of_an_image_that_is_gone(tmp_path: Path) -> None:
    check, problem = verify_drawn_boxes(ScriptedModel(), ask(tmp_path / "gone.png"), [Box.from_xyxy(FAR)], FOUR.loop)
    assert "no file of that name" in problem
    assert check.crops_correct is None
