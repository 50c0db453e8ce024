"""Run ``python app.py`` in its own process, and make the calls of its page."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

TIMEOUT_SECONDS = 180.0
"""Timeout of the server start; it takes seconds on an idle machine."""

APP = Path(__file__).resolve().parents[1] / "app.py"


class Page:
    """A running page, and the calls of its scripts and buttons.

    Attributes:
        url: URL without a trailing slash.
        client: HTTP client of its server.
        config: Gradio config of the page.
    """

    def __init__(self, url: str) -> None:
        """Read the Gradio config of the page.

        Raises:
            httpx.HTTPError: If the page is not available.
        """
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=120)
        self.config = self.client.get("/config").raise_for_status().json()

    def component_of(self, *functions: str) -> int:
        """Id of the first component with all of these server functions."""
        parts = self.config["components"]
        return next(part["id"] for part in parts if {*functions} <= {*(part["props"].get("server_fns") or ())})

    def call(self, function: str, data: Mapping[str, Any], beside: str = "") -> Any:
        """Call a server function of a component.

        Args:
            function: Name of the function.
            data: Its argument.
            beside: Another function of the same component, if the name is not unique.

        Raises:
            httpx.HTTPStatusError: If it is refused.
        """
        body = {
            "session_hash": "studio",
            "component_id": self.component_of(function, *filter(None, [beside])),
            "fn_name": function,
            "data": dict(data),
        }
        return self.client.post("/gradio_api/component_server", json=body).raise_for_status().json()

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Upload a file; return it in the form that endpoints accept."""
        answer = self.client.post("/gradio_api/upload", files={"files": (name, data)}).raise_for_status().json()
        return {"path": answer[0], "meta": {"_type": "gradio.FileData"}}

    def ask(self, image: Mapping[str, Any], question: str, choices: str = "", model: str = "") -> tuple[str, Any]:
        """Ask with the API endpoint.

        Returns:
            The name of the last event, ``complete`` or ``error``, and its data.
        """
        url = "/gradio_api/call/ask"
        body = {"data": [image, question, choices, "", model, None]}
        event = self.client.post(url, json=body).raise_for_status().json()["event_id"]
        return read_end(self.client.get(f"{url}/{event}").text)

    def press(self, button: str, changes: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Press a button of the page with initial field values.

        Args:
            button: Its ``elem_id``.
            changes: ``elem_id`` of a field -> its value.

        Returns:
            Messages of the server, in order.

        Raises:
            ValueError: If the button does not take one of the fields.
        """
        parts = {part["id"]: part["props"] for part in self.config["components"]}
        (number,) = [key for key, props in parts.items() if props.get("elem_id") == button]
        (wired,) = [wire for wire in self.config["dependencies"] if [number, "click"] in wire["targets"]]
        fields = [(parts[key].get("elem_id", ""), parts[key].get("value")) for key in wired["inputs"]]
        if unknown := set(changes or {}) - {field for field, _ in fields}:
            raise ValueError(f"The button {button} takes no field {', '.join(sorted(unknown))}.")
        values = [(changes or {}).get(field, value) for field, value in fields]
        session = uuid.uuid4().hex
        body = {"data": values, "fn_index": wired["id"], "session_hash": session, "trigger_id": number}
        self.client.post("/gradio_api/queue/join", json=body).raise_for_status()
        messages = []
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    messages.append(json.loads(line[6:]))
                    if messages[-1]["msg"] == "process_completed":
                        break
        return messages


class Studio(Page):
    """A server.

    Attributes:
        process: Process of the server.
    """

    def __init__(self, *flags: str, folder: Path | None = None, program: tuple[str, ...] = (str(APP),)) -> None:
        """Start it on a free port of this machine, and wait for the page.

        Args:
            *flags: Flags of ``app.py``.
            folder: Working folder and folder for temporary files; contains its output as ``studio.log``. None = this
                one, and no output.
            program: Python program to run.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [sys.executable, *program, "--port", str(port), *flags]
        variables = {"TMPDIR": str(folder)} if folder else {}
        paths = os.pathsep.join([str(APP.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (folder / "studio.log" if folder else Path(os.devnull)).open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=folder, env={**os.environ, **variables, "PYTHONPATH": paths}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                super().__init__(f"http://127.0.0.1:{port}")
                return
            except httpx.HTTPError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self._end()
                    raise
                time.sleep(0.1)

    def cpu_seconds(self) -> float:
        """CPU time of the server process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()


def read_end(text: str) -> tuple[str, Any]:
    """Parse the last event of a stream and its data, ignoring keep-alive events."""
    events = [part.split("\ndata: ", 1) for part in text.split("event: ")[1:]]
    named = [(name.strip(), data) for name, data in events if name.strip() != "heartbeat"]
    return (named[-1][0], json.loads(named[-1][1])) if named else ("nothing", None)


def memory_of(pid: int, *, with_children: bool = True) -> int:
    """Resident memory of a process and its children, bytes."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(folder.name))
    found, wanted = 0, [pid]
    while wanted:
        one = wanted.pop()
        wanted += parents.get(one, []) if with_children else []
        try:
            found += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return found


def size_of(folder: Path) -> int:
    """Size of all files below a folder, bytes; files may disappear meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total
