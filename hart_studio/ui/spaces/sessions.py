"""Sessions of Space visitors: each browser tab has private labeling projects.

A tab generates a random 256-bit session token and sends it with every call. The server stores only the SHA-256 of the
token and never lists sessions, so tokens cannot be guessed or enumerated. Session folders are not served. They are
removed after an idle time and when the server ends.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import InputError
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.exports import LabelExportApi
from hart_studio.ui.api.handler import Handler
from hart_studio.ui.api.label_limits import LabelLimits
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.review import ReviewApi
from hart_studio.ui.security.model_allowlist import ModelAllowlist

IDLE_SECONDS: Final = 2 * 3600.0
"""A session expires after this time without calls. Project default."""

AWAY_SECONDS: Final = 15 * 60.0
"""After this time without calls a visitor counts as away: their run stops, and the session may be evicted for another
visitor. An open page polls every second or two, and once a minute in a background tab. Project default."""

RUN_SECONDS: Final = 20 * 60.0
"""Time limit of a run, because other visitors wait; labels are kept and the run can be resumed. Project default."""

MAX_SESSIONS_PER_SPACE: Final = 40
"""Maximum number of sessions; beyond that the longest idle one is evicted. Project default."""

MAX_IMPORTS: Final = 2
"""Concurrent imports of all visitors. Project default."""

CLEANUP_INTERVAL_SECONDS: Final = 30.0
"""Interval of the cleanup."""

SESSION_FIELD: Final = "session_token"
"""Request field with the session token."""

VISITOR_LIMITS: Final = LabelLimits(
    max_projects=3,
    max_items=200,
    max_bytes=256 << 20,
    max_kept_bytes=512 << 20,
    # All but zip are plain text, so they do not expand.
    endings=(".zip", ".csv", ".tsv", ".jsonl"),
    # Those that contain their images. Others could name images on this machine.
    kinds=("auto", "images", "table", "questions"),
    max_source_bytes=64 << 20,
    max_lines=5000,
    max_rollouts=8,
    max_boxes=16,
    max_checks=2,  # a save behind a check
    keeps_images=False,  # decoded images of all visitors would need too much memory
    keeps_trash=False,  # deleted projects free storage at once
    can_pause=False,
)
"""Limits of one visitor, because visitors share disk and CPU of the Space. Project default."""

BUSY: Final = (
    "Another labeling run, yours or another visitor's, is active, and only one can run at a time. Nothing is lost. Try "
    "again in a few minutes."
)
"""Error if a run is active."""

GONE: Final = (
    "This browser tab has no projects any more. Projects are deleted after two idle hours, when the Space restarts, "
    "and when the tab is closed. Create a new one."
)
"""Error of a call without a session."""

_TOKEN_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
_logger = logging.getLogger(__name__)


@dataclass
class Session:
    """Session of one visitor."""

    folder: Path
    """Folder of the projects; not served."""
    shown: Path
    """Served folder for displayed files, with an unguessable name."""
    labels: LabelApi
    exports: LabelExportApi
    review: ReviewApi
    seen: float
    """Time of the last call, monotonic clock."""
    busy: int = 0
    """Number of running calls."""
    run_since: float | None = None
    """When the active run was first seen, same clock; None without one."""

    @property
    def apis(self) -> Mapping[type, object]:
        """The APIs by class."""
        return {LabelApi: self.labels, LabelExportApi: self.exports, ReviewApi: self.review}


class SessionStore:
    """Creates, finds and removes sessions.

    Attributes:
        root: Folder of all sessions; must not be served.
        limits: Limits of one visitor.
    """

    def __init__(
        self,
        root: Path,
        service: AskService,
        allowed: ModelAllowlist,
        max_sessions: int = MAX_SESSIONS_PER_SPACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty store.

        Args:
            root: An existing folder of this server alone.
            service: Opens images and asks models; its folder is served.
            allowed: Models that may label.
            max_sessions: Maximum number of sessions.
            clock: Replaced in tests.
        """
        self.root = root
        self.limits = replace(VISITOR_LIMITS, reserve_run=self._reserve, check_imports=self._check_imports)
        self._no_projects = LabelApi(root / "none", is_open=False)
        self._service, self._allowed, self._max_sessions, self._clock = service, allowed, max_sessions, clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._is_over = threading.Event()

    @contextmanager
    def open_api(self, kind: type, handler: Handler, request: Mapping[str, Any]) -> Iterator[object]:
        """Hold the session of a request; the first project of a tab creates it.

        Args:
            kind: Class of the handler.
            handler: Its method.
            request: From a browser, with the session token.

        Yields:
            The API of the session.

        Raises:
            InputError: If the token is malformed, there is no such session, or there are too many.
        """
        with self.enter(request.get(SESSION_FIELD), create=handler is LabelApi.create) as session:
            if session is not None:
                yield session.apis[kind]
            elif handler is LabelApi.projects:
                yield self._no_projects
            else:
                raise InputError(GONE)

    @contextmanager
    def enter(self, session_token: Any, *, create: bool = False) -> Iterator[Session | None]:
        """Hold the session of a token, so that it is not removed.

        Args:
            session_token: From a browser.
            create: Whether to create a missing session.

        Yields:
            The session; None if there is none.

        Raises:
            InputError: If the token is malformed, or there are too many sessions.
        """
        if not isinstance(session_token, str) or not _TOKEN_PATTERN.fullmatch(session_token):
            raise InputError("Session expired. Reload the page.")
        key = hashlib.sha256(session_token.encode()).hexdigest()
        idle = self._find_idle() if create else ()
        removed: list[Session] = []
        try:
            with self._lock:
                session = self._sessions.get(key)
                if session is None and create:
                    removed = self._evict_idle(idle)
                    session = self._sessions[key] = self._build(key)
                if session is not None:
                    session.busy += 1
                    session.seen = self._clock()
        finally:
            self._clear(removed)
        try:
            yield session
        finally:
            if session is not None:
                with self._lock:
                    session.busy -= 1
                    session.seen = self._clock()

    def start(self) -> None:
        """Start the cleanup in a daemon thread."""
        threading.Thread(target=self._run_cleanup_loop, name="session-cleanup", daemon=True).start()

    def close(self) -> None:
        """Stop all runs and remove all sessions."""
        self._is_over.set()
        with self._lock:
            removed, self._sessions = list(self._sessions.values()), {}
        self._clear(removed)

    def sweep(self) -> int:
        """Remove idle sessions, and stop runs that exceed the time limit or whose visitor is away.

        Returns:
            The number of remaining sessions.
        """
        now = self._clock()
        with self._lock:
            sessions = dict(self._sessions)
        # Checked without the lock, because it reads from disk; returning visitors are checked again below.
        for session in sessions.values():
            if not session.labels.has_run:
                session.run_since = None
                continue
            session.run_since = now if session.run_since is None else session.run_since
            is_away = now - session.seen > AWAY_SECONDS and not session.busy
            if is_away or now - session.run_since > RUN_SECONDS:
                session.labels.stop_runs()
                session.run_since = None
        with self._lock:
            removed = [self._sessions.pop(key) for key in list(self._sessions) if self._is_idle(key, IDLE_SECONDS)]
            left = len(self._sessions)
        self._clear(removed)
        return left

    def _is_idle(self, key: str, seconds: float) -> bool:
        """Whether a session had no call for this time and no import is running."""
        session = self._sessions[key]
        return not (session.busy or session.labels.is_importing) and self._clock() - session.seen > seconds

    def _find_idle(self) -> list[str]:
        """Sessions that may be evicted if the store is full; called without the lock, because it reads from disk."""
        with self._lock:
            is_full = len(self._sessions) >= self._max_sessions
            absent = {
                key: session for key, session in self._sessions.items() if is_full and self._is_idle(key, AWAY_SECONDS)
            }
        return [key for key, session in absent.items() if not session.labels.has_run]

    def _evict_idle(self, idle: Collection[str]) -> list[Session]:
        """Remove the longest idle session if the store is full; the lock must be held.

        Sessions of active visitors are never evicted, whatever the number of new tokens.
        """
        if len(self._sessions) < self._max_sessions:
            return []
        # Check again: visitors may have returned.
        idle_keys = [key for key in idle if key in self._sessions and self._is_idle(key, AWAY_SECONDS)]
        if not idle_keys:
            raise InputError("Too many visitors. Try again in a few minutes.")
        return [self._sessions.pop(min(idle_keys, key=lambda key: self._sessions[key].seen))]

    def _build(self, key: str) -> Session:
        folder = self.root / key
        folder.mkdir(mode=0o700, parents=True)
        served = self._service.folder
        shown = served / "visitors" / secrets.token_hex(16)
        limits = replace(self.limits, images=self._service.limits)
        labels = LabelApi(folder, allowed=self._allowed, limits=limits)
        exports = LabelExportApi(labels, served, shown / "labels", shows_paths=False)
        review = ReviewApi(labels, self._service.with_folder(shown), served)
        return Session(folder, shown, labels, exports, review, self._clock())

    def _clear(self, sessions: list[Session]) -> None:
        """Delete sessions that were removed from the store."""
        for session in sessions:
            session.labels.close()
            session.review.close()
            for folder in (session.folder, session.shown):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _reserve(self) -> Iterator[None]:
        """Hold the right to start a run.

        Raises:
            InputError: If a run of any visitor is active.
        """
        with self._turn:
            with self._lock:
                sessions = list(self._sessions.values())
            if any(session.labels.has_run for session in sessions):
                raise InputError(BUSY)
            yield

    def _check_imports(self) -> None:
        """Raise if too many imports of all visitors are running.

        Raises:
            InputError: If there are.
        """
        with self._lock:
            sessions = list(self._sessions.values())
        if sum(session.labels.is_importing for session in sessions) >= MAX_IMPORTS:
            raise InputError("Too many imports are running. Try again in a minute.")

    def _run_cleanup_loop(self) -> None:
        while not self._is_over.wait(CLEANUP_INTERVAL_SECONDS):
            try:
                self.sweep()
            except Exception:
                _logger.exception("session cleanup failed; trying again")
