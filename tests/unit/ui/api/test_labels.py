from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import InputError
from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.project_creation import TRASH
from hart_studio.labeling.project_locks import hold_run_lock
from hart_studio.runs import stopping
from hart_studio.runs.layout import find_run
from hart_studio.runs.processes import is_alive
from hart_studio.runs.reader import list_runs
from hart_studio.runs.status import read_status
from hart_studio.ui.api import labels as labels_module
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.label_limits import LabelLimits
from hart_studio.ui.api.labels import ImportState, LabelApi
from tests.unit.runs.conftest import wait_until


@pytest.fixture
def label_api(tmp_path: Path) -> LabelApi:
    return LabelApi(tmp_path / "labels")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path = tmp_path / "t.csv"
    path.write_text("image,question,answer\na.png,What?,red\na.png,Why?,\ngone.png,Who?,x\n")
    return path


def import_source(label_api: LabelApi, project: str, source: Path, **more: Any) -> dict[str, Any]:
    call_handler(label_api.start_import, {"project": project, "source": str(source), **more})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = call_handler(label_api.poll, {"project": project})
        assert state is not None
        if state["import"] and state["import"]["is_over"]:
            return dict(state["import"])
        time.sleep(0.02)
    raise AssertionError("the import did not end")


def test_a_project_is_made_listed_and_opened(label_api: LabelApi) -> None:
    assert call_handler(label_api.projects, {}) == []
    assert call_handler(label_api.create, {"name": "  Street Signs & more! "}) == {"id": "street-signs-more"}
    (entry,) = call_handler(label_api.projects, {})
    assert (entry["id"], entry["name"], entry["items"], entry["problem"]) == (
        "street-signs-more", "Street Signs & more!", 0, "",
    )  # fmt: skip
    with pytest.raises(InputError, match="already exists"):
        call_handler(label_api.create, {"name": "street signs (more)"})


@pytest.mark.parametrize("name", ["", "   "])
def test_a_project_without_a_name(label_api: LabelApi, name: str) -> None:
    with pytest.raises(InputError, match="Enter a name"):
        call_handler(label_api.create, {"name": name})


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Schöne Straße", "schone-strasse"), ("Ça va? Déjà vu", "ca-va-deja-vu"), ("日本", "project-cf2abf0c"),
        ("!!!", "project-e84c538e"), ("a" * 80, "a" * 64),
    ],
)  # fmt: skip
def test_the_folder_of_a_project_is_plain(label_api: LabelApi, name: str, slug: str) -> None:
    assert call_handler(label_api.create, {"name": name}) == {"id": slug}
    assert [(entry["id"], entry["name"]) for entry in call_handler(label_api.projects, {})] == [(slug, name)]


@pytest.mark.parametrize("name", ["../labels", "/etc", "a/b", "", None, 5, ["x"], "a" * 65, "UPPER", ".."])
def test_no_name_from_a_browser_leaves_the_root(label_api: LabelApi, name: Any) -> None:
    call_handler(label_api.create, {"name": "real"})
    with pytest.raises(InputError):
        call_handler(label_api.poll, {"project": name})


def test_a_link_to_a_project_elsewhere_is_not_listed(label_api: LabelApi, tmp_path: Path) -> None:
    call_handler(LabelApi(tmp_path / "others").create, {"name": "secret"})
    call_handler(label_api.create, {"name": "own"})
    (label_api.root / "linked").symlink_to(tmp_path / "others" / "secret")
    assert [project["id"] for project in call_handler(label_api.projects, {})] == ["own"]
    with pytest.raises(InputError):
        call_handler(label_api.poll, {"project": "linked"})


def test_an_import_goes_on_in_the_background_and_reports_its_result(label_api: LabelApi, table: Path) -> None:
    call_handler(label_api.create, {"name": "p"})
    job = import_source(label_api, "p", table)
    assert job["message"] == "2 added, 0 updated, 0 already in the project, 1 invalid rows"
    assert job["invalid_rows"][0][1] == f"image not found in {table.parent.resolve()}"
    assert (
        import_source(label_api, "p", table)["message"]
        == "0 added, 0 updated, 2 already in the project, 1 invalid rows"
    )
    state = call_handler(label_api.poll, {"project": "p"})
    assert state is not None
    assert (state["statuses"], state["evidence"]) == ({"new": 2}, {"agreement": 1, "known_answer": 1})


