from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError, ModelError
from hart_studio.labeling import connection_pool, job
from hart_studio.labeling.calibration import Calibration, save_calibration
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, count_items, prepare_run, run_labeling
from hart_studio.labeling.project import Project
from hart_studio.labeling.quality import measure_against_gold, measure_quality
from hart_studio.labeling.records import ItemFilter, LabeledSample
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.run_results import summarize_run
from hart_studio.labeling.self_verify import Proposal, ProposalSettings
from hart_studio.models.chat import ChatModel, ChatRequest
from hart_studio.records import GoldSample
from hart_studio.runs.events import StepDone, Warned
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import read_events
from hart_studio.runs.status import read_status
from tests.fakes import ScriptedModel, text_of
from tests.unit.labeling.conftest import BOX, WH, add_label, ask, change_settings, draw_marked
from tests.unit.labeling.test_calibration import DRAWN, make_calibration
from tests.unit.pipeline.conftest import boxes_text

REGION = boxes_text((250, 333, 500, 667))


@pytest.fixture
def twenty(project: Project, image: Path) -> Project:
    import_samples(project, LoadedSamples("streets", tuple(ask(image, number) for number in range(20))))
    return project


def config(**fields: object) -> LabelingConfig:
    chosen = {
        "model": "m",
        "batch": 6,
        "proposals": ProposalSettings(rollouts=2),
        **fields,
    }
    return LabelingConfig(**chosen)  # type: ignore[arg-type]


def right_model(**scripts: object) -> ScriptedModel:
    return ScriptedModel(**{"grounding": REGION, "crops_only": "B", "direct": "B", **scripts})  # type: ignore[arg-type]


def run(
    project: Project, model: ChatModel | None = None, layout: RunLayout | None = None, **fields: object
) -> RunLayout:
    chosen = layout or prepare_run(project, config(**fields))
    run_labeling(chosen, lambda name, device, **_: model or right_model())
    return chosen


def warnings(layout: RunLayout) -> list[str]:
    return [event.payload.message for event in read_events(layout).events if isinstance(event.payload, Warned)]


def test_every_item_gets_a_label_with_its_evidence(twenty: Project) -> None:
    layout = run(twenty)
    assert twenty.count_by("status") == {"proposed": 20}
    label = next(twenty.items()).label
    assert (label.origin, label.revision, len(label.boxes)) == ("model", 1, 1)
    assert label.check is not None and label.check.crops_correct
    assert label.provenance is not None
    assert (label.provenance.model, label.provenance.run_id, label.provenance.rollouts) == ("m", layout.run_id, 2)
    status = read_status(layout)
    assert (status.job, status.state, status.step, status.total) == ("labeling", "completed", 20, 20)
    steps = [event for event in read_events(layout).events if isinstance(event.payload, StepDone)]
    assert [event.step for event in steps] == [6, 12, 18, 20]
    assert steps[0].payload.metrics["known_answer/verified"] == 1.0  # type: ignore[union-attr]


def test_the_two_kinds_of_evidence_have_figures_of_their_own(project: Project, image: Path) -> None:
    import_samples(project, LoadedSamples("s", (ask(image, 0), ask(image, 1, answer=None))))
    layout = run(project)
    (step,) = [event.payload for event in read_events(layout).events if isinstance(event.payload, StepDone)]
    assert {"known_answer/verified", "agreement/verified"} <= set(step.metrics)
    assert "verified" not in step.metrics


def test_only_selected_items_and_never_reviewed_ones(twenty: Project) -> None:
    first, second, *_ = twenty.items()
    queue = ReviewQueue(twenty)
    queue.decide("Ada", first.id, 0, "reject")
    layout = run(twenty)
    assert count_items(twenty, layout.run_id) == 19
    again = prepare_run(twenty, config(item_filter=ItemFilter()))
    queue.decide("Ada", second.id, 1, "accept")  # after the run was made
    run(twenty, layout=again)
    assert count_items(twenty, again.run_id, is_left=True) == 0, "the run knows what its model says of them"
    assert twenty.item(first.id).label.status == "rejected"
    assert twenty.item(second.id).label.status == "accepted"


def test_a_run_with_auto_accept_leaves_one_to_audit(twenty: Project) -> None:
    calibrated(twenty)
    change_settings(twenty, audit_share=1e-9)
    run(twenty, batch=7)
    assert twenty.count_by("status") == {"auto_accepted": 20}
    assert twenty.count_waiting() == {"auto_accepted": 1}


def test_nothing_to_do(project: Project) -> None:
    with pytest.raises(InputError, match=r"No item to label with status new or failed.*Items on the page, --status"):
        prepare_run(project, config())


