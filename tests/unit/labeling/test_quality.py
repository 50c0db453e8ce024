from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.bulk_accept import accept_all
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.quality import count_audit, measure_against_gold, measure_quality, measure_reviewer_agreement
from hart_studio.labeling.records import ALL_ITEMS, Label
from hart_studio.labeling.review import ReviewQueue
from hart_studio.records import Box, GoldSample
from tests.unit.labeling.conftest import BOX, add_label, ask, change_settings, make_check

OTHER = Box.from_xyxy((150, 100, 250, 200))


def decided(status: str, *boxes: Box) -> Label:
    return Label(revision=2, status=status, origin="human", boxes=boxes, reviewer="A", at=datetime.now(UTC))  # type: ignore[arg-type]


def test_an_empty_project(project: Project) -> None:
    quality = measure_quality(project)
    assert (quality.evidence, quality.scores, quality.audit, sum(quality.areas)) == ({}, {}, None, 0)
    assert measure_against_gold(project) == {}


def test_evidence_scores_and_areas(project: Project, image: Path) -> None:
    import_samples(project, LoadedSamples("s", tuple(ask(image, n, "B" if n < 4 else None) for n in range(6))))
    ids = [item.id for item in project.items()]
    for number, item_id in enumerate(ids[:4]):
        check = make_check(
            crops_correct=number < 3, full_correct=number < 1, necessity=(True, False, None, None)[number],
            area_share=(0.001, 0.03, 0.03, 0.6)[number],
        )  # fmt: skip
        add_label(project, item_id, check=check, score=(0.05, 0.95, 1.0, 0.95)[number])
    for item_id in ids[4:]:
        add_label(
            project, item_id, check=make_check(kind="agreement", crops_correct=True, full_correct=True), score=0.5
        )
    quality = measure_quality(project)
    known, agreeing = quality.evidence["known_answer"], quality.evidence["agreement"]
    assert (known.labels, known.verified.value, known.full_image.value, known.accuracy_gain) == (4, 0.75, 0.25, 0.5)
    assert known.needed is not None
    assert known.needed.value == 0.5
    assert (agreeing.labels, agreeing.accuracy_gain, agreeing.needed) == (2, 0.0, None)
    assert quality.scores["known_answer"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert quality.scores["agreement"] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert quality.areas == [3, 0, 0, 2, 0, 0, 0, 1]


def test_the_audit_measures_auto_accepted_labels(filled: Project, item_ids: list[str]) -> None:
    change_settings(filled, audit_share=1.0)
    for item_id in item_ids[:4]:
        add_label(filled, item_id, status="auto_accepted", score=0.99)
    queue = ReviewQueue(filled)
    for item_id, decision in zip(item_ids, ("accept", "accept", "reject"), strict=False):
        queue.decide("Ada", item_id, 2, decision)  # type: ignore[arg-type]
    queue.decide("Ada", item_ids[5], 1, "reject")  # was never auto-accepted
    quality = measure_quality(filled)
    assert quality.audited == 3
    assert quality.audit is not None
    assert quality.audit.value == pytest.approx(2 / 3)
    assert 0 < quality.audit.low < 2 / 3 < quality.audit.high < 1


def test_only_single_decisions_about_the_auto_accepted_revision_are_an_audit(
    filled: Project, item_ids: list[str]
) -> None:
    change_settings(filled, audit_share=1.0)
    for item_id in item_ids:
        add_label(filled, item_id, status="auto_accepted", score=0.99)
    queue = ReviewQueue(filled)
    add_label(
        filled, item_ids[0], status="proposed", boxes=(Box.from_xyxy((1, 1, 90, 90)),)
    )  # a later run proposes another
    queue.decide("Ada", item_ids[0], 3, "accept")
    add_label(filled, item_ids[1], status="proposed")
    assert accept_all(filled, "Ada", ALL_ITEMS, 1).accepted == 1
    assert count_audit(filled) == (0, 0)
    queue.decide("Ada", item_ids[2], 2, "accept")
    queue.decide("Ada", item_ids[3], 2, "accept")
    queue.decide("Bo", item_ids[3], 3, "edit", boxes=(BOX,))  # on second thought it was wrong
    queue.decide("Ada", item_ids[4], 2, "edit", boxes=(BOX,))
    queue.decide("Ada", item_ids[5], 2, "accept")
    queue.undo("Ada")
    assert count_audit(filled) == (1, 3)
    with filled.database.writing() as connection:  # as bulk accepts of earlier versions left it
        connection.execute("INSERT INTO bulk_actions (id, reviewer, expected, updated) VALUES (9, 'Ada', 1, 0)")
        connection.execute("UPDATE actions SET bulk = 9 WHERE item = ?", (item_ids[2],))
    assert count_audit(filled) == (0, 2)


def test_only_those_who_drew_low_are_audited(filled: Project, item_ids: list[str]) -> None:
    change_settings(filled, audit_share=0.0)
    add_label(filled, item_ids[0], status="auto_accepted", score=0.99)
    ReviewQueue(filled).decide("Ada", item_ids[0], 2, "reject")
    assert measure_quality(filled).audit is None


def test_statistics_per_reviewer(filled: Project, item_ids: list[str]) -> None:
    queue = ReviewQueue(filled)
    for number, seconds in enumerate((2.0, 4.0, 30.0)):
        queue.decide("Ada", item_ids[number], 1, "accept", seconds=seconds)
    queue.undo("Ada")
    queue.skip("Bo", item_ids[4])
    ada, bo = measure_quality(filled).reviewers
    assert (ada.reviewer, ada.decisions, ada.seconds) == ("Ada", {"accept": 2}, 3.0)
    assert (bo.reviewer, bo.decisions, bo.seconds) == ("Bo", {"skip": 1}, None)


def test_agreement_by_hand() -> None:
    pairs = [
        (decided("accepted", BOX), decided("edited", OTHER)),
        (decided("accepted", BOX), decided("accepted", BOX)),
        (decided("rejected"), decided("rejected")),
        (decided("accepted", BOX), decided("rejected")),
    ]
    found = measure_reviewer_agreement(pairs)
    # They agree on 3 of 4; by chance 0.75 * 0.5 + 0.25 * 0.5 = 0.5, so kappa is (0.75 - 0.5) / 0.5.
    assert (found.items, found.iou, found.kappa) == (4, pytest.approx((1 / 3 + 1) / 2), pytest.approx(0.5))
    assert measure_reviewer_agreement([]).kappa is None
    assert measure_reviewer_agreement(pairs[1:2]).kappa is None, (
        "where everyone keeps everything chance explains it all"
    )


def test_gold_boxes_measure_precision_and_recall(project: Project, image: Path) -> None:
    samples = tuple(GoldSample(**ask(image, number).model_dump(), gold_boxes=(BOX,)) for number in range(5))
    import_samples(project, LoadedSamples("s", samples))
    ids = [item.id for item in project.items()]
    away = Box.from_xyxy((300, 200, 400, 300))
    for item_id, box, status in zip(
        ids, (BOX, BOX, away, BOX), ("auto_accepted", "auto_accepted", "auto_accepted", "proposed"), strict=False
    ):
        add_label(project, item_id, boxes=(box,), status=status, check=make_check(), score=0.9)
    ReviewQueue(project).decide("Ada", ids[2], 1, "edit", boxes=(BOX,))
    report = measure_against_gold(project)["known_answer"]
    assert report.all.labels == 4, "what was never labeled does not count"
    assert (report.all.found.value, report.all.iou) == (1.0, 1.0)
    assert report.auto_accepted is not None
    assert report.usable is not None
    assert report.recall is not None
    assert report.auto_accepted.found.value == pytest.approx(2 / 3), "as it was accepted, before the correction"
    assert report.recall.value == pytest.approx(2 / 3)
    assert (report.usable.labels, report.usable.found.value) == (3, 1.0)
    assert report.all.area_share == pytest.approx(1 / 12)
    add_label(project, ids[3], boxes=(), status="proposed", check=make_check())
    after = measure_against_gold(project)["known_answer"]
    assert (after.all.labels, after.all.area_share) == (4, pytest.approx(1 / 12)), "over labels with a box"