def test_images_of_a_table_lie_in_a_folder_that_a_person_names(
    label_api: LabelApi, table: Path, tmp_path: Path
) -> None:
    call_handler(label_api.create, {"name": "p"})
    moved = tmp_path / "elsewhere" / table.name
    moved.parent.mkdir()
    table.rename(moved)
    assert call_handler(label_api.preview_source, {"source": str(moved)})["found"] == 0
    assert "image not found in " in import_source(label_api, "p", moved)["error"]
    assert call_handler(label_api.preview_source, {"source": str(moved), "image_root": str(table.parent)})["found"] == 2
    assert import_source(label_api, "p", moved, image_root=str(table.parent))["message"].startswith("2 added")
    for ask in (label_api.preview_source, label_api.start_import):
        with pytest.raises(InputError, match="is not a folder"):
            call_handler(ask, {"project": "p", "source": str(moved), "image_root": "/gone/away"})


def test_an_import_that_fails_says_why(label_api: LabelApi, tmp_path: Path) -> None:
    call_handler(label_api.create, {"name": "p"})
    assert "Cannot read" in import_source(label_api, "p", tmp_path / "gone.csv")["error"]


def test_nothing_new_is_none(label_api: LabelApi) -> None:
    call_handler(label_api.create, {"name": "p"})
    state = call_handler(label_api.poll, {"project": "p"})
    assert state is not None
    assert call_handler(label_api.poll, {"project": "p", "signature": state["signature"]}) is None


def test_a_preview_shows_columns_and_rows(label_api: LabelApi, table: Path) -> None:
    found = call_handler(label_api.preview_source, {"source": f" {table} "})
    assert (found["kind"], found["names"]) == ("table", ["image", "question", "answer"])
    assert found["columns"]["answer"] == "answer"
    assert found["rows"][0] == {"image": "a.png", "question": "What?", "answer": "red"}
    with pytest.raises(InputError, match="No source"):
        call_handler(label_api.preview_source, {"source": " "})


