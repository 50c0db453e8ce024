from __future__ import annotations

import time
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.labeling.claims import ConflictError
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project, ProjectSettings
from hart_studio.labeling.review import ReviewDesk
from hart_studio.records import Box
from tests.unit.labeling.conftest import BOX, add_label, ask, make_check

OTHER = Box.of((10, 20, 30, 40))


@pytest.fixture
def desk(filled: Project) -> ReviewDesk:
    return ReviewDesk(filled)


def status(desk: ReviewDesk, item_id: str) -> str:
    return desk.project.item(item_id).label.status


def test_the_least_sure_comes_first(desk: ReviewDesk, item_ids: list[str]) -> None:
    item = desk.next_item("Ada")
    assert item is not None
    assert item.id == item_ids[0]


def test_disagreement_comes_before_low_scores(desk: ReviewDesk, item_ids: list[str]) -> None:
    add_label(desk.project, item_ids[4], score=0.9, check=make_check(crops_right=False, full_right=True))
    item = desk.next_item("Ada")
    assert item is not None
    assert item.id == item_ids[4]


def test_two_reviewers_never_get_the_same_item(desk: ReviewDesk) -> None:
    first, second, third = desk.next_item("Ada"), desk.next_item("Bo"), desk.next_item("Cy")
    assert first and second and third
    assert len({first.id, second.id, third.id}) == 3


