"""Limits per visitor of a Space: sessions, runs, memory, open files, model turns."""

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
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.spaces.sessions import AWAY_SECONDS, RUN_SECONDS, VISITOR_LIMITS, Session, SessionStore
from tests.space_sessions import Clock, call, import_source, make_session_token, state_of, upload_zip


def test_a_full_store_evicts_the_longest_idle_session(sessions: SessionStore, session_token: str, clock: Clock) -> None:
    others = []
    for _ in range(2):
        clock.now += 1
        others.append(make_session_token())
        call(sessions, others[-1], "create", name="Signs")
    clock.now += AWAY_SECONDS + 1
    call(sessions, session_token, "poll", project="signs")
    call(sessions, make_session_token(), "create", name="Signs")
    assert call(sessions, session_token, "projects") and call(sessions, others[1], "projects")
    assert call(sessions, others[0], "projects") == []
    assert len(list(sessions.root.iterdir())) == 3


def test_many_tokens_evict_no_active_session(sessions: SessionStore, session_token: str, clock: Clock) -> None:
    clock.now += AWAY_SECONDS - 1
    made = []
    for _ in range(2):
        made.append(make_session_token())
        call(sessions, made[-1], "create", name="Signs")
    for _ in range(50):
        with pytest.raises(InputError, match="Too many visitors"):
            call(sessions, make_session_token(), "create", name="Signs")
    assert all(call(sessions, each, "projects") for each in (session_token, *made))