def test_a_killed_run_resumes_where_it_ended(twenty: Project) -> None:
    calls = 0

    def die(request: ChatRequest) -> str:
        nonlocal calls
        calls += 1
        if calls > 6 * 2 * 2:
            raise KeyboardInterrupt
        return REGION

    layout = prepare_run(twenty, config())
    with pytest.raises(KeyboardInterrupt):
        run(twenty, right_model(grounding=die), layout)
    assert count_items(twenty, layout.run_id, is_left=True) == 8
    assert read_status(layout).state == "stopped"
    run(twenty, layout=layout)
    assert read_status(layout).state == "completed"
    assert [label.revision for item in twenty.items() for label in twenty.history(item.id)] == [0] * 20
    assert all(item.label.revision == 1 for item in twenty.items()), "nothing was done twice"


def test_a_run_is_not_resumed_with_other_weights(twenty: Project, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"one")
    layout = prepare_run(twenty, config(model=str(folder)))
    model = right_model()

    def interrupt(request: ChatRequest) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(twenty, right_model(grounding=interrupt), layout)
    (folder / "model.safetensors").write_bytes(b"two")
    with pytest.raises(DataError, match=r"The files of the model .* changed since the run"):
        run(twenty, model, layout)
    assert count_items(twenty, layout.run_id, is_left=True) == 20
    (folder / "model.safetensors").write_bytes(b"one")
    run(twenty, model, layout)
    assert count_items(twenty, layout.run_id, is_left=True) == 0


def test_stop_and_pause(twenty: Project) -> None:
    layout = prepare_run(twenty, config(batch=1))
    layout.pause.touch()
    thread = threading.Thread(target=run, args=(twenty,), kwargs={"layout": layout})
    thread.start()
    time.sleep(0.6)
    assert count_items(twenty, layout.run_id, is_left=True) == 20, "it waits with its model in memory"
    assert read_status(layout).state == "running"
    layout.stop.touch()
    thread.join(timeout=10)
    assert read_status(layout).state == "stopped"
    layout.pause.unlink()
    run(twenty, layout=layout)
    assert count_items(twenty, layout.run_id, is_left=True) == 0


def test_one_bad_item_takes_no_other_along(twenty: Project) -> None:
    def choke(request: ChatRequest) -> str:
        if "sign 13" in text_of(request):
            raise RuntimeError("shapes do not match")
        return REGION

    layout = run(twenty, right_model(grounding=choke))
    assert twenty.count_by("status") == {"failed": 1, "proposed": 19}
    (failed,) = twenty.items(ItemFilter(statuses=("failed",)))
    assert failed.sample.id == "s13"
    assert failed.label.note == "RuntimeError: shapes do not match"
    assert any(message == "s13: RuntimeError: shapes do not match" for message in warnings(layout))
    run(twenty)
    assert twenty.count_by("status") == {"proposed": 20}, "a later run tries what failed again"


def test_a_model_that_always_fails_ends_the_run(twenty: Project) -> None:
    def choke(request: ChatRequest) -> str:
        raise RuntimeError("out of order")

    layout = prepare_run(twenty, config())
    with pytest.raises(ModelError, match="out of order"):
        run(twenty, right_model(grounding=choke), layout)
    assert read_status(layout).state == "failed"
    assert twenty.count_by("status")["new"] >= 2


def test_an_image_that_is_gone_or_another_one_is_reported(project: Project, image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (50, 50), "red").save(other)
    import_samples(project, LoadedSamples("s", (ask(image, 0), ask(other, 1))))
    image.unlink()
    Image.new("RGB", (60, 50)).save(other)
    run(project)
    notes = [item.label.note for item in project.items()]
    assert "no file of that name" in notes[0]
    assert "image changed since import: expected 50 x 50 pixels, got 60 x 50" in notes[1]


def test_an_image_replaced_by_one_of_the_same_size_fails(project: Project, tmp_path: Path) -> None:
    scene, kept = draw_marked(tmp_path / "scene.jpg"), draw_marked(tmp_path / "kept.jpg", "gray")
    import_samples(project, LoadedSamples("s", (ask(scene, 0), ask(kept, 1))))
    Image.effect_noise(WH, 80).convert("RGB").save(scene)
    run(project)
    first, second = (item.label for item in project.items())
    assert (first.status, first.score, first.boxes) == ("failed", None, ())
    assert "image changed since import" in first.note
    assert second.status != "failed"


