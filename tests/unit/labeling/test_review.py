from __future__ import annotations

import time
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ItemFilter
from hart_studio.labeling.review import SEARCHES, Decision, ReviewQueue, make_search
from hart_studio.labeling.review_history import ConflictError
from hart_studio.records import Box
from tests.unit.labeling.conftest import BOX, add_label, ask, change_settings, fill_many, make_check

OTHER = Box.from_xyxy((10, 20, 30, 40))


@pytest.fixture
def queue(filled: Project) -> ReviewQueue:
    return ReviewQueue(filled)


def status(queue: ReviewQueue, item_id: str) -> str:
    return queue.project.item(item_id).label.status


def test_the_least_sure_comes_first(queue: ReviewQueue, item_ids: list[str]) -> None:
    item = queue.next_item("Ada")
    assert item is not None
    assert item.id == item_ids[0]


def test_disagreement_comes_before_low_scores(queue: ReviewQueue, item_ids: list[str]) -> None:
    add_label(queue.project, item_ids[4], score=0.9, check=make_check(crops_correct=False, full_correct=True))
    item = queue.next_item("Ada")
    assert item is not None
    assert item.id == item_ids[4]


def test_two_reviewers_never_get_the_same_item(queue: ReviewQueue) -> None:
    first, second, third = queue.next_item("Ada"), queue.next_item("Bo"), queue.next_item("Cy")
    assert first and second and third
    assert len({first.id, second.id, third.id}) == 3


def test_an_item_returns_when_its_lock_has_expired(
    queue: ReviewQueue, item_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.next_item("Ada")
    now = time.time()
    monkeypatch.setattr("hart_studio.labeling.review_history.time.time", lambda: now + 10_000)
    item = queue.next_item("Bo")
    assert item is not None
    assert item.id == item_ids[0]


def test_reloading_gives_the_same_item_again(queue: ReviewQueue) -> None:
    first, again = queue.next_item("Ada"), queue.next_item("Ada")
    assert first and again
    assert first.id == again.id


def test_the_queue_runs_empty(queue: ReviewQueue) -> None:
    seen = []
    while item := queue.next_item("Ada"):
        seen.append(item.id)
        queue.decide("Ada", item.id, item.label.revision, "accept")
    assert len(seen) == len(set(seen)) == 6
    assert queue.project.count_by("status") == {"accepted": 6}


def test_a_decision_keeps_boxes_evidence_and_maker(queue: ReviewQueue, item_ids: list[str]) -> None:
    before = queue.project.item(item_ids[0]).label
    label = queue.decide("  Ada   Lovelace ", item_ids[0], before.revision, "accept", note=" fine ")
    assert (label.status, label.origin, label.boxes, label.score) == ("accepted", "model", (BOX,), before.score)
    assert (label.reviewer, label.note, label.revision) == ("Ada Lovelace", "fine", 2)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    "item_filter", [ItemFilter(), ItemFilter(statuses=("proposed",), min_score=0.2, category="sign")]
)
def test_the_next_item_is_found_by_an_index_without_sorting(
    queue: ReviewQueue, search: tuple[str, str], item_filter: ItemFilter
) -> None:
    query, values = make_search(search, "Ada", item_filter, ["x"])
    with queue.project.database.reading() as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
    plan = "\n".join(row["detail"] for row in rows)
    assert "USING INDEX items_by_priority" in plan or "USING INDEX items_for_double_review" in plan
    assert "ORDER BY" not in plan and "SCAN actions" not in plan and "actions_by_reviewer" not in plan, plan


def test_the_next_item_of_thousands_is_fast(project: Project, image: Path) -> None:
    fill_many(project, image, 20_000)
    queue = ReviewQueue(project)
    for number in range(3):
        item = queue.next_item("Ada", deferred=[])
        assert item is not None
        queue.decide("Ada", item.id, 1, "reject")
        began = time.process_time()
        for item_filter in (None, ItemFilter(category="c7"), ItemFilter(statuses=("accepted",))):
            queue.next_item("Bo", item_filter)
        assert time.process_time() - began < 0.1, number


