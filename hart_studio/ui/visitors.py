"""Visitors' rooms: each browser tab that labels on a Space has projects of its own, which nobody else finds.

A tab makes itself a random ticket of 256 bits and shows it with every call. The server knows a room by the ticket's
SHA-256 alone and never lists rooms, so there is nothing to guess and nothing to find. Rooms lie in a folder that is not
served, go when they were idle for a while, and all go with the server.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import InputError
from hart_studio.ui.allowed_models import AllowedModels
from hart_studio.ui.label_outputs import LabelOutputs
from hart_studio.ui.project_api import ProjectApi
from hart_studio.ui.services import AskService
from hart_studio.ui.visitor_calls import VisitorCalls
from hart_studio.ui.visitor_desk import BUSY, VisitorDesk

IDLE_SECONDS: Final = 2 * 3600.0
"""A room goes when nobody has been in it for so long (ours)."""

ABSENT_SECONDS: Final = 15 * 60.0
"""After so long a visitor counts as away: the run ends, and the room may go for another visitor's (ours). The open page
looks every second or two, and once a minute from behind another tab."""

RUN_SECONDS: Final = 20 * 60.0
"""A run ends after so long, because others wait for it; what is labeled stays, and it can be resumed (ours)."""

MOST_VISITORS: Final = 40
"""Rooms; for one more the one goes whose visitor has been away longest (ours)."""

MOST_IMPORTS: Final = 2
"""Files that are read at once, of all visitors (ours)."""

SWEEP_SECONDS: Final = 30.0
"""Between two looks for rooms that go."""

TICKET: Final = "visitor"
"""Field of a request with the ticket."""

GONE: Final = (
    "expected a project of this browser tab, got none: projects here go after two idle hours, when the Space restarts, "
    "and with the tab; make a new one"
)
"""What a call without a room is told."""

_TICKET_FORM: Final = re.compile(r"[0-9a-f]{64}")
_logger = logging.getLogger(__name__)


@dataclass
class Room:
    """What one visitor has here."""

    folder: Path
    """Folder of the projects, not served."""
    shown: Path
    """Folder of what the page shows of them, served under a name that nobody can guess."""
    desk: VisitorDesk
    outputs: LabelOutputs
    calls: VisitorCalls
    projects: ProjectApi
    seen: float
    """When somebody was last in it, by a clock that cannot be set."""
    busy: int = 0
    """Calls at work in it."""
    run_since: float | None = None
    """When a run was first seen at work in it, by the same clock; None without one."""

    def answer(self, name: str) -> Callable[[Mapping[str, Any]], Any]:
        """What answers a call of that name."""
        owner = next(each for each in (self.desk, self.outputs, self.calls, self.projects) if hasattr(each, name))
        found: Callable[[Mapping[str, Any]], Any] = getattr(owner, name)
        return found


class Visitors:
    """Knows the rooms.

    Attributes:
        root: Folder of all rooms, which the server must not serve.
    """

    def __init__(
        self,
        root: Path,
        service: AskService,
        allowed: AllowedModels,
        most_visitors: int = MOST_VISITORS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """There is no room yet.

        Args:
            root: An existing folder of this server alone.
            service: Opens pictures and asks models; its folder is served.
            allowed: Models that may label.
            most_visitors: Rooms.
            clock: The seam for tests.
        """
        self.root = root
        self._service, self._allowed, self._most, self._clock = service, allowed, most_visitors, clock
        self._rooms: dict[str, Room] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._is_over = threading.Event()

    def answering(self, name: str) -> Callable[[Any], Any]:
        """A function of that name as the page calls it: it answers from the room of the ticket.

        Args:
            name: Of a function of ``LabelDesk``, ``LabelOutputs``, ``ReviewCalls`` or ``ProjectApi``; never from a
                browser.
        """

        def answer(request: Any) -> Any:
            if not isinstance(request, dict):
                raise InputError("expected a request of the page, got another; reload it")
            asked = {key: value for key, value in request.items() if key != TICKET}
            with self.enter(request.get(TICKET), makes=name == "create") as room:
                if room is None:
                    if name == "projects":
                        return []
                    raise InputError(GONE)
                if name == "bring" and self._count_imports() >= MOST_IMPORTS:
                    raise InputError("other visitors' files are being read; try again in a minute")
                return room.answer(name)(asked)

        answer.__name__ = name
        return answer

    @contextmanager
    def enter(self, ticket: Any, *, makes: bool = False) -> Iterator[Room | None]:
        """Be in the room of a ticket; nobody removes it meanwhile.

        Args:
            ticket: From a browser.
            makes: Whether a room is made where there is none.

        Yields:
            The room; None when there is none.

        Raises:
            InputError: If this is no ticket, or there is no place for one more room.
        """
        if not isinstance(ticket, str) or not _TICKET_FORM.fullmatch(ticket):
            raise InputError("expected the ticket of a browser tab, got none; reload the page")
        key = hashlib.sha256(ticket.encode()).hexdigest()
        idle = self._find_idle() if makes else ()
        leaving: list[Room] = []
        try:
            with self._lock:
                room = self._rooms.get(key)
                if room is None and makes:
                    leaving = self._make_place(idle)
                    room = self._rooms[key] = self._build(key)
                if room is not None:
                    room.busy += 1
                    room.seen = self._clock()
        finally:
            self._clear(leaving)
        try:
            yield room
        finally:
            if room is not None:
                with self._lock:
                    room.busy -= 1
                    room.seen = self._clock()

    def start(self) -> None:
        """Look for rooms that go from time to time, in a thread that ends with the program."""
        threading.Thread(target=self._keep_sweeping, name="visitors", daemon=True).start()

    def close(self) -> None:
        """End all runs and remove all rooms."""
        self._is_over.set()
        with self._lock:
            leaving, self._rooms = list(self._rooms.values()), {}
        self._clear(leaving)

    def sweep(self) -> int:
        """Remove rooms that were idle for too long, and end runs that last too long or whose visitor has gone.

        Returns:
            The number of rooms that are left.
        """
        now = self._clock()
        with self._lock:
            rooms = dict(self._rooms)
        # Looked at without the lock, because it reads from disk; whoever comes back meanwhile is seen below.
        for room in rooms.values():
            if not room.desk.has_run:
                room.run_since = None
                continue
            room.run_since = now if room.run_since is None else room.run_since
            is_away = now - room.seen > ABSENT_SECONDS and not room.busy
            if is_away or now - room.run_since > RUN_SECONDS:
                room.desk.stop_runs()
                room.run_since = None
        with self._lock:
            leaving = [self._rooms.pop(key) for key in list(self._rooms) if self._is_idle(key, IDLE_SECONDS)]
            left = len(self._rooms)
        self._clear(leaving)
        return left

    def _is_idle(self, key: str, seconds: float) -> bool:
        """Whether nobody was in a room for so long, and no file is being read there."""
        room = self._rooms[key]
        return not (room.busy or room.desk.is_importing) and self._clock() - room.seen > seconds

    def _find_idle(self) -> list[str]:
        """Where all places are taken, rooms that may go for one more; without the lock, because it reads from disk."""
        with self._lock:
            is_full = len(self._rooms) >= self._most
            absent = {key: room for key, room in self._rooms.items() if is_full and self._is_idle(key, ABSENT_SECONDS)}
        return [key for key, room in absent.items() if not room.desk.has_run]

    def _make_place(self, idle: Collection[str]) -> list[Room]:
        """Take out the room whose visitor has been away longest if there is no place for one more; with the lock held.

        Nobody loses a room that they may come back to at once, so many new tickets drive nobody out.
        """
        if len(self._rooms) < self._most:
            return []
        # Looked at again: somebody may have come back meanwhile.
        going = [key for key in idle if key in self._rooms and self._is_idle(key, ABSENT_SECONDS)]
        if not going:
            raise InputError("expected a free place for one more visitor, got none; try again in a few minutes")
        return [self._rooms.pop(min(going, key=lambda key: self._rooms[key].seen))]

    def _build(self, key: str) -> Room:
        folder = self.root / key
        folder.mkdir(mode=0o700, parents=True)
        served = self._service.folder
        shown = served / "visitors" / secrets.token_hex(16)
        desk = VisitorDesk(folder, self._allowed, self._reserve, self._service.limits)
        outputs = LabelOutputs(desk, served, shown / "labels", names_folders=False)
        calls = VisitorCalls(desk, self._service.in_folder(shown), served)
        # What is deleted makes room at once: a visitor has few bytes, and all of them go soon.
        return Room(folder, shown, desk, outputs, calls, ProjectApi(desk, is_kept=False), self._clock())

    def _clear(self, rooms: list[Room]) -> None:
        """Remove rooms that nobody can enter any more."""
        for room in rooms:
            room.desk.close()
            room.calls.close()
            for folder in (room.folder, room.shown):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _reserve(self) -> Iterator[None]:
        """Let nobody else start a run meanwhile.

        Raises:
            InputError: If a run is at work.
        """
        with self._turn:
            with self._lock:
                rooms = list(self._rooms.values())
            if any(room.desk.has_run for room in rooms):
                raise InputError(BUSY)
            yield

    def _count_imports(self) -> int:
        with self._lock:
            rooms = list(self._rooms.values())
        return sum(room.desk.is_importing for room in rooms)

    def _keep_sweeping(self) -> None:
        while not self._is_over.wait(SWEEP_SECONDS):
            try:
                self.sweep()
            except Exception:
                _logger.exception("the rooms of visitors could not be looked at; trying again")
