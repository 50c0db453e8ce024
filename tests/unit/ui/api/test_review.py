from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.data.sources import load_jsonl
from hart_studio.errors import InputError, ModelError
from hart_studio.formatting import LIST_TEXT_CHARS
from hart_studio.image_domains import NEEDLE
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, prepare_run
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ItemFilter
from hart_studio.labeling.review_history import ProgressCallback
from hart_studio.ui.api import review as review_module
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.exports import LabelExportApi
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.review import ReviewApi
from hart_studio.ui.security.model_allowlist import ModelAllowlist
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import BOX, WH, add_label, ask, change_settings, make_check

DRAWN = {"x_min": 10, "y_min": 20, "x_max": 110, "y_max": 120, "label": "sign"}


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(crops_only="B", direct="B")


@pytest.fixture
def calls(tmp_path: Path, model: ScriptedModel) -> ReviewApi:
    image = tmp_path / "street.png"
    Image.new("RGB", WH, "white").save(image)
    label_api = LabelApi(tmp_path / "labels")
    call_handler(label_api.create, {"name": "p"})
    project = label_api.open_project("p")
    import_samples(project, LoadedSamples("s", tuple(ask(image, number) for number in range(3))))
    with project.database.writing() as connection:  # images that the built-in model was made for
        connection.execute("UPDATE images SET domain = ?", (NEEDLE,))
    for number, item in enumerate(list(project.items())):
        add_label(project, item.id, score=number / 10, check=make_check(sufficiency=1.0, crops_correct=True))
    return ReviewApi(label_api, AskService(tmp_path / "served", lambda name: model))


@pytest.fixture
def project(calls: ReviewApi) -> Project:
    return calls.label_api.open_project("p")


def request(**more: Any) -> dict[str, Any]:
    return {"project": "p", "reviewer": "Ada", **more}


def test_an_item_is_ready_to_be_shown_and_is_json(calls: ReviewApi) -> None:
    answer = json.loads(json.dumps(call_handler(calls.next_item, request())))
    assert (answer["waiting"], answer["done"]) == (3, 0)
    item = answer["item"]
    assert (item["question"], item["choices"], item["answer"]) == ("Which digit is on sign 0?", ["3", "7"], "B")
    assert (item["width"], item["height"], item["revision"]) == (*WH, 1)
    assert item["boxes"] == [{"x_min": 100, "y_min": 100, "x_max": 200, "y_max": 200, "label": ""}]
    assert item["crops"][0]["width"] == 100
    for name in (item["preview"]["path"], item["detail"]["path"], item["crops"][0]["path"]):
        assert not name.startswith("/")
        assert (calls.service.folder / name).is_file()
    assert "tmp" not in json.dumps(item), "no path of this machine"


def test_decisions_go_on_to_the_next_item(calls: ReviewApi, project: Project) -> None:
    item = call_handler(calls.next_item, request())["item"]
    after = call_handler(calls.decide, request(item=item["id"], revision=1, decision="accept", seconds=2.5))
    assert after["item"]["question"] == "Which digit is on sign 1?"
    assert (after["waiting"], after["done"]) == (2, 1)
    undone = call_handler(calls.undo, request())
    assert (undone["item"]["id"], undone["message"]) == (item["id"], "Undone: accept")
    assert call_handler(calls.redo, request())["message"] == "Redone: accept"
    assert project.count_by("status") == {"accepted": 1, "proposed": 2}


def test_what_waits_and_what_is_audited_are_counted_apart(calls: ReviewApi, project: Project) -> None:
    first, second, third = [item.id for item in project.items()]
    change_settings(project, audit_share=1.0)
    add_label(project, second, status="auto_accepted", score=0.98)
    add_label(project, third, status="accepted", reviewer="Eve")
    answer = call_handler(calls.next_item, request())
    assert (answer["waiting"], answer["audits"], answer["done"]) == (1, 1, 1)
    state = call_handler(calls.label_api.poll, {"project": "p"})
    assert state is not None
    assert (state["statuses"]["proposed"], state["audits"]) == (1, 1), "the page shows the same in both places"
    assert answer["item"]["id"] == first


