"""Actions of a visitor of a Space in tests: session token, uploads, calls."""

from __future__ import annotations

import io
import json
import secrets
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from hart_studio.runs.launcher import start_run
from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.pages.label import ACTIONS, READERS
from hart_studio.ui.spaces.sessions import SessionStore


class Clock:
    """A clock controlled by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_session_token() -> str:
    return secrets.token_hex(32)


HANDLERS = {
    handler.__name__: (kind, handler)
    for table in (READERS, ACTIONS)
    for kind, handlers in table.items()
    for handler in handlers
}
"""Functions of the Label tab: name -> (class, method)."""


def call(sessions: SessionStore, session_token: Any, function: str, **request: Any) -> Any:
    kind, handler = HANDLERS[function]
    fields = {**request, "session_token": session_token}
    with sessions.open_api(kind, handler, fields) as api:
        return call_handler(handler, fields, api)


def set_limits(sessions: SessionStore, **changes: Any) -> None:
    """Change the limits of all visitors, also those who are there already."""
    sessions.limits = replace(sessions.limits, **changes)
    for session in sessions._sessions.values():
        session.labels.limits = replace(session.labels.limits, **changes)


def make_image(number: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, number // 256, 0)).save(data, "PNG")
    return data.getvalue()


def upload_zip(uploads: Path, count: int = 2, name: str = "images.zip") -> Path:
    folder = uploads / secrets.token_hex(8)
    folder.mkdir()
    with zipfile.ZipFile(folder / name, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.png", make_image(number))
    return folder / name


def upload_table(uploads: Path, rows: list[dict[str, Any]]) -> Path:
    folder = uploads / secrets.token_hex(8)
    folder.mkdir()
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "table.jsonl"


def import_source(sessions: SessionStore, session_token: str, source: Path, **more: Any) -> dict[str, Any]:
    call(sessions, session_token, "start_import", project="signs", source=str(source), question="What?", **more)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = call(sessions, session_token, "poll", project="signs")["import"]
        if state and state["is_over"]:
            return dict(state)
        time.sleep(0.02)
    raise AssertionError("the import did not end")


def sleep_instead(layout: RunLayout, *arguments: Any) -> Any:
    """A fake labeling run that only waits."""
    return start_run(layout, ["sleep", "60"])


def state_of(sessions: SessionStore, session_token: str) -> str:
    return str(call(sessions, session_token, "poll", project="signs")["runs"][0]["state"])
