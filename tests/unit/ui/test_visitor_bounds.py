"""What one visitor of a Space cannot take from the others: rooms, the run, memory, open files, turns of the model."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from hart_studio.errors import InputError
from hart_studio.imaging import ImageLimits, SourceImage
from hart_studio.labeling.connection_pool import MAX_OPEN_CONNECTIONS
from hart_studio.ui.services import AskService
from hart_studio.ui.visitor_calls import MOST_CHECKED_BOXES
from hart_studio.ui.visitors import ABSENT_SECONDS, RUN_SECONDS, Room, Visitors
from tests.visitors import Clock, bring, call, make_ticket, state_of, upload_zip


def test_for_one_more_visitor_the_room_goes_whose_visitor_has_been_away_longest(
    rooms: Visitors, ticket: str, clock: Clock
) -> None:
    others = []
    for _ in range(2):
        clock.now += 1
        others.append(make_ticket())
        call(rooms, others[-1], "create", name="Signs")
    clock.now += ABSENT_SECONDS + 1
    call(rooms, ticket, "look", project="signs")
    call(rooms, make_ticket(), "create", name="Signs")
    assert call(rooms, ticket, "projects") and call(rooms, others[1], "projects")
    assert call(rooms, others[0], "projects") == []
    assert len(list(rooms.root.iterdir())) == 3


def test_many_tickets_drive_nobody_out(rooms: Visitors, ticket: str, clock: Clock) -> None:
    clock.now += ABSENT_SECONDS - 1
    made = []
    for _ in range(2):
        made.append(make_ticket())
        call(rooms, made[-1], "create", name="Signs")
    for _ in range(50):
        with pytest.raises(InputError, match="one more visitor"):
            call(rooms, make_ticket(), "create", name="Signs")
    assert all(call(rooms, each, "projects") for each in (ticket, *made))


def test_a_room_that_cannot_be_made_leaves_nothing_of_the_one_that_went(
    rooms: Visitors, ticket: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        call(rooms, make_ticket(), "create", name="Signs")
    kept = {path.name for path in rooms.root.iterdir()}
    clock.now += ABSENT_SECONDS + 1

    def fail(key: str) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(rooms, "_build", fail)
    with pytest.raises(OSError, match="no space"):
        call(rooms, make_ticket(), "create", name="Signs")
    left = {path.name for path in rooms.root.iterdir()}
    assert len(left) == 2 and left < kept


def test_nobody_keeps_the_only_run(
    rooms: Visitors, ticket: str, running: Callable[[str], dict[str, str]], clock: Clock
) -> None:
    run = running(ticket)["run"]
    with pytest.raises(InputError, match="resume it later"):
        call(rooms, ticket, "pause", project="signs", run=run)
    assert call(rooms, ticket, "look", project="signs")["runs"][0]["is_paused"] is False
    rooms.sweep()
    for _ in range(4):  # the visitor stays
        clock.now += RUN_SECONDS / 4
        call(rooms, ticket, "look", project="signs")
        rooms.sweep()
        assert state_of(rooms, ticket) in {"queued", "running"}
    clock.now += 1
    rooms.sweep()
    assert state_of(rooms, ticket) == "stopped"
    assert call(rooms, ticket, "projects")[0]["items"] == 1


def count_open(folder: Path) -> int:
    """Descriptors of this process for files below a folder."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(path.readlink()).startswith(str(folder.resolve()))
    return found


def test_open_files_of_rooms_have_a_bound_and_are_closed_with_them(
    rooms: Visitors, ticket: str, uploads: Path, clock: Clock, running: Callable[[str], dict[str, str]]
) -> None:
    running(ticket)
    call(rooms, ticket, "create", name="Second")
    other = make_ticket()
    call(rooms, other, "create", name="Signs")
    with ThreadPoolExecutor(4) as threads:
        begun = Barrier(4)

        def work(number: int) -> int:
            begun.wait(20)  # one call in each thread
            call(rooms, ticket, "look", project="signs")
            call(rooms, ticket, "projects")
            with pytest.raises(InputError, match="another visitor"):
                call(rooms, other, "start", project="signs", rollouts=2)
            clock.now += ABSENT_SECONDS / 8
            rooms.sweep()
            begun.wait(20)
            return count_open(rooms.root)

        assert max(threads.map(work, range(4))) <= 4 * MAX_OPEN_CONNECTIONS
    rooms.close()
    assert count_open(rooms.root) == 0


