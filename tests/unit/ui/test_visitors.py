"""Rooms of a Space's visitors: private, bounded, and gone in time."""

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
from hart_studio.ui import visitor_desk, visitors
from hart_studio.ui.visitors import ABSENT_SECONDS, IDLE_SECONDS, Visitors
from tests.visitors import Clock, bring, call, make_picture, make_ticket, state_of, upload_table, upload_zip


@pytest.mark.parametrize(
    "wrong",
    [None, "", 7, ["a" * 64], {"a": 1}, "a" * 63, "a" * 65, "A" * 64, "../" * 21 + "a", "a" * 64 + "\n", "g" * 64],
)
@pytest.mark.parametrize("name", ["projects", "create", "look", "decide"])
def test_without_a_ticket_nothing_is_answered(rooms: Visitors, wrong: Any, name: str) -> None:
    with pytest.raises(InputError, match="ticket"):
        rooms.answering(name)({"visitor": wrong, "name": "x", "project": "signs"})
    assert not list(rooms.root.iterdir())


def test_a_stranger_finds_nothing(rooms: Visitors, ticket: str) -> None:
    stranger = make_ticket()
    assert call(rooms, ticket, "projects") == [
        {"id": "signs", "name": "Signs", "items": 0, "is_archived": False, "problem": ""}
    ]
    assert call(rooms, stranger, "projects") == []
    for name in ("look", "invalid_rows", "quality", "losses", "list_items", "start", "export", "next_item", "peek"):
        with pytest.raises(InputError, match="of this browser tab"):
            call(rooms, stranger, name, project="signs")
    call(rooms, stranger, "create", name="Own")
    assert [each["id"] for each in call(rooms, stranger, "projects")] == ["own"]
    for project in ("signs", f"../{next(rooms.root.iterdir()).name}/signs", ticket):
        with pytest.raises(InputError):
            call(rooms, stranger, "look", project=project)


def test_the_folder_does_not_tell_the_ticket(rooms: Visitors, ticket: str) -> None:
    (room,) = rooms.root.iterdir()
    assert ticket not in room.name
    assert room.stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="of this browser tab"):
        call(rooms, room.name, "look", project="signs")


def test_what_is_served_lies_under_a_name_that_cannot_be_guessed(rooms: Visitors, ticket: str, uploads: Path) -> None:
    bring(rooms, ticket, upload_zip(uploads))
    other = make_ticket()
    call(rooms, other, "create", name="Signs")
    names = [call(rooms, each, "quality", project="signs")["report"] for each in (ticket, other)]
    archive = call(rooms, ticket, "export", project="signs", format="native", statuses=["new"])
    assert archive["folder"] == "", "no folder of this machine is told"
    shown = call(rooms, ticket, "open_item", project="signs", reviewer="Ada", item=call(
        rooms, ticket, "list_items", project="signs")["rows"][0]["id"])["item"]  # fmt: skip
    served = [*names, archive["archive"], shown["preview"]["path"], shown["detail"]["path"]]
    secret = {name.split("/")[1] for name in served}
    assert len(secret) == 2 and all(len(each) == 32 for each in secret)
    assert all((uploads / "work" / name).is_file() for name in served)
    assert all(room.name not in name for name in served for room in rooms.root.iterdir())


def test_pictures_come_in_the_file_and_from_nowhere_else(
    rooms: Visitors, ticket: str, uploads: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(make_picture(9))
    inside = base64.b64encode(make_picture(1)).decode()
    rows = [{"image": image, "question": f"What {n}?", "answer": "red"} for n, image in enumerate(
        [inside, str(tmp_path / "secret.png"), "../secret.png", "/etc/passwd", "http://127.0.0.1:1/x"])]  # fmt: skip
    told = bring(rooms, ticket, upload_table(uploads, rows))
    assert told["told"].startswith("1 added") and told["told"].endswith("4 bad rows")


def zip_with(uploads: Path, entries: dict[str, bytes]) -> Path:
    folder = uploads / secrets.token_hex(8)
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return folder / "set.zip"


def test_a_table_in_a_zip_names_pictures_in_it_and_no_others(
    rooms: Visitors, ticket: str, uploads: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(make_picture(9))
    names = ["img/a.png", "../img/a.png", "../../../secret.png", str(tmp_path / "secret.png"), "img/none.png"]
    table = "image,question\n" + "".join(f"{name},What {n}?\n" for n, name in enumerate(names))
    source = zip_with(uploads, {"q.csv": table.encode(), "img/a.png": make_picture(1)})
    peeked = call(rooms, ticket, "peek", project="signs", source=str(source), image_root=str(tmp_path))
    assert (peeked["kind"], peeked["found"]) == ("table", 1)
    told = bring(rooms, ticket, source, image_root=str(tmp_path))
    assert told["told"].startswith("1 added") and told["told"].endswith("4 bad rows")
    assert call(rooms, ticket, "list_items", project="signs")["rows"][0]["name"] == "a.png"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"q.csv": b"image,question\n" * 6000}, "lines in a table"),
        ({"a.csv": b"image\n" * 3000, "b.csv": b"image\n" * 3000}, "one table of questions"),
        ({"q.json": b"[" * 1000}, "leave it out"),
        ({"q.parquet": b"PAR1"}, "leave it out"),
        ({"q.csv": b"x" * (65 << 20)}, "MiB of tables"),
    ],
    ids=["lines", "two", "json", "parquet", "large"],
)
def test_tables_in_a_zip_have_bounds(
    rooms: Visitors, ticket: str, uploads: Path, entries: dict[str, bytes], message: str
) -> None:
    source = zip_with(uploads, {**entries, "a.png": make_picture(1)})
    for act in ("peek", "bring"):
        with pytest.raises(InputError, match=message):
            call(rooms, ticket, act, project="signs", source=str(source), question="What?")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "owner/data", "http://127.0.0.1/x.zip", "", None, 3, "x\0.zip", "~", "."]
)
def test_only_uploaded_files_are_read(rooms: Visitors, ticket: str, name: Any) -> None:
    for act in ("peek", "bring"):
        with pytest.raises(InputError):
            call(rooms, ticket, act, project="signs", source=name)