def test_the_list_shows_what_keeps_a_sure_label_waiting(calls: ReviewApi, project: Project) -> None:
    first = next(project.items()).id
    add_label(project, first, score=0.98, check=make_check(sufficiency=1.0, cautions=("touches_border", "scattered")))
    rows = {row["id"]: row for row in call_handler(calls.list_items, request())["rows"]}
    assert rows[first]["cautions"] == ["touches_border", "scattered"]
    assert all(row["cautions"] == [] for row in rows.values() if row["id"] != first)


def test_another_file_of_the_same_size_is_not_shown_in_the_place_of_an_image(
    calls: ReviewApi, project: Project, tmp_path: Path
) -> None:
    first = call_handler(calls.next_item, request())["item"]
    Image.new("RGB", WH, "red").save(tmp_path / "street.png")
    with pytest.raises(InputError, match="image changed since import"):
        call_handler(calls.open_item, request(item=first["id"]))
    Image.new("RGB", WH, "white").save(tmp_path / "street.png")
    assert call_handler(calls.open_item, request(item=first["id"]))["item"]["id"] == first["id"], "it is back"


def test_nothing_to_undo(calls: ReviewApi) -> None:
    with pytest.raises(InputError, match="Nothing to undo"):
        call_handler(calls.undo, request())
    with pytest.raises(InputError, match="Nothing to redo"):
        call_handler(calls.redo, request())


def test_boxes_are_verified_as_they_are_drawn_and_saved_with_the_verdict(
    calls: ReviewApi, project: Project, model: ScriptedModel
) -> None:
    item = call_handler(calls.next_item, request())["item"]
    answer = call_handler(calls.check, request(item=item["id"], boxes=[DRAWN]))
    assert answer["check"]["crops_correct"] is True
    assert answer["crops"][0]["width"] == 100
    asked = len(model.calls)
    call_handler(calls.decide, request(item=item["id"], revision=1, decision="edit", boxes=[DRAWN]))
    assert len(model.calls) == asked, "the verdict was there already"
    label = project.item(item["id"]).label
    assert (label.status, label.boxes[0].xyxy) == ("edited", (10, 20, 110, 120))
    assert label.check is not None
    assert (label.check.rollouts, label.check.crops_correct) == (0, True)


def test_a_built_in_model_gives_no_verdict_on_photographs(calls: ReviewApi, project: Project) -> None:
    with project.database.writing() as connection:
        connection.execute("UPDATE images SET domain = ''")
    item = next(project.items())
    with pytest.raises(ModelError, match="trained only on synthetic needle scenes"):
        call_handler(calls.check, request(item=item.id, boxes=[DRAWN]))
    answer = call_handler(calls.decide, request(item=item.id, revision=1, decision="edit", boxes=[DRAWN]))
    assert answer["message"].startswith("Saved without verification: hart-tiny was trained only on")
    label = project.item(item.id).label
    assert (label.status, label.check) == ("edited", None)


def test_a_verdict_is_never_taken_from_the_browser(calls: ReviewApi, project: Project, model: ScriptedModel) -> None:
    model.crops_only = "A"
    item = call_handler(calls.next_item, request())["item"]
    call_handler(
        calls.decide,
        request(item=item["id"], revision=1, decision="edit", boxes=[DRAWN], check={"crops_correct": True}),
    )
    label = project.item(item["id"]).label
    assert label.check is not None
    assert label.check.crops_correct is False


