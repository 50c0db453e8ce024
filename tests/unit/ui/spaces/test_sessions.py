"""Sessions of Space visitors: private, limited, temporary."""

from __future__ import annotations

import base64
import secrets
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import HartError, InputError
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.spaces import sessions as sessions_module
from hart_studio.ui.spaces.sessions import AWAY_SECONDS, IDLE_SECONDS, SessionStore
from tests.space_sessions import (
    Clock,
    call,
    import_source,
    make_image,
    make_session_token,
    set_limits,
    state_of,
    upload_table,
    upload_zip,
)


@pytest.mark.parametrize(
    "wrong",
    [None, "", 7, ["a" * 64], {"a": 1}, "a" * 63, "a" * 65, "A" * 64, "../" * 21 + "a", "a" * 64 + "\n", "g" * 64],
)
@pytest.mark.parametrize("name", ["projects", "create", "poll", "decide"])
def test_without_a_token_nothing_is_answered(sessions: SessionStore, wrong: Any, name: str) -> None:
    with pytest.raises(InputError, match="Session expired"):
        call(sessions, wrong, name, name="x", project="signs")
    assert not list(sessions.root.iterdir())


def test_a_stranger_finds_nothing(sessions: SessionStore, session_token: str) -> None:
    stranger = make_session_token()
    assert call(sessions, session_token, "projects") == [
        {"id": "signs", "name": "Signs", "items": 0, "is_archived": False, "problem": ""}
    ]
    assert call(sessions, stranger, "projects") == []
    for name in (
        "poll",
        "invalid_rows",
        "quality",
        "describe_export_loss",
        "list_items",
        "start",
        "export",
        "next_item",
        "preview_source",
    ):
        with pytest.raises(InputError, match="browser tab has no projects"):
            call(sessions, stranger, name, project="signs")
    call(sessions, stranger, "create", name="Own")
    assert [each["id"] for each in call(sessions, stranger, "projects")] == ["own"]
    for project in ("signs", f"../{next(sessions.root.iterdir()).name}/signs", session_token):
        with pytest.raises(InputError):
            call(sessions, stranger, "poll", project=project)


def test_the_folder_does_not_reveal_the_token(sessions: SessionStore, session_token: str) -> None:
    (session,) = sessions.root.iterdir()
    assert session_token not in session.name
    assert session.stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="browser tab has no projects"):
        call(sessions, session.name, "poll", project="signs")


def test_what_is_served_lies_under_a_name_that_cannot_be_guessed(
    sessions: SessionStore, session_token: str, uploads: Path
) -> None:
    import_source(sessions, session_token, upload_zip(uploads))
    other = make_session_token()
    call(sessions, other, "create", name="Signs")
    names = [call(sessions, each, "quality", project="signs")["report"] for each in (session_token, other)]
    archive = call(sessions, session_token, "export", project="signs", format="native", statuses=["new"])
    assert archive["folder"] == "", "no folder of this machine is shown"
    shown = call(sessions, session_token, "open_item", project="signs", reviewer="Ada", item=call(
        sessions, session_token, "list_items", project="signs")["rows"][0]["id"])["item"]  # fmt: skip
    served = [*names, archive["archive"], shown["preview"]["path"], shown["detail"]["path"]]
    secret = {name.split("/")[1] for name in served}
    assert len(secret) == 2 and all(len(each) == 32 for each in secret)
    assert all((uploads / "work" / name).is_file() for name in served)
    assert all(session.name not in name for name in served for session in sessions.root.iterdir())