def test_an_item_comes_back_when_its_claim_has_run_out(
    desk: ReviewDesk, item_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.next_item("Ada")
    now = time.time()
    monkeypatch.setattr("hart_studio.labeling.claims.time.time", lambda: now + 10_000)
    item = desk.next_item("Bo")
    assert item is not None
    assert item.id == item_ids[0]


def test_reloading_gives_the_same_item_again(desk: ReviewDesk) -> None:
    first, again = desk.next_item("Ada"), desk.next_item("Ada")
    assert first and again
    assert first.id == again.id


def test_the_queue_runs_empty(desk: ReviewDesk) -> None:
    seen = []
    while item := desk.next_item("Ada"):
        seen.append(item.id)
        desk.decide("Ada", item.id, item.label.revision, "accept")
    assert len(seen) == len(set(seen)) == 6
    assert desk.project.count_by("status") == {"accepted": 6}


def test_a_decision_keeps_boxes_evidence_and_maker(desk: ReviewDesk, item_ids: list[str]) -> None:
    before = desk.project.item(item_ids[0]).label
    label = desk.decide("  Ada   Lovelace ", item_ids[0], before.revision, "accept", note=" fine ")
    assert (label.status, label.origin, label.boxes, label.score) == ("accepted", "model", (BOX,), before.score)
    assert (label.reviewer, label.note, label.revision) == ("Ada Lovelace", "fine", 2)


def test_an_edit_takes_boxes_and_what_the_model_says_of_them(desk: ReviewDesk, item_ids: list[str]) -> None:
    check = make_check(rollouts=0, crops_right=True)
    label = desk.decide("Ada", item_ids[0], 1, "edit", boxes=(OTHER, Box.of((390, 290, 500, 500))), check=check)
    assert (label.status, label.origin, label.check) == ("edited", "human", check)
    assert [box.xyxy for box in label.boxes] == [OTHER.xyxy, (390, 290, 400, 300)]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (None, "draw one"),
        ((Box.of((500, 0, 600, 10)),), "got one outside"),
        ((OTHER,) * 101, "at most 100 boxes"),
    ],
)
def test_boxes_that_cannot_be(desk: ReviewDesk, item_ids: list[str], boxes: tuple[Box, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        desk.decide("Ada", item_ids[0], 1, "edit", boxes=boxes)
    assert status(desk, item_ids[0]) == "proposed"


def test_nobody_overwrites_another(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.decide("Ada", item_ids[0], 1, "reject")
    with pytest.raises(ConflictError, match="a newer one by Ada"):
        desk.decide("Bo", item_ids[0], 1, "accept")
    assert status(desk, item_ids[0]) == "rejected"


def test_an_item_that_another_has_open_cannot_be_decided_or_opened(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.open_item("Ada", item_ids[3])
    with pytest.raises(ConflictError, match="Ada works on"):
        desk.open_item("Bo", item_ids[3])
    with pytest.raises(ConflictError, match="Ada works on"):
        desk.decide("Bo", item_ids[3], 1, "accept")
    desk.decide("Ada", item_ids[3], 1, "accept")
    assert desk.open_item("Bo", item_ids[3]).label.reviewer == "Ada"


def test_a_skipped_item_goes_to_others_and_returns_when_it_changes(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.next_item("Ada")
    desk.skip("Ada", item_ids[0])
    mine, theirs = desk.next_item("Ada"), desk.next_item("Bo")
    assert mine and theirs
    assert (mine.id, theirs.id) == (item_ids[1], item_ids[0])
    desk.next_item("Bo", passed=item_ids[:1])
    add_label(desk.project, item_ids[0], score=0.0)
    again = desk.next_item("Ada")
    assert again is not None
    assert again.id == item_ids[0]


def test_undo_and_redo_across_items(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.decide("Ada", item_ids[0], 1, "accept")
    desk.decide("Ada", item_ids[1], 1, "edit", boxes=(OTHER,))
    desk.skip("Ada", item_ids[2])
    statuses = lambda: [status(desk, item_id) for item_id in item_ids[:2]]  # noqa: E731
    assert desk.undo("Ada") == (item_ids[2], "skip", 0)
    assert desk.undo("Ada") == (item_ids[1], "edit", 0)
    assert (statuses(), desk.project.item(item_ids[1]).label.boxes) == (["accepted", "proposed"], (BOX,))
    assert desk.undo("Ada") == (item_ids[0], "accept", 0)
    assert statuses() == ["proposed", "proposed"]
    assert desk.undo("Ada") is None
    assert desk.redo("Ada") == (item_ids[0], "accept", 0)
    assert desk.redo("Ada") == (item_ids[1], "edit", 0)
    assert (statuses(), desk.project.item(item_ids[1]).label.boxes) == (["accepted", "edited"], (OTHER,))
    assert desk.redo("Ada") == (item_ids[2], "skip", 0)
    assert desk.redo("Ada") is None


def test_undo_and_redo_of_several_actions_on_one_item(desk: ReviewDesk, item_ids: list[str]) -> None:
    item_id = item_ids[0]
    for decision in ("accept", "reject", "bad_question"):
        desk.decide("Ada", item_id, desk.project.item(item_id).label.revision, decision)  # type: ignore[arg-type]
    walk = []
    for step in (desk.undo, desk.undo, desk.undo, desk.redo, desk.redo, desk.undo, desk.redo, desk.redo, desk.undo):
        assert step("Ada") is not None
        walk.append(status(desk, item_id))
    assert walk == [
        "rejected", "accepted", "proposed", "accepted", "rejected", "accepted", "rejected", "bad_question", "rejected",
    ]  # fmt: skip
    assert [label.revision for label in desk.project.history(item_id)] == list(range(13))


def test_a_new_decision_ends_what_could_be_done_again(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.decide("Ada", item_ids[0], 1, "accept")
    desk.undo("Ada")
    desk.decide("Ada", item_ids[1], 1, "reject")
    assert desk.redo("Ada") is None
    assert desk.undo("Ada") == (item_ids[1], "reject", 0)


def test_undo_takes_back_ones_own_actions_only(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.decide("Ada", item_ids[0], 1, "accept")
    desk.decide("Bo", item_ids[1], 1, "reject")
    assert desk.undo("Ada") == (item_ids[0], "accept", 0)
    assert status(desk, item_ids[1]) == "rejected"


def test_undo_does_not_overwrite_what_another_did_since(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.decide("Ada", item_ids[0], 1, "accept")
    desk.decide("Bo", item_ids[0], 2, "reject")
    with pytest.raises(ConflictError, match="somebody has changed"):
        desk.undo("Ada")
    assert status(desk, item_ids[0]) == "rejected"


def test_undo_works_after_a_restart(desk: ReviewDesk, item_ids: list[str]) -> None:
    desk.decide("Ada", item_ids[0], 1, "accept")
    fresh = ReviewDesk(Project(desk.project.folder))
    assert fresh.undo("Ada") == (item_ids[0], "accept", 0)
    assert status(fresh, item_ids[0]) == "proposed"


def test_items_that_overlap_are_decided_by_two_who_do_not_see_each_other(project: Project, picture: Path) -> None:
    project.change_settings(ProjectSettings(overlap_share=1.0))
    import_samples(project, LoadedSamples("streets", (ask(picture),)))
    item_id = next(project.items()).id
    add_label(project, item_id, score=0.5)
    desk = ReviewDesk(project)
    first = desk.next_item("Ada")
    assert first is not None
    desk.decide("Ada", item_id, first.label.revision, "edit", boxes=(OTHER,))
    assert desk.next_item("Ada") is None
    second = desk.next_item("Bo")
    assert second is not None
    assert second.id == item_id
    assert desk.first_view(second, "Bo").boxes == (BOX,)
    desk.decide("Bo", item_id, second.label.revision, "accept")
    assert project.item(item_id).label.boxes == (BOX,)
    assert desk.next_item("Cy") is None


def test_an_unknown_decision_is_refused(desk: ReviewDesk, item_ids: list[str]) -> None:
    with pytest.raises(InputError, match="expected one of accept"):
        desk.decide("Ada", item_ids[0], 1, "delete")  # type: ignore[arg-type]


def test_passing_over_goes_through_the_queue_and_round_again(desk: ReviewDesk, item_ids: list[str]) -> None:
    passed: list[str] = []
    for _ in range(8):
        item = desk.next_item("Ada", passed=passed)
        assert item is not None
        passed.append(item.id)
    assert passed[:6] == item_ids
    assert passed[6] == item_ids[0], "all were passed over: from the beginning"
