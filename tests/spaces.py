"""A studio served as on a Space, and its callers: visitors, the owner, and those who say that they are."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.http_server
import gradio.oauth
import httpx
import itsdangerous
import pytest

from hart_studio.models.chat import ChatModel
from hart_studio.ui.allowed_models import find_allowed, offered_models
from hart_studio.ui.app import build_app, launch_options
from hart_studio.ui.examples import load_examples
from hart_studio.ui.forwarding import read_proxying
from hart_studio.ui.guard import LOOPBACK_HOSTS
from hart_studio.ui.label_desk import LabelDesk
from hart_studio.ui.launch_desk import LaunchDesk
from hart_studio.ui.rights import SIGN_IN_VARIABLES, find_rights
from hart_studio.ui.services import AskService
from hart_studio.ui.space import SpaceDesks, open_space

PROJECT_ROOT = Path(__file__).parents[1]
SECRET = "a secret of this Space"  # noqa: S105 - of these tests alone
OWNER = "ada"
VARIABLES = {"SYSTEM": "spaces", "SPACE_ID": f"{OWNER}/hart", "SPACE_AUTHOR_NAME": OWNER}
SIGN_IN = {**dict.fromkeys(SIGN_IN_VARIABLES, "x"), "OAUTH_CLIENT_SECRET": SECRET}


@dataclass
class Space:
    """A served Space."""

    url: str
    app: gr.Blocks
    desk: LaunchDesk
    desks: SpaceDesks
    root: Path


@contextmanager
def serve_space(root: Path, load: Callable[[str], ChatModel], examples: Path, **changes: str) -> Iterator[Space]:
    """Serve the studio until the block ends, with the owner's training switched on.

    Args:
        root: Empty folder.
        load: From a name to a model.
        examples: Folder of the examples.
        **changes: Other values of the Space's variables.
    """
    variables = {**VARIABLES, **SIGN_IN, "HART_STUDIO_TRAINING": "1", **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(root / "cache"))
        for name, value in variables.items():
            patch.setenv(name, value)
            if name in SIGN_IN:
                patch.setattr(gradio.oauth, name, value)
        # Its own package is missing here, which reloads the code of a Space in development.
        patch.setattr(gradio.http_server, "watchfn_spaces", lambda reloader: None)
        rights = find_rights("space", dict(variables))
        models = offered_models(profile="space")
        allowed = find_allowed("space", models, root / "runs")
        service = AskService(root / "cache" / "work", load, allowed, rights.pictures)
        (root / "private").mkdir()
        questions = load_examples(examples, service.folder)
        desks = open_space(root / "private", service, questions)
        desk = LaunchDesk(root / "runs", is_open=rights.can_make, allowed=allowed)
        labels = LabelDesk(root / "labels", is_open=False, allowed=allowed)
        app = build_app(service, questions, models, desk, labels, rights, desks)
        options = launch_options(PROJECT_ROOT, LOOPBACK_HOSTS, proxying=read_proxying((), dict(variables)))
        _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        try:
            yield Space(url, app, desk, desks, root)
        finally:
            app.close(verbose=False)
            desk.close()
            desks.close()


def sign_in(name: str, secret: str = SECRET, expires_in: float = 3600) -> dict[str, str]:
    """The header of a session as the server would have signed it after the Hub's word that this is ``name``."""
    person = {"name": name, "preferred_username": name, "profile": "", "picture": "", "sub": "1"}
    session = {"oauth_info": {"userinfo": person, "expires_at": int(time.time() + expires_in), "access_token": "t"}}
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    data = base64.b64encode(json.dumps(session).encode())
    return {"cookie": f"session={itsdangerous.TimestampSigner(key).sign(data).decode()}"}


@dataclass
class Caller:
    """Somebody who calls a server as the page's scripts do."""

    space: Space
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    def call(self, component: int, name: str, data: Any) -> Any:
        """A function of a display."""
        body = {"data": data, "fn_name": name, "component_id": component, "session_hash": self.session}
        address = f"{self.space.url}gradio_api/component_server{self.query}"
        answer = httpx.post(address, json=body, headers=self.headers, timeout=60)
        return answer.json() if answer.status_code == 200 else {"status": answer.status_code}

    def fire(self, name: str, data: list[Any], event: Any = None, **more: Any) -> str:
        """The handler of an event; everything that the server says of it."""
        number = next(key for key, found in self.space.app.fns.items() if getattr(found.fn, "__name__", "") == name)
        joined = httpx.post(
            f"{self.space.url}gradio_api/queue/join{self.query}",
            json={"fn_index": number, "data": data, "event_data": event, "session_hash": self.session, **more},
            headers=self.headers,
            timeout=60,
        )
        if joined.status_code != 200:
            return joined.text
        said = []
        address = f"{self.space.url}gradio_api/queue/data?session_hash={self.session}"
        with httpx.stream("GET", address, headers=self.headers, timeout=60) as stream:
            for line in stream.iter_lines():
                said.append(line)
                if "process_completed" in line or "close_stream" in line:
                    break
        return "\n".join(said)


def list_functions(app: gr.Blocks) -> list[tuple[int, str, str]]:
    """(component, its class, function) of all that scripts of the pages may call."""
    return [
        (number, type(block).__name__, name)
        for number, block in app.blocks.items()
        if isinstance(block, gr.HTML)
        for name in dir(block)
        if getattr(getattr(block, name, None), "_is_server_fn", False)
    ]