def test_an_item_that_another_takes_first_is_not_given_twice(
    queue: ReviewQueue, item_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, others = ReviewQueue._get_next, ["Bo", "Cy"]

    def found_a_moment_ago(*arguments: object) -> str | None:
        item_id = plain(*arguments)  # type: ignore[arg-type]
        if others and item_id is not None:
            queue.open_item(others.pop(0), item_id)
        return item_id

    monkeypatch.setattr(ReviewQueue, "_get_next", staticmethod(found_a_moment_ago))
    item = queue.next_item("Ada")
    assert item is not None
    assert item.id == item_ids[2]


@pytest.mark.parametrize(("decision", "boxes"), [("accept", None), ("edit", ())])
def test_a_label_without_a_box_is_accepted_on_purpose_alone(
    queue: ReviewQueue, item_ids: list[str], decision: Decision, boxes: tuple[Box, ...] | None
) -> None:
    add_label(queue.project, item_ids[0], boxes=())
    with pytest.raises(InputError, match="has no box"):
        queue.decide("Ada", item_ids[0], 2, decision, boxes=boxes)
    assert status(queue, item_ids[0]) == "proposed"
    label = queue.decide("Ada", item_ids[0], 2, decision, boxes=boxes, allow_empty=True)
    assert (label.status, label.boxes) == ("accepted" if decision == "accept" else "edited", ())


def test_a_label_without_a_box_can_be_rejected(queue: ReviewQueue, item_ids: list[str]) -> None:
    add_label(queue.project, item_ids[0], boxes=())
    assert queue.decide("Ada", item_ids[0], 2, "reject").status == "rejected"


def test_boxes_of_a_person_have_no_score_of_the_model(queue: ReviewQueue, item_ids: list[str]) -> None:
    kept, changed = Box.from_xyxy((0, 0, 10, 10), "sign", 0.9), Box.from_xyxy((50, 50, 90, 90), "sign", 0.8)
    add_label(queue.project, item_ids[0], boxes=(kept, changed), score=0.77, provenance=None)
    sent = (kept.model_copy(update={"score": None}), Box.from_xyxy((51, 50, 90, 90), "sign"), OTHER)
    label = queue.decide("Ada", item_ids[0], 2, "edit", boxes=sent)
    assert label.score is None
    assert [box.score for box in label.boxes] == [0.9, None, None]
    assert queue.project.count(ItemFilter(min_score=0.0)) == 5, "no filter by score finds it"
    queue.undo("Ada")
    assert queue.project.item(item_ids[0]).label.score == 0.77


def test_the_second_of_two_accepts_the_evidence_that_they_were_shown(project: Project, image: Path) -> None:
    change_settings(project, double_review_share=1.0)
    import_samples(project, LoadedSamples("streets", (ask(image),)))
    item_id = next(project.items()).id
    shown = add_label(project, item_id, score=0.5, check=make_check(crops_correct=True))
    queue = ReviewQueue(project)
    queue.decide("Ada", item_id, 1, "edit", boxes=(OTHER,), check=make_check(rollouts=0, crops_correct=False))
    label = queue.decide("Bo", item_id, 2, "accept")
    assert (label.score, label.check, label.origin) == (0.5, shown.check, "model")


def test_an_edit_stores_boxes_and_their_verification(queue: ReviewQueue, item_ids: list[str]) -> None:
    check = make_check(rollouts=0, crops_correct=True)
    label = queue.decide("Ada", item_ids[0], 1, "edit", boxes=(OTHER, Box.from_xyxy((390, 290, 500, 500))), check=check)
    assert (label.status, label.origin, label.check) == ("edited", "human", check)
    assert [box.xyxy for box in label.boxes] == [OTHER.xyxy, (390, 290, 400, 300)]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (None, "Draw one"),
        ((Box.from_xyxy((500, 0, 600, 10)),), "outside of the image"),
        ((OTHER,) * 101, "at most 100 boxes"),
    ],
)
def test_boxes_that_cannot_be(queue: ReviewQueue, item_ids: list[str], boxes: tuple[Box, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        queue.decide("Ada", item_ids[0], 1, "edit", boxes=boxes)
    assert status(queue, item_ids[0]) == "proposed"


def test_decisions_do_not_overwrite_each_other(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.decide("Ada", item_ids[0], 1, "reject")
    with pytest.raises(ConflictError, match="Ada has changed this label"):
        queue.decide("Bo", item_ids[0], 1, "accept")
    assert status(queue, item_ids[0]) == "rejected"


def test_an_item_that_another_has_open_cannot_be_decided_or_opened(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.open_item("Ada", item_ids[3])
    with pytest.raises(ConflictError, match="Ada has this item open"):
        queue.open_item("Bo", item_ids[3])
    with pytest.raises(ConflictError, match="Ada has this item open"):
        queue.decide("Bo", item_ids[3], 1, "accept")
    queue.decide("Ada", item_ids[3], 1, "accept")
    assert queue.open_item("Bo", item_ids[3]).label.reviewer == "Ada"


def test_a_skipped_item_goes_to_others_and_returns_when_it_changes(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.next_item("Ada")
    queue.skip("Ada", item_ids[0])
    mine, theirs = queue.next_item("Ada"), queue.next_item("Bo")
    assert mine and theirs
    assert (mine.id, theirs.id) == (item_ids[1], item_ids[0])
    queue.next_item("Bo", deferred=item_ids[:1])
    add_label(queue.project, item_ids[0], score=0.0)
    again = queue.next_item("Ada")
    assert again is not None
    assert again.id == item_ids[0]


def test_undo_and_redo_across_items(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.decide("Ada", item_ids[0], 1, "accept")
    queue.decide("Ada", item_ids[1], 1, "edit", boxes=(OTHER,))
    queue.skip("Ada", item_ids[2])
    statuses = lambda: [status(queue, item_id) for item_id in item_ids[:2]]  # noqa: E731
    assert queue.undo("Ada") == (item_ids[2], "skip", 0)
    assert queue.undo("Ada") == (item_ids[1], "edit", 0)
    assert (statuses(), queue.project.item(item_ids[1]).label.boxes) == (["accepted", "proposed"], (BOX,))
    assert queue.undo("Ada") == (item_ids[0], "accept", 0)
    assert statuses() == ["proposed", "proposed"]
    assert queue.undo("Ada") is None
    assert queue.redo("Ada") == (item_ids[0], "accept", 0)
    assert queue.redo("Ada") == (item_ids[1], "edit", 0)
    assert (statuses(), queue.project.item(item_ids[1]).label.boxes) == (["accepted", "edited"], (OTHER,))
    assert queue.redo("Ada") == (item_ids[2], "skip", 0)
    assert queue.redo("Ada") is None


def test_undo_and_redo_of_several_actions_on_one_item(queue: ReviewQueue, item_ids: list[str]) -> None:
    item_id = item_ids[0]
    for decision in ("accept", "reject", "bad_question"):
        queue.decide("Ada", item_id, queue.project.item(item_id).label.revision, decision)  # type: ignore[arg-type]
    walk = []
    for step in (
        queue.undo,
        queue.undo,
        queue.undo,
        queue.redo,
        queue.redo,
        queue.undo,
        queue.redo,
        queue.redo,
        queue.undo,
    ):
        assert step("Ada") is not None
        walk.append(status(queue, item_id))
    assert walk == [
        "rejected", "accepted", "proposed", "accepted", "rejected", "accepted", "rejected", "bad_question", "rejected",
    ]  # fmt: skip
    assert [label.revision for label in queue.project.history(item_id)] == list(range(13))


def test_a_new_decision_clears_the_redo_list(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.decide("Ada", item_ids[0], 1, "accept")
    queue.undo("Ada")
    queue.decide("Ada", item_ids[1], 1, "reject")
    assert queue.redo("Ada") is None
    assert queue.undo("Ada") == (item_ids[1], "reject", 0)


def test_undo_takes_back_ones_own_actions_only(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.decide("Ada", item_ids[0], 1, "accept")
    queue.decide("Bo", item_ids[1], 1, "reject")
    assert queue.undo("Ada") == (item_ids[0], "accept", 0)
    assert status(queue, item_ids[1]) == "rejected"


def test_undo_does_not_overwrite_later_changes(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.decide("Ada", item_ids[0], 1, "accept")
    queue.decide("Bo", item_ids[0], 2, "reject")
    with pytest.raises(ConflictError, match="changed since"):
        queue.undo("Ada")
    assert status(queue, item_ids[0]) == "rejected"


def test_undo_works_after_a_restart(queue: ReviewQueue, item_ids: list[str]) -> None:
    queue.decide("Ada", item_ids[0], 1, "accept")
    fresh = ReviewQueue(Project(queue.project.folder))
    assert fresh.undo("Ada") == (item_ids[0], "accept", 0)
    assert status(fresh, item_ids[0]) == "proposed"


def test_items_that_overlap_are_decided_by_two_who_do_not_see_each_other(project: Project, image: Path) -> None:
    change_settings(project, double_review_share=1.0)
    import_samples(project, LoadedSamples("streets", (ask(image),)))
    item_id = next(project.items()).id
    add_label(project, item_id, score=0.5)
    queue = ReviewQueue(project)
    first = queue.next_item("Ada")
    assert first is not None
    queue.decide("Ada", item_id, first.label.revision, "edit", boxes=(OTHER,))
    assert queue.next_item("Ada") is None
    second = queue.next_item("Bo")
    assert second is not None
    assert second.id == item_id
    assert queue.blind_view(second, "Bo").boxes == (BOX,)
    queue.decide("Bo", item_id, second.label.revision, "accept")
    assert project.item(item_id).label.boxes == (BOX,)
    assert queue.next_item("Cy") is None


def test_an_unknown_decision_is_refused(queue: ReviewQueue, item_ids: list[str]) -> None:
    with pytest.raises(InputError, match="expected one of accept"):
        queue.decide("Ada", item_ids[0], 1, "delete")  # type: ignore[arg-type]


def test_passing_over_goes_through_the_queue_and_round_again(queue: ReviewQueue, item_ids: list[str]) -> None:
    passed: list[str] = []
    for _ in range(8):
        item = queue.next_item("Ada", deferred=passed)
        assert item is not None
        passed.append(item.id)
    assert passed[:6] == item_ids
    assert passed[6] == item_ids[0], "all were passed over: from the beginning"
