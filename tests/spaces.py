"""A server in Space mode, and its clients: visitors, the owner, and impostors."""

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
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.app import build_app, launch_options
from hart_studio.ui.pages.examples import load_examples
from hart_studio.ui.security.access import LOOPBACK_HOSTS, SIGN_IN_VARIABLES, load_permissions
from hart_studio.ui.security.model_allowlist import build_allowlist, offered_models
from hart_studio.ui.security.proxy_headers import load_proxy_config
from hart_studio.ui.spaces.space import SpaceServices, create_space_services

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
    launcher: RunLauncher
    services: SpaceServices
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
        permissions = load_permissions("space", dict(variables))
        models = offered_models(profile="space")
        allowed = build_allowlist("space", models, root / "runs")
        service = AskService(root / "cache" / "work", load, allowed, permissions.image_limits)
        (root / "private").mkdir()
        questions = load_examples(examples, service.folder)
        services = create_space_services(root / "private", service, questions)
        launcher = RunLauncher(root / "runs", is_open=permissions.can_write, allowed=allowed)
        labels = LabelApi(root / "labels", is_open=False, allowed=allowed)
        app = build_app(service, questions, models, launcher, labels, permissions, services)
        options = launch_options(PROJECT_ROOT, LOOPBACK_HOSTS, proxying=load_proxy_config((), dict(variables)))
        _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        try:
            yield Space(url, app, launcher, services, root)
        finally:
            app.close(verbose=False)
            launcher.close()
            services.close()


def sign_in(name: str, secret: str = SECRET, expires_in: float = 3600) -> dict[str, str]:
    """The header of a session as the server would have signed it after the Hub's word that this is ``name``."""
    person = {"name": name, "preferred_username": name, "profile": "", "picture": "", "sub": "1"}
    session = {"oauth_info": {"userinfo": person, "expires_at": int(time.time() + expires_in), "access_token": "t"}}
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    data = base64.b64encode(json.dumps(session).encode())
    return {"cookie": f"session={itsdangerous.TimestampSigner(key).sign(data).decode()}"}


@dataclass
class Caller:
    """A client that calls a server like the scripts of the page."""

    space: Space
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    def call(self, component: int, name: str, data: Any) -> Any:
        """Call a server function of a component."""
        body = {"data": data, "fn_name": name, "component_id": component, "session_hash": self.session}
        address = f"{self.space.url}gradio_api/component_server{self.query}"
        answer = httpx.post(address, json=body, headers=self.headers, timeout=60)
        return answer.json() if answer.status_code == 200 else {"status": answer.status_code}

    def fire(self, name: str, data: list[Any], event: Any = None, **more: Any) -> str:
        """Call an event handler; return all messages of the server."""
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