def test_no_link_leads_out_of_the_uploads(rooms: Visitors, ticket: str, uploads: Path, tmp_path: Path) -> None:
    outside = upload_zip(tmp_path)
    (uploads / "link.zip").symlink_to(outside)
    (uploads / "up").symlink_to(tmp_path)
    for source in (uploads / "link.zip", uploads / "up" / outside.relative_to(tmp_path), uploads / ".." / outside.name):
        with pytest.raises(InputError, match="uploaded here"):
            call(rooms, ticket, "bring", project="signs", source=str(source))


@pytest.mark.parametrize("kind", ["hugging_face", "native", "coco", "yolo", "folder", "images"])
def test_kinds_that_name_pictures_elsewhere_are_refused(rooms: Visitors, ticket: str, uploads: Path, kind: str) -> None:
    source = upload_table(uploads, [{"image": "a", "question": "b"}])
    with pytest.raises(InputError, match="expected a zip of pictures"):
        call(rooms, ticket, "bring", project="signs", source=str(source), kind=kind)


def test_bounds_of_one_visitor(rooms: Visitors, ticket: str, uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("two", "three"):
        call(rooms, ticket, "create", name=name)
    with pytest.raises(InputError, match="at most 3 projects"):
        call(rooms, ticket, "create", name="four")
    monkeypatch.setattr(visitor_desk, "MOST_SOURCE_BYTES", 100)
    with pytest.raises(InputError, match="in one file"):
        call(rooms, ticket, "bring", project="signs", source=str(upload_zip(uploads)))
    monkeypatch.undo()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    monkeypatch.setattr(visitor_desk, "MOST_LINES", 3)
    rows = [{"image": "a", "question": "b"}] * 5
    with pytest.raises(InputError, match="lines in a table"):
        call(rooms, ticket, "peek", project="signs", source=str(upload_table(uploads, rows)))
    with pytest.raises(InputError, match="files in a zip"):
        call(rooms, ticket, "bring", project="signs", source=str(upload_zip(uploads, 5)))
    monkeypatch.setattr(visitor_desk, "MOST_LINES", 5000)
    monkeypatch.setattr(visitor_desk, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="of one visitor"):
        call(rooms, ticket, "bring", project="signs", source=str(upload_zip(uploads)))


def test_questions_of_all_projects_count_together(
    rooms: Visitors, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor_desk, "MOST_ITEMS", 3)
    ticket = make_ticket()
    for name in ("other", "signs"):
        call(rooms, ticket, "create", name=name)
    assert "2 added" in bring(rooms, ticket, upload_zip(uploads, 2))["told"]
    call(rooms, ticket, "bring", project="other", source=str(upload_zip(uploads, 2)), question="What?")
    deadline = time.monotonic() + 20
    while not (call(rooms, ticket, "look", project="other")["import"] or {}).get("is_over"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "room for 2 questions, got 1" in call(rooms, ticket, "look", project="other")["import"]["error"]


def test_a_full_room_makes_nothing_more(rooms: Visitors, ticket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor_desk, "MOST_KEPT_BYTES", 10)
    with pytest.raises(InputError, match="with all exports"):
        call(rooms, ticket, "export", project="signs", format="native")


def test_one_run_at_a_time_over_all_visitors(
    rooms: Visitors, ticket: str, running: Callable[[str], dict[str, str]]
) -> None:
    run = running(ticket)
    other = make_ticket()
    with pytest.raises(InputError, match="another visitor"):
        running(other)
    with pytest.raises(InputError, match="at most 8 rollouts"):
        call(rooms, other, "start", project="signs", rollouts=9)
    assert call(rooms, ticket, "look", project="signs")["runs"][0]["id"] == run["run"]


def test_a_visitor_names_built_in_models_only(rooms: Visitors, ticket: str, uploads: Path) -> None:
    bring(rooms, ticket, upload_zip(uploads, 1))
    for model in ("/etc", "owner/model", str(uploads)):
        with pytest.raises(InputError, match="allowed here"):
            call(rooms, ticket, "start", project="signs", model=model, rollouts=2)


def test_a_run_of_somebody_who_left_makes_room(
    rooms: Visitors, ticket: str, running: Callable[[str], dict[str, str]], clock: Clock
) -> None:
    running(ticket)
    clock.now += ABSENT_SECONDS - 1
    rooms.sweep()
    assert state_of(rooms, ticket) in {"queued", "running"}
    clock.now += ABSENT_SECONDS + 1
    rooms.sweep()
    assert state_of(rooms, ticket) == "stopped"


def test_a_room_goes_when_it_was_idle(
    rooms: Visitors, ticket: str, clock: Clock, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(rooms, ticket, upload_zip(uploads))
    shown = uploads / "work" / call(rooms, ticket, "quality", project="signs")["report"]
    monkeypatch.setattr(time, "time", lambda: 4e9)  # the clock of the wall is nobody's business
    assert rooms.sweep() == 1
    clock.now += IDLE_SECONDS - 1
    assert rooms.sweep() == 1
    call(rooms, ticket, "look", project="signs")
    clock.now += IDLE_SECONDS - 1
    assert rooms.sweep() == 1
    clock.now += 2
    assert rooms.sweep() == 0
    assert not list(rooms.root.iterdir()) and not shown.exists()
    with pytest.raises(InputError, match="of this browser tab"):
        call(rooms, ticket, "look", project="signs")
    assert call(rooms, ticket, "create", name="Signs") == {"id": "signs"}


def test_nobodys_room_goes_while_they_are_in_it(rooms: Visitors, ticket: str, clock: Clock) -> None:
    with rooms.enter(ticket):
        clock.now += 10 * IDLE_SECONDS
        assert rooms.sweep() == 1
    assert rooms.sweep() == 1, "it was left a moment ago"


def test_when_all_are_at_work_one_more_is_told_so(
    rooms: Visitors, ticket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        call(rooms, make_ticket(), "create", name="Signs")
    monkeypatch.setattr(visitor_desk.VisitorDesk, "has_run", property(lambda self: True))
    with pytest.raises(InputError, match="one more visitor"):
        call(rooms, make_ticket(), "create", name="Signs")
    assert call(rooms, ticket, "projects")
    monkeypatch.undo()


def test_few_files_are_read_at_once(
    rooms: Visitors, ticket: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitors, "MOST_IMPORTS", 1)
    monkeypatch.setattr(visitor_desk.VisitorDesk, "is_importing", property(lambda self: True))
    with pytest.raises(InputError, match="being read"):
        call(rooms, ticket, "bring", project="signs", source=str(upload_zip(uploads)))
    monkeypatch.undo()


def test_everything_goes_with_the_server(
    rooms: Visitors, ticket: str, running: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    running(ticket)
    with rooms.enter(ticket) as room:
        assert room is not None
        (run,) = room.desk.all_runs()
        assert run.status is not None and run.status.pid is not None
        pid = run.status.pid
    rooms.close()
    assert not list(rooms.root.iterdir())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1][:3]:
        assert time.monotonic() < deadline, "the run outlived the server"
        time.sleep(0.05)
    with pytest.raises(HartError):
        call(rooms, ticket, "look", project="signs")


def test_a_deleted_project_of_a_visitor_makes_room_at_once(rooms: Visitors, ticket: str, uploads: Path) -> None:
    bring(rooms, ticket, upload_zip(uploads))
    for name in ("two", "three"):
        call(rooms, ticket, "create", name=name)
    with pytest.raises(InputError, match="at most 3 projects"):
        call(rooms, ticket, "duplicate", project="signs", name="four")
    call(rooms, ticket, "delete", project="three", confirmation="three")
    assert call(rooms, ticket, "trash") == []
    assert call(rooms, ticket, "duplicate", project="signs", name="four") == {"id": "four"}
    call(rooms, ticket, "rename", project="four", name="Fourth")
    call(rooms, ticket, "archive", project="four")
    assert {entry["name"]: entry["is_archived"] for entry in call(rooms, ticket, "projects")} == {
        "Fourth": True,
        "Signs": False,
        "two": False,
    }
    with pytest.raises(InputError, match=r"expected a project of this browser tab|which is not there"):
        call(rooms, make_ticket(), "delete", project="signs", confirmation="Signs")


def test_a_copy_counts_against_what_a_visitor_may_keep(
    rooms: Visitors, ticket: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(rooms, ticket, upload_zip(uploads, 2))
    monkeypatch.setattr(visitor_desk, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="A copy would exceed"):
        call(rooms, ticket, "duplicate", project="signs", name="copy")
    monkeypatch.undo()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    monkeypatch.setattr(visitor_desk, "MOST_ITEMS", 3)
    newer = make_ticket()
    call(rooms, newer, "create", name="signs")
    bring(rooms, newer, upload_zip(uploads, 2))
    with pytest.raises(InputError, match="A copy would exceed"):
        call(rooms, newer, "duplicate", project="signs", name="copy")