def is_kept(room: Room) -> int:
    """Decoded pictures of a visitor's calls that are in memory after garbage is gone."""
    gc.collect()
    return sum(
        isinstance(each, SourceImage) and each._pixels is not None and str(room.folder) in str(each.path)
        for each in gc.get_objects()
    )


@pytest.fixture
def any_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the built-in model judge boxes on images that it was not made for."""
    monkeypatch.setattr("hart_studio.ui.review_calls.describe_domain_mismatch", lambda *arguments: "")


@pytest.mark.usefixtures("any_image")
def test_no_decoded_picture_stays_in_memory(rooms: Visitors, ticket: str, uploads: Path) -> None:
    bring(rooms, ticket, upload_zip(uploads, 1))
    item = call(rooms, ticket, "list_items", project="signs")["rows"][0]["id"]
    shown = {"project": "signs", "reviewer": "Ada", "item": item}
    call(rooms, ticket, "open_item", **shown)
    drawn = [{"x_min": 1, "y_min": 2, "x_max": 20, "y_max": 25}]
    assert call(rooms, ticket, "check", boxes=drawn, **shown)["crops"][0]["width"] == 19
    with rooms.enter(ticket) as room:
        assert room is not None
        assert is_kept(room) == 0
        with SourceImage(next((room.folder / "signs" / "images").rglob("*.png"))) as picture:
            picture.full()
            assert is_kept(room) == 1, "one that is held would have been found"


@pytest.mark.parametrize(("most", "told"), [(1200, "1 added"), (1199, "0 added, 0 updated, 0 known, 1 bad rows")])
def test_pictures_of_visitors_have_the_bounds_of_the_page(
    rooms: Visitors, uploads: Path, monkeypatch: pytest.MonkeyPatch, most: int, told: str
) -> None:
    monkeypatch.setattr(rooms._service, "limits", ImageLimits(max_pixels=most))
    visitor = make_ticket()
    call(rooms, visitor, "create", name="Signs")
    state = bring(rooms, visitor, upload_zip(uploads, 1))
    assert state["told"].startswith(told)
    reasons = [reason for _, reason in state["invalid_rows"]]
    assert reasons == [] or "at most 1,199 pixels, got 40 x 30; scale the picture down" in reasons[0]


@pytest.mark.usefixtures("any_image")
def test_checks_of_one_visitor_have_bounds(
    rooms: Visitors, ticket: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(rooms, ticket, upload_zip(uploads, 1))
    item = call(rooms, ticket, "list_items", project="signs")["rows"][0]["id"]
    shown = {"project": "signs", "reviewer": "Ada", "item": item, "revision": 0, "decision": "edit"}

    def draw(count: int, left: int = 1) -> list[dict[str, int]]:
        return [{"x_min": left, "y_min": 2 + number, "x_max": left + 5, "y_max": 9 + number} for number in range(count)]

    for name in ("check", "decide"):
        with pytest.raises(InputError, match="at most 16 boxes"):
            call(rooms, ticket, name, boxes=draw(MOST_CHECKED_BOXES + 1), **shown)
    real, asked, go_on, at_once = AskService.check_boxes, Event(), Event(), []

    def check(self: AskService, *args: Any) -> Any:
        at_once.append(1)
        asked.set()
        assert go_on.wait(20) and sum(at_once) == 1, "two at once"
        try:
            return real(self, *args)
        finally:
            at_once.pop()

    monkeypatch.setattr(AskService, "check_boxes", check)
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(call, rooms, ticket, "check", boxes=draw(1, left), **shown) for left in range(1, 5)
        ]  # one asks, one waits, two are refused at once
        assert asked.wait(20)
        while sum(each.done() for each in calls) < 2:
            time.sleep(0.01)
        refused = [each for each in calls if each.done()]
        assert all("one check" in str(each.exception()) for each in refused) and len(refused) == 2
        go_on.set()
        assert sum("check" in each.result(20) for each in calls if each not in refused) == 2


def test_an_export_of_a_visitor_takes_its_pictures_along(rooms: Visitors, ticket: str) -> None:
    for name in ("losses", "export"):
        with pytest.raises(InputError, match="take them along"):
            call(rooms, ticket, name, project="signs", format="native", is_referring=True)
