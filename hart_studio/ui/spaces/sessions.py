"""Visitors' rooms: each browser tab that labels on a Space has projects of its own, which no one else finds.

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
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.label_exports import LabelExportApi
from hart_studio.ui.api.projects import ProjectApi
from hart_studio.ui.security.model_allowlist import ModelAllowlist
from hart_studio.ui.spaces.session_labels import BUSY, SessionLabelApi
from hart_studio.ui.spaces.session_review import SessionReviewApi

IDLE_SECONDS: Final = 2 * 3600.0
"""A room goes when no one has been in it for so long (project default)."""

AWAY_SECONDS: Final = 15 * 60.0
"""After so long a visitor counts as away: the run ends, and the room may go for another visitor's (project default). The open page
looks every second or two, and once a minute from behind another tab."""

RUN_SECONDS: Final = 20 * 60.0
"""A run ends after so long, because others wait for it; what is labeled stays, and it can be resumed (project default)."""

MAX_SESSIONS_PER_SPACE: Final = 40
"""Rooms; for one more the one goes whose visitor has been away longest (project default)."""

MAX_IMPORTS: Final = 2
"""Files that are read at once, of all visitors (project default)."""

CLEANUP_INTERVAL_SECONDS: Final = 30.0
"""Between two looks for rooms that go."""

SESSION_FIELD: Final = "session_token"
"""Field of a request with the ticket."""

GONE: Final = (
    "expected a project of this browser tab, got none: projects here go after two idle hours, when the Space restarts, "
    "and with the tab; make a new one"
)
"""What a call without a room is told."""

_TOKEN_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
_logger = logging.getLogger(__name__)


@dataclass
class Session:
    """What one visitor has here."""

    folder: Path
    """Folder of the projects, not served."""
    shown: Path
    """Folder of what the page shows of them, served under a name that no one can guess."""
    label_api: SessionLabelApi
    outputs: LabelExportApi
    calls: SessionReviewApi
    projects: ProjectApi
    seen: float
    """When someone was last in it, by a clock that cannot be set."""
    busy: int = 0
    """Calls at work in it."""
    run_since: float | None = None
    """When a run was first seen at work in it, by the same clock; None without one."""

    def answer(self, name: str) -> Callable[[Mapping[str, Any]], Any]:
        """What answers a call of that name."""
        owner = next(each for each in (self.label_api, self.outputs, self.calls, self.projects) if hasattr(each, name))
        found: Callable[[Mapping[str, Any]], Any] = getattr(owner, name)
        return found


class SessionStore:
    """Knows the rooms.

    Attributes:
        root: Folder of all rooms, which the server must not serve.
    """

    def __init__(
        self,
        root: Path,
        service: AskService,
        allowed: ModelAllowlist,
        max_sessions: int = MAX_SESSIONS_PER_SPACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """There is no room yet.

        Args:
            root: An existing folder of this server alone.
            service: Opens images and asks models; its folder is served.
            allowed: Models that may label.
            max_sessions: Rooms.
            clock: The seam for tests.
        """
        self.root = root
        self._service, self._allowed, self._most, self._clock = service, allowed, max_sessions, clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._is_over = threading.Event()

    def handler_for(self, name: str) -> Callable[[Any], Any]:
        """A function of that name as the page calls it: it answers from the room of the ticket.

        Args:
            name: Of a function of ``LabelApi``, ``LabelExportApi``, ``ReviewApi`` or ``ProjectApi``; never from a
                browser.
        """

        def answer(request: Any) -> Any:
            if not isinstance(request, dict):
                raise InputError("expected a request of the page, got another; reload it")
            asked = {key: value for key, value in request.items() if key != SESSION_FIELD}
            with self.enter(request.get(SESSION_FIELD), makes=name == "create") as session:
                if session is None:
                    if name == "projects":
                        return []
                    raise InputError(GONE)
                if name == "start_import" and self._count_imports() >= MAX_IMPORTS:
                    raise InputError("other visitors' files are being read; try again in a minute")
                return session.answer(name)(asked)

        answer.__name__ = name
        return answer

    @contextmanager
    def enter(self, session_token: Any, *, makes: bool = False) -> Iterator[Session | None]:
        """Be in the room of a ticket; no one removes it meanwhile.

        Args:
            session_token: From a browser.
            makes: Whether a room is made where there is none.

        Yields:
            The room; None when there is none.

        Raises:
            InputError: If this is no ticket, or there is no place for one more room.
        """
        if not isinstance(session_token, str) or not _TOKEN_PATTERN.fullmatch(session_token):
            raise InputError("Session expired. Reload the page.")
        key = hashlib.sha256(session_token.encode()).hexdigest()
        idle = self._find_idle() if makes else ()
        leaving: list[Session] = []
        try:
            with self._lock:
                session = self._sessions.get(key)
                if session is None and makes:
                    leaving = self._evict_idle(idle)
                    session = self._sessions[key] = self._build(key)
                if session is not None:
                    session.busy += 1
                    session.seen = self._clock()
        finally:
            self._clear(leaving)
        try:
            yield session
        finally:
            if session is not None:
                with self._lock:
                    session.busy -= 1
                    session.seen = self._clock()

    def start(self) -> None:
        """Look for rooms that go from time to time, in a thread that ends with the program."""
        threading.Thread(target=self._run_cleanup_loop, name="visitors", daemon=True).start()

    def close(self) -> None:
        """End all runs and remove all rooms."""
        self._is_over.set()
        with self._lock:
            leaving, self._sessions = list(self._sessions.values()), {}
        self._clear(leaving)

    def sweep(self) -> int:
        """Remove rooms that were idle for too long, and end runs that last too long or whose visitor has gone.

        Returns:
            The number of rooms that are left.
        """
        now = self._clock()
        with self._lock:
            sessions = dict(self._sessions)
        # Looked at without the lock, because it reads from disk; whoever comes back meanwhile is seen below.
        for session in sessions.values():
            if not session.label_api.has_run:
                session.run_since = None
                continue
            session.run_since = now if session.run_since is None else session.run_since
            is_away = now - session.seen > AWAY_SECONDS and not session.busy
            if is_away or now - session.run_since > RUN_SECONDS:
                session.label_api.stop_runs()
                session.run_since = None
        with self._lock:
            leaving = [self._sessions.pop(key) for key in list(self._sessions) if self._is_idle(key, IDLE_SECONDS)]
            left = len(self._sessions)
        self._clear(leaving)
        return left

    def _is_idle(self, key: str, seconds: float) -> bool:
        """Whether no one was in a room for so long, and no file is being read there."""
        session = self._sessions[key]
        return not (session.busy or session.label_api.is_importing) and self._clock() - session.seen > seconds

    def _find_idle(self) -> list[str]:
        """Where all places are taken, rooms that may go for one more; without the lock, because it reads from disk."""
        with self._lock:
            is_full = len(self._sessions) >= self._most
            absent = {
                key: session for key, session in self._sessions.items() if is_full and self._is_idle(key, AWAY_SECONDS)
            }
        return [key for key, session in absent.items() if not session.label_api.has_run]

    def _evict_idle(self, idle: Collection[str]) -> list[Session]:
        """Take out the room whose visitor has been away longest if there is no place for one more; with the lock held.

        No one loses a room that they may come back to at once, so many new tickets drive no one out.
        """
        if len(self._sessions) < self._most:
            return []
        # Looked at again: someone may have come back meanwhile.
        going = [key for key in idle if key in self._sessions and self._is_idle(key, AWAY_SECONDS)]
        if not going:
            raise InputError("expected a free place for one more visitor, got none; try again in a few minutes")
        return [self._sessions.pop(min(going, key=lambda key: self._sessions[key].seen))]

    def _build(self, key: str) -> Session:
        folder = self.root / key
        folder.mkdir(mode=0o700, parents=True)
        served = self._service.folder
        shown = served / "visitors" / secrets.token_hex(16)
        label_api = SessionLabelApi(folder, self._allowed, self._reserve, self._service.limits)
        outputs = LabelExportApi(label_api, served, shown / "labels", shows_paths=False)
        calls = SessionReviewApi(label_api, self._service.with_folder(shown), served)
        # What is deleted makes room at once: a visitor has few bytes, and all of them go soon.
        return Session(folder, shown, label_api, outputs, calls, ProjectApi(label_api, is_kept=False), self._clock())

    def _clear(self, sessions: list[Session]) -> None:
        """Remove rooms that no one can enter any more."""
        for session in sessions:
            session.label_api.close()
            session.calls.close()
            for folder in (session.folder, session.shown):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _reserve(self) -> Iterator[None]:
        """Let no one else start a run meanwhile.

        Raises:
            InputError: If a run is at work.
        """
        with self._turn:
            with self._lock:
                sessions = list(self._sessions.values())
            if any(session.label_api.has_run for session in sessions):
                raise InputError(BUSY)
            yield

    def _count_imports(self) -> int:
        with self._lock:
            sessions = list(self._sessions.values())
        return sum(session.label_api.is_importing for session in sessions)

    def _run_cleanup_loop(self) -> None:
        while not self._is_over.wait(CLEANUP_INTERVAL_SECONDS):
            try:
                self.sweep()
            except Exception:
                _logger.exception("the rooms of visitors could not be looked at; trying again")