def test_items_of_two_files_that_were_imported_from_one_path_are_distinguished(
    project: Project, tmp_path: Path
) -> None:
    scene = draw_marked(tmp_path / "scene.jpg")
    import_samples(project, LoadedSamples("s", (ask(scene, 0), ask(scene, 1))))
    draw_marked(scene, "gray")
    import_samples(project, LoadedSamples("s", (ask(scene, 2),)))
    run(project)
    assert [item.label.status for item in project.items()] == ["failed", "failed", "proposed"]


def test_a_label_of_another_tool_is_verified_as_it_is(project: Project, image: Path) -> None:
    import_samples(project, LoadedSamples("s", (LabeledSample(**ask(image).model_dump(), boxes=(BOX,)),)))
    run(project, item_filter=ItemFilter(statuses=("proposed",)))
    label = next(project.items()).label
    assert (label.origin, label.boxes, label.revision) == ("imported", (BOX,), 2)
    assert label.check is not None and label.check.sufficiency == 1.0


PROPOSED = ItemFilter(statuses=("proposed",))
CAR = BOX.model_copy(update={"label": "car"})


def import_boxes(project: Project, image: Path, *numbers: int) -> None:
    samples = tuple(LabeledSample(**ask(image, number).model_dump(), boxes=(CAR,)) for number in numbers)
    import_samples(project, LoadedSamples("boxes", samples))


def test_a_failure_keeps_the_boxes_of_another_tool_and_they_are_verified_later(
    project: Project, image: Path, tmp_path: Path
) -> None:
    import_boxes(project, image, 0)
    before = next(project.items()).label
    away = image.rename(tmp_path / "away")
    layout = run(project, item_filter=PROPOSED)
    assert next(project.items()).label == before
    assert any("no file of that name" in message for message in warnings(layout))
    reported = "\n".join(summarize_run(project, layout.run_id).lines())
    assert "1 failed" in reported and "1 of the failed items keep their earlier label" in reported
    away.rename(image)
    run(project, item_filter=PROPOSED)
    label = next(project.items()).label
    assert (label.origin, label.boxes, label.check is not None) == ("imported", (CAR,), True)


def test_a_failure_keeps_the_score_and_the_acceptance_of_an_earlier_run(twenty: Project, image: Path) -> None:
    calibrated(twenty)
    run(twenty)
    before = [item.label for item in twenty.items()]
    image.unlink()
    layout = run(twenty, item_filter=ItemFilter(statuses=("auto_accepted",)))
    assert [item.label for item in twenty.items()] == before
    assert "20 failed" in summarize_run(twenty, layout.run_id).lines()[0]


def test_boxes_can_be_imported_for_an_item_that_failed(project: Project, image: Path, tmp_path: Path) -> None:
    import_samples(project, LoadedSamples("s", (ask(image),)))
    away = image.rename(tmp_path / "away")
    run(project)
    away.rename(image)
    import_boxes(project, image, 0)
    label = next(project.items()).label
    assert (label.revision, label.status, label.origin, label.boxes) == (2, "proposed", "imported", (CAR,))