@pytest.mark.parametrize(
    "boxes",
    [
        None,
        "all",
        [1],
        [{"x_min": 1}],
        [{**DRAWN, "x_max": 5}],
        [{**DRAWN, "x_min": float("nan")}],
        [{**DRAWN, "label": "x" * 500}],
        [DRAWN] * 101,
        [{**DRAWN, "x_min": 5000, "x_max": 6000}],
    ],
)
def test_boxes_that_cannot_be_are_refused_and_nothing_is_lost(calls: ReviewApi, project: Project, boxes: Any) -> None:
    item = call_handler(calls.next_item, request())["item"]
    with pytest.raises(InputError):
        call_handler(calls.decide, request(item=item["id"], revision=1, decision="edit", boxes=boxes))
    assert project.item(item["id"]).label.status == "proposed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"reviewer": ""},
        {"reviewer": None},
        {"project": "../x"},
        {"filter": {"statuses": ["gone"]}},
        {"filter": {"min_score": 7}},
        {"filter": {"text": "x" * 501}},
        {"filter": "everything"},
    ],
)
def test_requests_that_cannot_be_used(calls: ReviewApi, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        call_handler(calls.next_item, {**request(), **wrong})


def test_a_decision_needs_a_known_item_and_its_revision(calls: ReviewApi) -> None:
    item = call_handler(calls.next_item, request())["item"]
    for wrong in ({"item": "x"}, {"item": item["id"], "revision": "1"}, {"item": item["id"], "revision": 9}):
        with pytest.raises(InputError):
            call_handler(calls.decide, request(decision="accept", **wrong))


def test_the_list_and_accepting_all(calls: ReviewApi, project: Project) -> None:
    found = call_handler(calls.list_items, request(filter={"min_score": 0.1}))
    assert (found["count"], found["acceptable"]["labels"], len(found["rows"])) == (2, 2, 2)
    with pytest.raises(InputError, match="2 labels match now, but you confirmed 1"):
        call_handler(calls.accept_all, request(filter={"min_score": 0.1}, expected=1))
    done = json.loads(json.dumps(call_handler(calls.accept_all, request(filter={"min_score": 0.1}, expected=2))))
    assert (done["is_over"], done["done"], done["summary"]) == (True, 2, "2 labels accepted.")
    assert call_handler(calls.bulk_progress, request()) == done
    assert project.count_by("status") == {"accepted": 2, "proposed": 1}
    for wrong in ("all", None, -1, True):
        with pytest.raises(InputError, match="confirmed number of labels"):
            call_handler(calls.accept_all, request(expected=wrong))
    undone = call_handler(calls.undo, request())
    assert undone["message"] == "Undone: accept of 2 labels" and undone["waiting"] == 3
    assert call_handler(calls.redo, request())["message"] == "Redone: accept of 2 labels"


def test_a_long_undo_is_polled(calls: ReviewApi, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    call_handler(calls.accept_all, request(expected=3))
    monkeypatch.setattr(review_module, "WAIT_SECONDS", 0.0)
    answer = call_handler(calls.undo, request())
    while "bulk" in answer and not answer["bulk"]["is_over"]:
        answer = {"bulk": call_handler(calls.bulk_progress, request())}
    assert project.count_by("status") == {"proposed": 3}


def test_a_bulk_accept_that_ended_early_is_reported(calls: ReviewApi, project: Project) -> None:
    with pytest.raises(InputError, match="No bulk action is running"):
        call_handler(calls.bulk_progress, request())
    call_handler(calls.accept_all, request(expected=3))
    with project.database.writing() as connection:
        connection.execute("UPDATE bulk_actions SET is_finished = 0, expected = 9, updated = 0")
    message = call_handler(calls.list_items, request())["unfinished"]
    assert "by Ada, ended early: 3 of 9 labels were accepted" in message
    fresh = ReviewApi(calls.label_api, calls.service)  # after a restart
    with pytest.raises(InputError, match="ended early"):
        call_handler(fresh.bulk_progress, request())
    call_handler(calls.undo, request())
    assert call_handler(calls.list_items, request())["unfinished"] == ""


def make_run(project: Project, name: str) -> None:
    prepare_run(project, LabelingConfig(model=name, item_filter=ItemFilter()))


def test_a_verdict_is_that_of_the_projects_own_model(calls: ReviewApi, project: Project, tmp_path: Path) -> None:
    """The same item in two projects, labeled by different models, and then by another model in the first."""
    models = {name: ScriptedModel(name=name, crops_only=said, direct="B") for name, said in (("x", "A"), ("y", "B"))}
    calls.service = AskService(tmp_path / "served_two", lambda name: models[name])
    calls.served = calls.service.folder
    calls.label_api.allowed = ModelAllowlist(trusted=("x", "y", "z"))
    call_handler(calls.label_api.create, {"name": "q"})
    other = calls.label_api.open_project("q")
    import_samples(other, LoadedSamples("s", tuple(ask(tmp_path / "street.png", number) for number in range(3))))
    make_run(project, "x")
    make_run(other, "y")
    item = next(project.items())
    assert next(other.items()).id == item.id
    asked = {"item": item.id, "boxes": [DRAWN]}
    verdicts = [call_handler(calls.check, {**request(**asked), "project": name})["check"] for name in ("p", "q", "p")]
    assert [(each["crops_correct"], each["model"]) for each in verdicts] == [(False, "x"), (True, "y"), (False, "x")]
    time.sleep(1.1)  # runs are ordered by the second of their ids
    make_run(project, "y")
    assert call_handler(calls.check, request(**asked))["check"]["model"] == "y"
    call_handler(calls.decide, request(item=item.id, revision=1, decision="edit", boxes=[DRAWN]))
    check = project.item(item.id).label.check
    assert check is not None and (check.model, check.crops_correct) == ("y", True)


def test_a_changed_name_of_a_box_is_verified_again(calls: ReviewApi, model: ScriptedModel, project: Project) -> None:
    item_id = next(project.items()).id
    call_handler(calls.check, request(item=item_id, boxes=[DRAWN]))
    asked = len(model.calls)
    call_handler(calls.check, request(item=item_id, boxes=[{**DRAWN, "label": "plate"}]))
    assert len(model.calls) > asked


def test_an_edit_is_saved_also_when_the_model_is_gone(calls: ReviewApi, project: Project, tmp_path: Path) -> None:
    def load(name: str) -> ScriptedModel:
        raise ModelError("expected a folder, found none")

    calls.service = AskService(tmp_path / "served_none", load)
    calls.served = calls.service.folder
    item = call_handler(calls.next_item, request())["item"]
    answer = call_handler(calls.decide, request(item=item["id"], revision=1, decision="edit", boxes=[DRAWN]))
    assert answer["message"].startswith("Saved without verification: expected a folder")
    label = project.item(item["id"]).label
    assert (label.status, label.check) == ("edited", None)


def test_accepting_nothing_needs_a_flag(calls: ReviewApi, project: Project) -> None:
    first = next(project.items()).id
    add_label(project, first, boxes=())
    for more in ({}, {"allow_empty": "yes"}):
        with pytest.raises(InputError, match="has no box"):
            call_handler(calls.decide, request(item=first, revision=2, decision="accept", **more))
        with pytest.raises(InputError, match="has no box"):
            call_handler(calls.decide, request(item=first, revision=2, decision="edit", boxes=[], **more))
    call_handler(calls.decide, request(item=first, revision=2, decision="accept", allow_empty=True))
    assert project.item(first).label.status == "accepted"


def test_what_chance_explains_is_shown(calls: ReviewApi, project: Project) -> None:
    first = next(project.items()).id
    add_label(project, first, score=0.0, check=make_check(rollouts=4, sufficiency=0.5, crops_correct=True))
    item = call_handler(calls.next_item, request())["item"]
    assert item["id"] == first and item["is_weak"] is True
    assert item["chance"] == [
        "Chance level with 2 options: 50 %.",
        "Rollouts correct: 2 of 4, not above chance (p = 0.69 for random guessing).",
    ]
    answer = call_handler(calls.check, request(item=first, boxes=[DRAWN]))
    assert answer["chance"][0] == "Chance level with 2 options: 50 %."


def test_an_image_that_is_gone_keeps_its_item(calls: ReviewApi, project: Project) -> None:
    Path(next(project.items()).image.path).unlink()
    with pytest.raises(InputError, match="The item is kept"):
        call_handler(calls.next_item, request())
    assert project.count_by("status") == {"proposed": 3}


def test_quality_losses_and_export(calls: ReviewApi, project: Project, tmp_path: Path) -> None:
    outputs = LabelExportApi(calls.label_api, tmp_path / "served")
    add_label(project, next(project.items()).id, status="accepted", check=make_check(crops_correct=True))
    quality = json.loads(json.dumps(call_handler(outputs.quality, {"project": "p"})))
    assert quality["evidence"][0]["labels"] == 3
    assert quality["figures"]["areas"].startswith("<svg")
    assert (tmp_path / "served" / quality["report"]).is_file()
    splits = {"splits": [1.0, 0.0, 0.0]}
    losses = call_handler(outputs.describe_export_loss, {"project": "p", "format": "yolo", **splits})
    assert losses["items"] == 1 and losses["losses"]
    first = call_handler(outputs.export, {"project": "p", "format": "native", **splits})
    second = call_handler(outputs.export, {"project": "p", "format": "native", **splits})
    assert (first["items"], first["boxes"], first["losses"]) == (1, 1, [])
    assert first["archive"] != second["archive"]
    assert (tmp_path / "served" / first["archive"]).is_file()
    with pytest.raises(InputError, match="add up to 100 %, got 90, 20, 10"):
        call_handler(outputs.describe_export_loss, {"project": "p", "format": "yolo", "splits": [0.9, 0.2, 0.1]})
    wrongs: list[dict[str, Any]] = [{"format": "gone"}, {"splits": [0.5, 0.1, 0.1]}, {"statuses": ["x"]}]
    for wrong in wrongs:
        with pytest.raises(InputError):
            call_handler(outputs.export, {"project": "p", "format": "coco", **splits, **wrong})


def test_training_settings_hold_questions_and_labels(calls: ReviewApi, project: Project, tmp_path: Path) -> None:
    outputs = LabelExportApi(calls.label_api, tmp_path / "served")
    with pytest.raises(InputError, match="Run the labeling, or review items"):
        call_handler(outputs.training_config, {"project": "p"})
    for item in list(project.items()):
        add_label(project, item.id, status="accepted")
    config = call_handler(outputs.training_config, {"project": "p"})
    assert (config.data.source, config.data.rl_samples, config.data.eval_samples) == ("jsonl", 2, 0)
    assert (config.method.stages, config.method.sft_target, config.data.sft_samples) == (
        "ap_grpo+sft",
        "grounded",
        None,
    )
    loaded = load_jsonl(Path(config.data.path), image_root=Path(config.data.image_root))
    assert all([box.xyxy for box in sample.label_boxes] == [BOX.xyxy] for sample in loaded.samples)


def test_the_list_shortens_long_questions_and_the_item_does_not(calls: ReviewApi, project: Project) -> None:
    item = next(project.items(limit=1))
    long = item.sample.model_copy(update={"id": "long", "question": "q" * 15_000})
    import_samples(project, LoadedSamples("more", (long,)))
    rows = call_handler(calls.list_items, request())["rows"]
    assert max(len(row["question"]) for row in rows) == LIST_TEXT_CHARS
    found = next(row["id"] for row in rows if len(row["question"]) == LIST_TEXT_CHARS)
    assert len(call_handler(calls.open_item, request(item=found))["item"]["question"]) == 15_000


def test_a_short_one_is_answered_at_once(calls: ReviewApi, project: Project) -> None:
    def work(report: ProgressCallback) -> str:
        report(3, 1)
        return "done"

    job = calls.start_bulk(project, "accept", 4, work)
    assert json.loads(json.dumps(job.to_dict())) == {
        "kind": "accept", "total": 4, "done": 3, "skipped": 1, "summary": "done", "error": "", "is_over": True,
    }  # fmt: skip


def test_a_long_one_is_polled_and_keeps_others_out(
    calls: ReviewApi, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_module, "WAIT_SECONDS", 0.01)
    goes_on = threading.Event()

    def work(report: ProgressCallback) -> str:
        report(1, 0)
        goes_on.wait(20)
        return "done"

    job = calls.start_bulk(project, "accept", 2, work)
    assert not job.is_over and calls._jobs.get(project.folder) is job
    with pytest.raises(InputError, match="A bulk accept is running"):
        calls.start_bulk(project, "undo", 0, work)
    goes_on.set()
    assert job.ended.wait(20) and job.summary == "done"
    assert calls.start_bulk(project, "undo", 0, lambda report: "again").is_over


def test_errors_are_reported(calls: ReviewApi, project: Project) -> None:
    def refuse(report: ProgressCallback) -> str:
        raise InputError("storage full")

    def vanish(report: ProgressCallback) -> str:
        raise FileNotFoundError(2, "gone", "/home/someone/secret")

    assert calls.start_bulk(project, "accept", 2, refuse).error == "storage full"
    assert "secret" not in calls.start_bulk(project, "accept", 2, vanish).error
    last = calls._jobs.get(project.folder)
    assert last is not None and last.is_over


def test_a_fault_of_the_program_ends_it(calls: ReviewApi, project: Project) -> None:
    def fail(report: ProgressCallback) -> str:
        raise RuntimeError("secret")

    job = calls.start_bulk(project, "accept", 2, fail)
    assert job.is_over and "This is a bug" in job.error and "secret" not in job.error