def test_a_session_that_cannot_be_created_leaves_nothing_of_the_evicted_one(
    sessions: SessionStore, session_token: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        call(sessions, make_session_token(), "create", name="Signs")
    kept = {path.name for path in sessions.root.iterdir()}
    clock.now += AWAY_SECONDS + 1

    def fail(key: str) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(sessions, "_build", fail)
    with pytest.raises(OSError, match="no space"):
        call(sessions, make_session_token(), "create", name="Signs")
    left = {path.name for path in sessions.root.iterdir()}
    assert len(left) == 2 and left < kept


def test_no_one_keeps_the_only_run(
    sessions: SessionStore, session_token: str, running: Callable[[str], dict[str, str]], clock: Clock
) -> None:
    run = running(session_token)["run"]
    with pytest.raises(InputError, match="resume it later"):
        call(sessions, session_token, "pause", project="signs", run=run)
    assert call(sessions, session_token, "poll", project="signs")["runs"][0]["is_paused"] is False
    sessions.sweep()
    for _ in range(4):  # the visitor stays
        clock.now += RUN_SECONDS / 4
        call(sessions, session_token, "poll", project="signs")
        sessions.sweep()
        assert state_of(sessions, session_token) in {"queued", "running"}
    clock.now += 1
    sessions.sweep()
    assert state_of(sessions, session_token) == "stopped"
    assert call(sessions, session_token, "projects")[0]["items"] == 1


def count_open(folder: Path) -> int:
    """Descriptors of this process for files below a folder."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(path.readlink()).startswith(str(folder.resolve()))
    return found


def test_open_files_of_sessions_have_a_limit_and_are_closed_with_them(
    sessions: SessionStore, session_token: str, uploads: Path, clock: Clock, running: Callable[[str], dict[str, str]]
) -> None:
    running(session_token)
    call(sessions, session_token, "create", name="Second")
    other = make_session_token()
    call(sessions, other, "create", name="Signs")
    with ThreadPoolExecutor(4) as threads:
        begun = Barrier(4)

        def work(number: int) -> int:
            begun.wait(20)  # one call in each thread
            call(sessions, session_token, "poll", project="signs")
            call(sessions, session_token, "projects")
            with pytest.raises(InputError, match="another visitor"):
                call(sessions, other, "start", project="signs", rollouts=2)
            clock.now += AWAY_SECONDS / 8
            sessions.sweep()
            begun.wait(20)
            return count_open(sessions.root)

        assert max(threads.map(work, range(4))) <= 4 * MAX_OPEN_CONNECTIONS
    sessions.close()
    assert count_open(sessions.root) == 0


def is_kept(session: Session) -> int:
    """Decoded images of a visitor's calls that are in memory after garbage is gone."""
    gc.collect()
    return sum(
        isinstance(each, SourceImage) and each._pixels is not None and str(session.folder) in str(each.path)
        for each in gc.get_objects()
    )


@pytest.fixture
def any_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the built-in model judge boxes on images that it was not made for."""
    monkeypatch.setattr("hart_studio.ui.api.review.describe_domain_mismatch", lambda *arguments: "")


@pytest.mark.usefixtures("any_image")
def test_no_decoded_image_stays_in_memory(sessions: SessionStore, session_token: str, uploads: Path) -> None:
    import_source(sessions, session_token, upload_zip(uploads, 1))
    item = call(sessions, session_token, "list_items", project="signs")["rows"][0]["id"]
    shown = {"project": "signs", "reviewer": "Ada", "item": item}
    call(sessions, session_token, "open_item", **shown)
    drawn = [{"x_min": 1, "y_min": 2, "x_max": 20, "y_max": 25}]
    assert call(sessions, session_token, "check", boxes=drawn, **shown)["crops"][0]["width"] == 19
    with sessions.enter(session_token) as session:
        assert session is not None
        assert is_kept(session) == 0
        with SourceImage(next((session.folder / "signs" / "images").rglob("*.png"))) as image:
            image.full()
            assert is_kept(session) == 1, "one that is held would have been found"


@pytest.mark.parametrize(
    ("most", "message"), [(1200, "1 added"), (1199, "0 added, 0 updated, 0 already in the project, 1 invalid rows")]
)
def test_images_of_visitors_have_the_bounds_of_the_page(
    sessions: SessionStore, uploads: Path, monkeypatch: pytest.MonkeyPatch, most: int, message: str
) -> None:
    monkeypatch.setattr(sessions._service, "limits", ImageLimits(max_pixels=most))
    visitor = make_session_token()
    call(sessions, visitor, "create", name="Signs")
    state = import_source(sessions, visitor, upload_zip(uploads, 1))
    assert state["message"].startswith(message)
    reasons = [reason for _, reason in state["invalid_rows"]]
    assert reasons == [] or "at most 1,199 pixels, got 40 x 30; scale the image down" in reasons[0]


@pytest.mark.usefixtures("any_image")
def test_checks_of_one_visitor_have_bounds(
    sessions: SessionStore, session_token: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_source(sessions, session_token, upload_zip(uploads, 1))
    item = call(sessions, session_token, "list_items", project="signs")["rows"][0]["id"]
    shown = {"project": "signs", "reviewer": "Ada", "item": item, "revision": 0, "decision": "edit"}

    def draw(count: int, left: int = 1) -> list[dict[str, int]]:
        return [{"x_min": left, "y_min": 2 + number, "x_max": left + 5, "y_max": 9 + number} for number in range(count)]

    for name in ("check", "decide"):
        with pytest.raises(InputError, match="at most 16 boxes"):
            call(sessions, session_token, name, boxes=draw(VISITOR_LIMITS.max_boxes + 1), **shown)
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
            threads.submit(call, sessions, session_token, "check", boxes=draw(1, left), **shown) for left in range(1, 5)
        ]  # one asks, one waits, two are refused at once
        assert asked.wait(20)
        while sum(each.done() for each in calls) < 2:
            time.sleep(0.01)
        refused = [each for each in calls if each.done()]
        assert all("Another verification is running" in str(each.exception()) for each in refused) and len(refused) == 2
        go_on.set()
        assert sum("check" in each.result(20) for each in calls if each not in refused) == 2


def test_an_export_of_a_visitor_takes_its_images_along(sessions: SessionStore, session_token: str) -> None:
    for name in ("describe_export_loss", "export"):
        with pytest.raises(InputError, match="copies of images"):
            call(sessions, session_token, name, project="signs", format="native", is_referring=True)
