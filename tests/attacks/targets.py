"""Running server to attack, a server that must not be called, and requests that no browser would send."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import ModelError
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.models.chat import ChatModel
from hart_studio.records import Sample
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.app import build_app, launch_options
from hart_studio.ui.security.access import LOOPBACK_HOSTS
from tests.browser.run_pages import write_run
from tests.evaluations import draw_image, make_records, write_evaluation
from tests.fakes import ScriptedModel

PROJECT_ROOT = Path(__file__).parents[2]
BOX = '[{"bbox_2d": [250, 500, 375, 750], "label": "sign"}]'
SECRET = "the-words-of-the-secret-file"  # noqa: S105 - it keeps no secret but these tests' own
"""Content of secret files that must not leak."""

PASSWORD = "correct horse battery"  # noqa: S105 - of these tests alone
_TRACE = re.compile(r"Traceback|File \\?\"|line \d+, in ")


@dataclass(frozen=True)
class Target:
    """A running server and its folders."""

    url: str
    app: gr.Blocks
    root: Path
    """Folder of all data: ``runs``, ``labels``, ``cache``, ``private``."""
    run: str
    """Id of an ordinary training run."""
    evaluation: str
    """Id of an evaluation."""
    project: str = "signs"

    @property
    def cache(self) -> Path:
        """Folder that the server may serve."""
        return self.root / "cache"

    @property
    def secret(self) -> Path:
        """A file that must never be served."""
        return self.root / "private" / "secret.txt"

    @property
    def server_functions(self) -> list[tuple[int, str]]:
        """(component id, name) of all server functions that page scripts may call."""
        found = []
        for number, block in self.app.blocks.items():
            found += [(number, name) for name, each in vars(block).items() if getattr(each, "_is_server_fn", False)]
        return found

    def call(self, name: str, data: Any, client: httpx.Client | None = None, beside: str = "") -> httpx.Response:
        """Call a server function as a script of the page does; ``beside``: another function of the same component."""
        functions = self.server_functions
        number = next(
            number for number, each in functions if each == name and (not beside or (number, beside) in functions)
        )
        body = {"component_id": number, "fn_name": name, "session_hash": "attack", "data": data}
        return (client or httpx).post(f"{self.url}gradio_api/component_server", json=body, timeout=60)

    def trigger(self, fn_index: int, data: list[Any], event_data: Any = None, session: str = "attack") -> str:
        """Run an event handler by its number like a page; returns the event stream or the error."""
        body = {"fn_index": fn_index, "data": data, "event_data": event_data, "session_hash": session}
        joined = httpx.post(f"{self.url}gradio_api/queue/join", json=body, timeout=60)
        if joined.status_code != 200:
            return joined.text
        with httpx.stream("GET", f"{self.url}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
            reported = ""
            for line in stream.iter_lines():
                reported += line + "\n"
                if '"process_completed"' in line or '"close_stream"' in line or "unexpected_error" in line:
                    break
        return reported

    def ask(self, image: Any, endpoint: str = "ask") -> str:
        """Call an endpoint with this value as the image; returns the event stream or the error."""
        rest: dict[str, list[Any]] = {
            "ask": ["What?", "", "", "scripted", None],
            "locate": ["What?", "", "scripted"],
            "verify": ["What?", [{"x_min": 1, "y_min": 1, "x_max": 9, "y_max": 9}], "", "", "scripted"],
        }
        url = f"{self.url}gradio_api/call/{endpoint}"
        joined = httpx.post(url, json={"data": [image, *rest[endpoint]]}, timeout=60)
        if joined.status_code != 200:
            return joined.text
        return httpx.get(f"{url}/{joined.json()['event_id']}", timeout=60).text

    def upload(self, name: str, content: bytes) -> httpx.Response:
        """Upload a file like a page."""
        return httpx.post(f"{self.url}gradio_api/upload", files={"files": (name, content)}, timeout=60)


def leaks(text: str, target: Target, *, names_roots: bool = False) -> list[str]:
    """Find leaks in a response: words of a secret file, a stack trace, a path on this machine.

    Args:
        text: The answer.
        target: Whose it is.
        names_roots: Whether the folders of runs and labels may be named, as in an authenticated response.
    """
    plain = text.replace("\\/", "/")
    # The names of served files are in the cache folder: gradio's addresses are made of them.
    plain = plain.replace(str(target.cache), "")
    if names_roots:
        plain = plain.replace(str(target.root), "")
    places = [str(target.root), str(PROJECT_ROOT), str(Path.home()) + "/", "site-packages", sys.prefix]
    found = [place for place in (SECRET, "root:x:0", PASSWORD, *places) if place in plain]
    return found + ([str(_TRACE.search(plain))] if _TRACE.search(plain) else [])


def open_by_name(name: str) -> ChatModel:
    """The scripted model; fails if its name says so."""
    if name.startswith(("/", "http", "\\", ".", "file:")):
        raise ModelError(f"Model {name!r} not found: there is no such folder")
    if name == "broken":
        raise RuntimeError(f"secret detail of {name}: {SECRET}")
    return ScriptedModel(
        name=name, grounding=BOX, crops_only="\\boxed{A}", direct=lambda _: "\\boxed{B}", full_and_crops="\\boxed{A}"
    )


@contextmanager
def serve_target(root: Path, *, is_open: bool = True, login: tuple[str, str] | None = None) -> Iterator[Target]:
    """Create the data and run the server until the block ends."""
    for name in ("runs", "labels", "cache", "private", "images"):
        (root / name).mkdir()
    (root / "private" / "secret.txt").write_text(SECRET, "utf-8")
    image = draw_image(root / "images" / "street.png")
    Image.open(image).save(root / "private" / "secret.png")
    run = write_run(root / "runs", "ordinary")
    evaluation = write_evaluation(root / "runs", make_records(image), model="scripted")
    project = create_project(root / "labels" / "signs", "signs")
    samples = tuple(
        Sample(id=f"q{n}", image=str(image), question=f"Which number {n}?", choices=("five", "six"), answer="A")
        for n in range(3)
    )
    import_samples(project, LoadedSamples("signs", samples))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(root / "cache"))
        launcher = RunLauncher(root / "runs", is_open=is_open)
        labels = LabelApi(root / "labels", is_open=is_open)
        app = build_app(
            AskService(root / "cache" / "work", open_by_name), (), [("Scripted", "scripted")], launcher, labels
        )
        options = launch_options(PROJECT_ROOT, LOOPBACK_HOSTS, login)
        _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        try:
            yield Target(url, app, root, run.run_id, evaluation.run_id)
        finally:
            app.close(verbose=False)
            launcher.close()


class Canary:
    """A web server that must not be called.

    Attributes:
        url: Its address.
        hits: Lines of the requests that it got.
    """

    def __init__(self) -> None:
        """Start listening."""
        self.hits: list[str] = []
        hits = self.hits

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hits.append(self.requestline)
                self.send_response(200)
                self.end_headers()

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names of http.server

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