def test_images_come_in_the_file_and_from_nowhere_else(
    sessions: SessionStore, session_token: str, uploads: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(make_image(9))
    inside = base64.b64encode(make_image(1)).decode()
    rows = [{"image": image, "question": f"What {n}?", "answer": "red"} for n, image in enumerate(
        [inside, str(tmp_path / "secret.png"), "../secret.png", "/etc/passwd", "http://127.0.0.1:1/x"])]  # fmt: skip
    report = import_source(sessions, session_token, upload_table(uploads, rows))
    assert report["message"].startswith("1 added") and report["message"].endswith("4 invalid rows")


def zip_with(uploads: Path, entries: dict[str, bytes]) -> Path:
    folder = uploads / secrets.token_hex(8)
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return folder / "set.zip"


def test_a_table_in_a_zip_names_images_in_it_and_no_others(
    sessions: SessionStore, session_token: str, uploads: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(make_image(9))
    names = ["img/a.png", "../img/a.png", "../../../secret.png", str(tmp_path / "secret.png"), "img/none.png"]
    table = "image,question\n" + "".join(f"{name},What {n}?\n" for n, name in enumerate(names))
    source = zip_with(uploads, {"q.csv": table.encode(), "img/a.png": make_image(1)})
    preview = call(
        sessions, session_token, "preview_source", project="signs", source=str(source), image_root=str(tmp_path)
    )
    assert (preview["kind"], preview["found"]) == ("table", 1)
    report = import_source(sessions, session_token, source, image_root=str(tmp_path))
    assert report["message"].startswith("1 added") and report["message"].endswith("4 invalid rows")
    assert call(sessions, session_token, "list_items", project="signs")["rows"][0]["name"] == "a.png"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"q.csv": b"image,question\n" * 6000}, "Table too long"),
        ({"a.csv": b"image\n" * 3000, "b.csv": b"image\n" * 3000}, "2 tables of questions"),
        ({"q.json": b"[" * 1000}, "in the zip is not supported"),
        ({"q.parquet": b"PAR1"}, "in the zip is not supported"),
        ({"q.csv": b"x" * (65 << 20)}, "Tables in the zip too large"),
    ],
    ids=["lines", "two", "json", "parquet", "large"],
)
def test_tables_in_a_zip_have_bounds(
    sessions: SessionStore, session_token: str, uploads: Path, entries: dict[str, bytes], message: str
) -> None:
    source = zip_with(uploads, {**entries, "a.png": make_image(1)})
    for act in ("preview_source", "start_import"):
        with pytest.raises(InputError, match=message):
            call(sessions, session_token, act, project="signs", source=str(source), question="What?")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "owner/data", "http://127.0.0.1/x.zip", "", None, 3, "x\0.zip", "~", "."]
)
def test_only_uploaded_files_are_read(sessions: SessionStore, session_token: str, name: Any) -> None:
    for act in ("preview_source", "start_import"):
        with pytest.raises(InputError):
            call(sessions, session_token, act, project="signs", source=name)


def test_no_link_leads_out_of_the_uploads(
    sessions: SessionStore, session_token: str, uploads: Path, tmp_path: Path
) -> None:
    outside = upload_zip(tmp_path)
    (uploads / "link.zip").symlink_to(outside)
    (uploads / "up").symlink_to(tmp_path)
    for source in (uploads / "link.zip", uploads / "up" / outside.relative_to(tmp_path), uploads / ".." / outside.name):
        with pytest.raises(InputError, match="Only uploaded files"):
            call(sessions, session_token, "start_import", project="signs", source=str(source))


@pytest.mark.parametrize("kind", ["hugging_face", "native", "coco", "yolo", "folder", "images"])
def test_kinds_that_name_images_elsewhere_are_refused(
    sessions: SessionStore, session_token: str, uploads: Path, kind: str
) -> None:
    source = upload_table(uploads, [{"image": "a", "question": "b"}])
    with pytest.raises(InputError, match="is not supported here"):
        call(sessions, session_token, "start_import", project="signs", source=str(source), kind=kind)