def test_boxes_that_are_imported_while_a_run_works_stay_and_are_verified(
    project: Project, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_samples(project, LoadedSamples("s", (ask(image, 0), ask(image, 1))))
    real = job.propose_items

    def slow(*args: Any) -> list[Proposal]:
        found = real(*args)
        import_boxes(project, image, 0)
        return found

    monkeypatch.setattr(job, "propose_items", slow)
    layout = run(project)
    first, second = project.items(with_history=True)
    assert [(label.origin, label.boxes) for label in (*first.history[1:], first.label)] == [("imported", (CAR,))] * 2
    assert first.label.check is not None
    assert (second.label.origin, second.label.revision) == ("model", 1)
    assert any("changed while the run processed" in message for message in warnings(layout))
    assert read_status(layout).step == 2


def test_an_item_whose_label_never_stays_is_a_failure_of_the_run(
    project: Project, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_samples(project, LoadedSamples("s", (ask(image),)))
    (item_id,) = (item.id for item in project.items())
    real, calls = job.propose_items, 0

    def slow(*args: Any) -> list[Proposal]:
        nonlocal calls
        calls += 1
        found = real(*args)
        add_label(project, item_id, origin="imported", boxes=(CAR,))
        return found

    monkeypatch.setattr(job, "propose_items", slow)
    layout = run(project)
    assert calls == job.MAX_ATTEMPTS
    assert (project.item(item_id).label.origin, project.item(item_id).label.boxes) == ("imported", (CAR,))
    assert "1 failed" in summarize_run(project, layout.run_id).lines()[0]


def calibrated(project: Project, **fields: object) -> Calibration:
    calibration = make_calibration(rollouts=2, **fields)
    save_calibration(project.folder / CALIBRATION, calibration)
    return calibration


def test_confident_labels_are_auto_accepted(twenty: Project) -> None:
    calibrated(twenty)
    layout = run(twenty)
    assert twenty.count_by("status") == {"auto_accepted": 20}
    assert next(twenty.items()).label.score == pytest.approx(0.982, abs=1e-3)
    (reported,) = warnings(layout)
    assert "come from calibration.json in the project folder" in reported


def test_a_run_with_other_rollouts_than_its_calibration_warns(twenty: Project) -> None:
    save_calibration(twenty.folder / CALIBRATION, make_calibration(rollouts=3))
    (reported,) = warnings(run(twenty))
    assert "20 of 20 items will be uncalibrated" in reported and "number of rollouts or temperature" in reported
    labels = [item.label for item in twenty.items()]
    assert {(label.status, label.score, label.uncalibrated) for label in labels} == {("proposed", None, "sampling")}


def test_review_all_disables_auto_accept(twenty: Project) -> None:
    calibrated(twenty)
    run(twenty, auto_accept=False)
    assert twenty.count_by("status") == {"proposed": 20}


def test_the_calibration_of_another_model_gives_no_score(twenty: Project) -> None:
    calibrated(twenty, model="another")
    layout = run(twenty)
    assert twenty.count_by("status") == {"proposed": 20}
    assert any("no calibration for this model" in message for message in warnings(layout))
    labels = [item.label for item in twenty.items()]
    assert {(label.score, label.uncalibrated, label.is_uncalibrated) for label in labels} == {(None, "model", True)}
    assert twenty.count(ItemFilter(is_uncalibrated=True)) == 20
    assert twenty.count(ItemFilter(min_score=0.0)) == 0


def test_photographs_get_no_score_from_the_calibration_of_drawn_scenes(
    project: Project, image: Path, drawn_image: Path
) -> None:
    # The data set of both is called "needle": a name is no evidence.
    samples = [ask(path).model_copy(update={"source": "needle"}) for path in (image, drawn_image)]
    import_samples(project, LoadedSamples("needle", tuple(samples)))
    calibrated(project, domain=DRAWN)
    layout = run(project)
    photograph, scene = (item.label for item in project.items())
    assert (photograph.status, photograph.score, photograph.uncalibrated) == ("proposed", None, "images")
    assert (scene.status, scene.uncalibrated) == ("auto_accepted", None)
    assert scene.score is not None
    assert any("1 of 2 items will be uncalibrated" in message for message in warnings(layout))


def test_a_contradicted_label_is_never_auto_accepted(twenty: Project) -> None:
    curve = make_calibration().curves["known_answer"].model_copy(update={"weights": (9.0,) * 8})
    calibrated(twenty, curves={"known_answer": curve})
    run(twenty, right_model(crops_only="A"))
    labels = [item.label for item in twenty.items()]
    assert {(label.status, label.score, label.uncalibrated) for label in labels} == {
        ("proposed", None, "contradiction")
    }


def test_imported_boxes_get_no_score_of_proposed_ones(project: Project, image: Path) -> None:
    import_samples(project, LoadedSamples("s", (LabeledSample(**ask(image).model_dump(), boxes=(BOX,)),)))
    calibrated(project)
    run(project, item_filter=ItemFilter(statuses=("proposed",)))
    label = next(project.items()).label
    assert (label.status, label.score, label.uncalibrated) == ("proposed", None, "given_boxes")


def test_labels_are_made_and_reviewed_with_gold_boxes_that_cannot_be_read(
    project: Project, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = tuple(GoldSample(**ask(image, number).model_dump(), gold_boxes=(BOX,)) for number in range(8))
    import_samples(project, LoadedSamples("needle", samples))
    real = connection_pool.connect

    def refuse_gold(action: int, table: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if table == "gold_boxes" else sqlite3.SQLITE_OK

    def connect(path: Path) -> sqlite3.Connection:
        connection = real(path)
        connection.set_authorizer(refuse_gold)
        return connection

    connection_pool.CONNECTION_POOL.close_idle(project.folder)
    monkeypatch.setattr(connection_pool, "connect", connect)
    blind = Project(project.folder)
    with pytest.raises(DataError, match="prohibited"), blind.database.reading() as connection:
        connection.execute("SELECT boxes FROM gold_boxes")
    run(blind)
    queue = ReviewQueue(blind)
    while item := queue.next_item("Ada"):
        queue.decide("Ada", item.id, item.label.revision, "accept")
    queue.undo("Ada")
    assert blind.count_by("status") == {"accepted": 7, "proposed": 1}
    assert measure_quality(blind).evidence["known_answer"].labels == 8
    with pytest.raises(DataError, match="prohibited"):
        measure_against_gold(blind)