def test_an_unchanged_zip_is_previewed_once_and_a_table_each_time(
    label_api: LabelApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(labels_module, "preview_source", lambda source, *rest: read.append(source) or {})
    for name in ("a.zip", "t.csv"):
        (tmp_path / name).write_bytes(b"PK")
        for _ in range(2):
            call_handler(label_api.preview_source, {"source": str(tmp_path / name)})
    assert read == [str(tmp_path / name) for name in ("a.zip", "t.csv", "t.csv")]
    call_handler(label_api.preview_source, {"source": str(tmp_path / "a.zip"), "image_column": "photo"})
    call_handler(label_api.preview_source, {"source": str(tmp_path / "a.zip"), "image_root": str(tmp_path)})
    os.utime(tmp_path / "a.zip", ns=(1, 1))
    call_handler(label_api.preview_source, {"source": str(tmp_path / "a.zip")})
    assert len(read) == 6, "with another column, with a folder of images, and after a change"


def test_a_run_is_started_once_and_with_arguments_alone(
    label_api: LabelApi, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(labels_module, "start_run", lambda layout, argv, variables: started.append(list(argv)))
    call_handler(label_api.create, {"name": "p"})
    with pytest.raises(InputError, match="No item to label with status new or failed"):
        call_handler(label_api.start, {"project": "p"})
    import_source(label_api, "p", table)
    run = call_handler(label_api.start, {"project": "p", "rollouts": 4, "is_refining": True})["run"]
    assert started[0][1:4] == ["-m", "hart_studio.labeling", "run"]
    assert started[0][-2:] == ["--resume", run]
    with pytest.raises(InputError, match="is already working on this project"):
        call_handler(label_api.start, {"project": "p"})
    state = call_handler(label_api.poll, {"project": "p"})
    assert state is not None
    assert (state["runs"][0]["state"], state["runs"][0]["total"]) == ("queued", 2)
    call_handler(label_api.pause, {"project": "p", "run": run})
    assert (call_handler(label_api.poll, {"project": "p"}) or {})["runs"][0]["is_paused"]
    call_handler(label_api.pause, {"project": "p", "run": run})
    assert not (call_handler(label_api.poll, {"project": "p"}) or {})["runs"][0]["is_paused"]


def test_of_two_servers_that_start_a_run_at_once_one_does(
    label_api: LabelApi, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(layout: Any, argv: list[str], variables: dict[str, str]) -> None:
        time.sleep(0.1)
        started.append(layout.run_id)

    monkeypatch.setattr(labels_module, "start_run", start)
    call_handler(label_api.create, {"name": "p"})
    import_source(label_api, "p", table)
    barrier = threading.Barrier(3)

    def press(server: LabelApi) -> str:
        barrier.wait()
        try:
            return call_handler(server.start, {"project": "p"})["run"]
        except InputError as error:
            return str(error)

    servers = [LabelApi(label_api.root) for _ in range(3)]  # they share nothing but the folder
    with ThreadPoolExecutor(3) as pool:
        errors = list(pool.map(press, servers))
    assert len(started) == 1
    assert sum("is already working on this project" in text for text in errors) == 2
    assert len(list_runs(label_api.open_project("p").runs)) == 1


def test_a_resumed_run_is_that_of_the_copy_that_was_opened(
    label_api: LabelApi, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(labels_module, "start_run", lambda layout, argv, variables: started.append(list(argv)))
    call_handler(label_api.create, {"name": "p"})
    import_source(label_api, "p", table)
    run = call_handler(label_api.start, {"project": "p"})["run"]
    CONNECTION_POOL.close_idle(label_api.root)
    shutil.copytree(label_api.root / "p", label_api.root / "copy")
    call_handler(label_api.resume, {"project": "copy", "run": run})
    assert started[1][4] == str(label_api.root / "copy")


def test_projects_that_are_moved_away_and_back_are_what_is_there_now(label_api: LabelApi, table: Path) -> None:
    call_handler(label_api.create, {"name": "p"})
    import_source(label_api, "p", table)
    (label_api.root / "p").rename(label_api.root.parent / "away")
    with pytest.raises(InputError, match="No project"):
        call_handler(label_api.poll, {"project": "p"})
    assert call_handler(label_api.projects, {}) == []
    call_handler(label_api.create, {"name": "p"})
    state = call_handler(label_api.poll, {"project": "p"})
    assert state is not None and state["statuses"] == {}, "a new project of that name is another one"


@pytest.mark.parametrize(
    "wrong", [{"rollouts": 1}, {"rollouts": "many"}, {"statuses": ["gone"]}, {"model": ""}, {"surprise": 1}]
)
def test_settings_that_cannot_be_used(label_api: LabelApi, wrong: dict[str, Any]) -> None:
    call_handler(label_api.create, {"name": "p"})
    with pytest.raises(InputError, match="Invalid request: "):
        call_handler(label_api.start, {"project": "p", **wrong})


def test_what_the_scores_rest_on_is_known_before_a_run(label_api: LabelApi, table: Path) -> None:
    call_handler(label_api.create, {"name": "p"})
    assert call_handler(label_api.describe_score_basis, {"project": "p"})["cautions"] == ()
    assert "calibrated on needle" in call_handler(label_api.describe_score_basis, {"project": "p"})["basis"]
    import_source(label_api, "p", table)
    found = call_handler(label_api.describe_score_basis, {"project": "p"})
    assert found["basis"] == "" and "2 of 2 items will be uncalibrated" in found["cautions"][0]
    assert "hart-tiny was trained only on synthetic needle scenes" in found["warnings"][0]
    state = call_handler(label_api.poll, {"project": "p"})
    assert state is not None and state["image_domains"] == [""], "so the page suggests no built-in model"
    other = call_handler(label_api.describe_score_basis, {"project": "p", "model": "org/other"})
    assert other["basis"] == "" and "no calibration for this model" in other["cautions"][0]
    with pytest.raises(InputError, match="rollouts: Input should be greater than or equal to 2"):
        call_handler(label_api.describe_score_basis, {"project": "p", "rollouts": 1})
    with pytest.raises(InputError, match="Cannot read the model 'xxx"):
        call_handler(label_api.describe_score_basis, {"project": "p", "model": "x" * 299})
    closed = LabelApi(label_api.root, is_open=False)
    with pytest.raises(InputError, match=r"disabled on (a|this) public page"):
        call_handler(closed.describe_score_basis, {"project": "p"})


def test_run_ids_are_checked(label_api: LabelApi) -> None:
    call_handler(label_api.create, {"name": "p"})
    for run in ("../../x", "20260101-000000-labeling-000000", None):
        with pytest.raises(InputError):
            call_handler(label_api.stop, {"project": "p", "run": run})


HUNG = """
import sys, time
from pathlib import Path
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter
with RunWriter(RunLayout(Path(sys.argv[1])), total=2) as run:
    run.log_step(1, "", {})
    time.sleep(600)
"""


def test_a_labeling_run_that_hangs_is_ended_from_the_page_and_can_be_resumed(
    label_api: LabelApi, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_start, plain_stop = labels_module.start_run, stopping.stop_run
    command = [sys.executable, "-c", HUNG]
    monkeypatch.setattr(
        labels_module, "start_run", lambda layout, argv, variables: plain_start(layout, [*command, str(layout.folder)])
    )
    monkeypatch.setattr(stopping, "stop_run", lambda layout, left: plain_stop(layout, left, end_seconds=0.5))
    call_handler(label_api.create, {"name": "p"})
    import_source(label_api, "p", table)
    request = {"project": "p", "run": call_handler(label_api.start, {"project": "p"})["run"]}

    def state() -> str:
        return str((call_handler(label_api.poll, {"project": "p"}) or {})["runs"][0]["state"])

    wait_until(lambda: state() == "running")
    layout = find_run(label_api.open_project("p").runs, request["run"])
    pid = read_status(layout).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        call_handler(label_api.stop, request)
        assert state() == "stopping"
        monkeypatch.setitem(stopping.SAVE_SECONDS, "labeling", 0.0)
        monkeypatch.setattr(stopping, "_stopping", {})  # as after a restart of the server
        wait_until(lambda: state() == "stopped")  # the poll continues with the stop
        call_handler(label_api.resume, request)
        wait_until(lambda: state() == "running")
        os.kill(read_status(layout).pid or 0, signal.SIGSTOP)
        call_handler(label_api.stop, {**request, "now": True})
        wait_until(lambda: state() == "stopped")
    finally:
        last = read_status(layout)
        if last.pid and is_alive(last.pid, last.pid_start):
            os.kill(last.pid, signal.SIGKILL)


def test_a_public_page_makes_nothing(tmp_path: Path, table: Path) -> None:
    call_handler(LabelApi(tmp_path / "labels").create, {"name": "p"})
    closed = LabelApi(tmp_path / "labels", is_open=False)
    assert call_handler(closed.poll, {"project": "p"}) is not None
    with pytest.raises(InputError, match=r"disabled on (a|this) public page"):
        call_handler(closed.start, {"project": "p"})
    for act in (closed.create, closed.preview_source, closed.start_import, closed.resume):
        with pytest.raises(InputError, match=r"disabled on (a|this) public page"):
            call_handler(act, {"project": "p", "name": "x", "source": str(table), "run": "x"})


def test_an_import_that_did_not_start_blocks_nothing(
    label_api: LabelApi, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_handler(label_api.create, {"name": "p"})

    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    for owner, name in ((threading.Thread, "start"), (LabelApi, "_count_elsewhere")):
        label_api.limits = LabelLimits(max_items=10)
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="new thread"):
            patch.setattr(owner, name, fail)
            call_handler(label_api.start_import, {"project": "p", "source": str(table)})
        assert import_source(label_api, "p", table)["error"] == "", name


@pytest.fixture
def api(label_api: LabelApi) -> LabelApi:
    """With one project."""
    call_handler(label_api.create, {"name": "Signs"})
    return label_api


def shown(api: LabelApi) -> list[tuple[str, str, bool]]:
    return [(entry["id"], entry["name"], entry["is_archived"]) for entry in call_handler(api.projects, {})]


def test_the_life_of_a_project(api: LabelApi) -> None:
    signs = {"project": "signs"}
    assert call_handler(api.rename, {**signs, "name": "Street signs"}) == {"id": "signs"}
    assert call_handler(api.duplicate, {**signs, "name": "Copy"}) == {"id": "copy"}
    assert call_handler(api.archive, signs) == {"id": "signs"}
    assert shown(api) == [("copy", "Copy", False), ("signs", "Street signs", True)]
    call_handler(api.archive, {**signs, "is_archived": False})
    assert shown(api)[1] == ("signs", "Street signs", False)
    with pytest.raises(InputError, match="does not match"):
        call_handler(api.delete, {**signs, "confirmation": "Signs"})
    entry = call_handler(api.delete, {**signs, "confirmation": "Street signs"})["entry"]
    assert shown(api) == [("copy", "Copy", False)]
    with pytest.raises(InputError, match="No project"):
        call_handler(api.poll, signs)
    (deleted,) = call_handler(api.trash, {})
    assert (deleted["entry"], deleted["name"], deleted["days_left"]) == (entry, "Street signs", 7)
    assert call_handler(api.restore, {"entry": entry}) == {"id": "signs"}
    assert len(shown(api)) == 2


def test_a_deleted_project_leaves_no_state_of_its_import(api: LabelApi) -> None:
    api._imports["signs"] = ImportState(message="3 added", is_over=True)
    call_handler(api.delete, {"project": "signs", "confirmation": "Signs"})
    call_handler(api.create, {"name": "Signs"})
    assert (call_handler(api.poll, {"project": "signs"}) or {})["import"] is None


def test_a_project_at_work_is_left_alone(api: LabelApi) -> None:
    with hold_run_lock(api.open_project("signs"), "20260101-000000-labeling-abcdef"):
        for call, more in ((api.rename, {"name": "x"}), (api.archive, {}), (api.delete, {"confirmation": "Signs"})):
            with pytest.raises(InputError, match=r"20260101-000000-labeling-abcdef .* is already working"):
                call_handler(call, {"project": "signs", **more})
    assert shown(api) == [("signs", "Signs", False)]


@pytest.mark.parametrize("project", ["../labels", None, "gone", 5, ".trash"])
def test_only_projects_of_the_list(api: LabelApi, project: Any) -> None:
    for call in (api.rename, api.duplicate, api.archive, api.delete):
        with pytest.raises(InputError):
            call_handler(call, {"project": project, "name": "x", "confirmation": "x"})
    with pytest.raises(InputError):
        call_handler(api.restore, {"entry": project})


def test_nothing_on_a_closed_page(api: LabelApi) -> None:
    api.is_open = False
    for call in (api.rename, api.duplicate, api.archive, api.delete, api.trash, api.restore):
        with pytest.raises(InputError, match=r"disabled on (a|this) public page"):
            call_handler(call, {"project": "signs", "name": "x", "confirmation": "Signs", "entry": "x"})


def test_a_page_without_trash_removes_for_good(api: LabelApi) -> None:
    api.limits = LabelLimits(keeps_trash=False)
    assert call_handler(api.delete, {"project": "signs", "confirmation": "Signs"}) == {"entry": ""}
    assert not any((api.root / TRASH).iterdir())


def test_a_copy_counts_against_the_bound_of_questions(api: LabelApi) -> None:
    api.limits = LabelLimits(max_items=0)
    call_handler(api.duplicate, {"project": "signs", "name": "empty"})
    api.limits = LabelLimits(max_items=-1)
    with pytest.raises(InputError, match="A copy would exceed"):
        call_handler(api.duplicate, {"project": "signs", "name": "more"})