def test_bounds_of_one_visitor(sessions: SessionStore, session_token: str, uploads: Path) -> None:
    for name in ("two", "three"):
        call(sessions, session_token, "create", name=name)
    with pytest.raises(InputError, match="At most 3 projects"):
        call(sessions, session_token, "create", name="four")
    set_limits(sessions, max_source_bytes=100)
    with pytest.raises(InputError, match="File too large"):
        call(sessions, session_token, "start_import", project="signs", source=str(upload_zip(uploads)))
    set_limits(sessions, max_source_bytes=1 << 20, max_lines=3)
    rows = [{"image": "a", "question": "b"}] * 5
    with pytest.raises(InputError, match="Table too long"):
        call(sessions, session_token, "preview_source", project="signs", source=str(upload_table(uploads, rows)))
    with pytest.raises(InputError, match="files in the zip"):
        call(sessions, session_token, "start_import", project="signs", source=str(upload_zip(uploads, 5)))
    set_limits(sessions, max_lines=5000)
    set_limits(sessions, max_bytes=10)
    with pytest.raises(InputError, match="per visitor"):
        call(sessions, session_token, "start_import", project="signs", source=str(upload_zip(uploads)))


def test_questions_of_all_projects_count_together(sessions: SessionStore, uploads: Path) -> None:
    set_limits(sessions, max_items=3)
    session_token = make_session_token()
    for name in ("other", "signs"):
        call(sessions, session_token, "create", name=name)
    assert "2 added" in import_source(sessions, session_token, upload_zip(uploads, 2))["message"]
    call(sessions, session_token, "start_import", project="other", source=str(upload_zip(uploads, 2)), question="What?")
    deadline = time.monotonic() + 20
    while not (call(sessions, session_token, "poll", project="other")["import"] or {}).get("is_over"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (
        "The import has 2 questions, but the project can hold 1"
        in call(sessions, session_token, "poll", project="other")["import"]["error"]
    )


def test_full_storage_refuses_new_work(sessions: SessionStore, session_token: str) -> None:
    set_limits(sessions, max_kept_bytes=10)
    with pytest.raises(InputError, match="with exports"):
        call(sessions, session_token, "export", project="signs", format="native")


def test_one_run_at_a_time_over_all_visitors(
    sessions: SessionStore, session_token: str, running: Callable[[str], dict[str, str]]
) -> None:
    run = running(session_token)
    other = make_session_token()
    with pytest.raises(InputError, match="another visitor"):
        running(other)
    with pytest.raises(InputError, match="At most 8 rollouts"):
        call(sessions, other, "start", project="signs", rollouts=9)
    assert call(sessions, session_token, "poll", project="signs")["runs"][0]["id"] == run["run"]


def test_a_visitor_names_built_in_models_only(sessions: SessionStore, session_token: str, uploads: Path) -> None:
    import_source(sessions, session_token, upload_zip(uploads, 1))
    for model in ("/etc", "owner/model", str(uploads)):
        with pytest.raises(InputError, match="not allowed on this server"):
            call(sessions, session_token, "start", project="signs", model=model, rollouts=2)


def test_a_run_of_someone_who_left_frees_the_slot(
    sessions: SessionStore, session_token: str, running: Callable[[str], dict[str, str]], clock: Clock
) -> None:
    running(session_token)
    clock.now += AWAY_SECONDS - 1
    sessions.sweep()
    assert state_of(sessions, session_token) in {"queued", "running"}
    clock.now += AWAY_SECONDS + 1
    sessions.sweep()
    assert state_of(sessions, session_token) == "stopped"


def test_an_idle_session_expires(
    sessions: SessionStore, session_token: str, clock: Clock, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_source(sessions, session_token, upload_zip(uploads))
    shown = uploads / "work" / call(sessions, session_token, "quality", project="signs")["report"]
    monkeypatch.setattr(time, "time", lambda: 4e9)  # the clock of the wall is no one's business
    assert sessions.sweep() == 1
    clock.now += IDLE_SECONDS - 1
    assert sessions.sweep() == 1
    call(sessions, session_token, "poll", project="signs")
    clock.now += IDLE_SECONDS - 1
    assert sessions.sweep() == 1
    clock.now += 2
    assert sessions.sweep() == 0
    assert not list(sessions.root.iterdir()) and not shown.exists()
    with pytest.raises(InputError, match="browser tab has no projects"):
        call(sessions, session_token, "poll", project="signs")
    assert call(sessions, session_token, "create", name="Signs") == {"id": "signs"}


def test_no_session_expires_during_a_call(sessions: SessionStore, session_token: str, clock: Clock) -> None:
    with sessions.enter(session_token):
        clock.now += 10 * IDLE_SECONDS
        assert sessions.sweep() == 1
    assert sessions.sweep() == 1, "it was left a moment ago"


def test_with_all_sessions_busy_one_more_is_refused(
    sessions: SessionStore, session_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        call(sessions, make_session_token(), "create", name="Signs")
    monkeypatch.setattr(LabelApi, "has_run", property(lambda self: True))
    with pytest.raises(InputError, match="Too many visitors"):
        call(sessions, make_session_token(), "create", name="Signs")
    assert call(sessions, session_token, "projects")
    monkeypatch.undo()


def test_few_files_are_read_at_once(
    sessions: SessionStore, session_token: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "MAX_IMPORTS", 1)
    monkeypatch.setattr(LabelApi, "is_importing", property(lambda self: True))
    with pytest.raises(InputError, match="Too many imports"):
        call(sessions, session_token, "start_import", project="signs", source=str(upload_zip(uploads)))
    monkeypatch.undo()


def test_everything_goes_with_the_server(
    sessions: SessionStore, session_token: str, running: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    running(session_token)
    with sessions.enter(session_token) as session:
        assert session is not None
        (run,) = session.labels.all_runs()
        assert run.status is not None and run.status.pid is not None
        pid = run.status.pid
    sessions.close()
    assert not list(sessions.root.iterdir())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1][:3]:
        assert time.monotonic() < deadline, "the run outlived the server"
        time.sleep(0.05)
    with pytest.raises(HartError):
        call(sessions, session_token, "poll", project="signs")


def test_a_deleted_project_of_a_visitor_frees_storage_at_once(
    sessions: SessionStore, session_token: str, uploads: Path
) -> None:
    import_source(sessions, session_token, upload_zip(uploads))
    for name in ("two", "three"):
        call(sessions, session_token, "create", name=name)
    with pytest.raises(InputError, match="At most 3 projects"):
        call(sessions, session_token, "duplicate", project="signs", name="four")
    call(sessions, session_token, "delete", project="three", confirmation="three")
    assert call(sessions, session_token, "trash") == []
    assert call(sessions, session_token, "duplicate", project="signs", name="four") == {"id": "four"}
    call(sessions, session_token, "rename", project="four", name="Fourth")
    call(sessions, session_token, "archive", project="four")
    assert {entry["name"]: entry["is_archived"] for entry in call(sessions, session_token, "projects")} == {
        "Fourth": True,
        "Signs": False,
        "two": False,
    }
    with pytest.raises(InputError, match=r"browser tab has no projects|which is not there"):
        call(sessions, make_session_token(), "delete", project="signs", confirmation="Signs")


def test_a_copy_counts_against_what_a_visitor_may_keep(
    sessions: SessionStore, session_token: str, uploads: Path
) -> None:
    import_source(sessions, session_token, upload_zip(uploads, 2))
    set_limits(sessions, max_bytes=1000)
    with pytest.raises(InputError, match="A copy would exceed"):
        call(sessions, session_token, "duplicate", project="signs", name="copy")
    set_limits(sessions, max_bytes=1 << 20, max_items=3)
    newer = make_session_token()
    call(sessions, newer, "create", name="signs")
    import_source(sessions, newer, upload_zip(uploads, 2))
    with pytest.raises(InputError, match="A copy would exceed"):
        call(sessions, newer, "duplicate", project="signs", name="copy")
