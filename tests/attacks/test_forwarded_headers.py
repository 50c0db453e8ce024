"""No header and no query of a client redirects the page, or a user who signs in, to another site."""

from __future__ import annotations

import http.client
import http.server
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from hart_studio.ui.mcp.endpoint import TokenAuth
from hart_studio.ui.security.access import LOOPBACK_HOSTS, MAX_TRIES
from hart_studio.ui.security.origin_check import OriginCheckMiddleware
from hart_studio.ui.security.proxy_headers import load_proxy_config
from hart_studio.ui.security.request_limits import RequestLimitMiddleware
from tests.asgi import accepting
from tests.attacks.targets import Target
from tests.fakes import ScriptedModel
from tests.spaces import Space, serve_space

pytestmark = pytest.mark.integration

EVIL = "evil.example"
HEADERS: list[dict[str, str]] = [
    {"x-gradio-server": f"http://{EVIL}"}, {"X-Gradio-Server": f"https://{EVIL}/x"}, {"x-forwarded-host": EVIL},
    {"x-forwarded-host": f"127.0.0.1, {EVIL}"}, {"x-forwarded-proto": "https"},
    {"x-forwarded-proto": "https", "x-forwarded-host": EVIL}, {"x-forwarded-prefix": f"/{EVIL}"},
    {"forwarded": f"host={EVIL};proto=https"}, {"x-direct-url": f"http://{EVIL}"}, {"x-original-url": f"/{EVIL}"},
    {"x-forwarded-server": EVIL}, {"x-host": EVIL}, {"x-forwarded-port": "1"},
]  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    root = tmp_path_factory.mktemp("space")
    (root / "examples").mkdir()
    (root / "examples" / "examples.json").write_text("[]")
    with serve_space(root, lambda name: ScriptedModel(), root / "examples", SPACE_HOST="ada-hart.hf.space") as served:
        yield served


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: " ".join(f"{k}={v}" for k, v in headers.items()))
def test_no_header_sets_the_root_of_the_page(target: Target, headers: dict[str, str]) -> None:
    plain = httpx.get(f"{target.url}config").json()["root"]
    answer = httpx.get(f"{target.url}config", headers=headers)
    assert answer.status_code == 400 or answer.json()["root"] == plain == target.url.rstrip("/")
    assert EVIL not in answer.text and "https://127" not in answer.text
    page = httpx.get(target.url, headers=headers)
    assert EVIL not in page.text and f'"root":"{plain.replace("http:", "https:")}' not in page.text


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: " ".join(f"{k}={v}" for k, v in headers.items()))
def test_no_header_leads_a_login_or_a_call_elsewhere(login_target: Target, headers: dict[str, str]) -> None:
    for path in ("logout", "login/", "gradio_api/info"):
        answer = httpx.get(login_target.url + path, headers=headers)
        assert EVIL not in answer.text + answer.headers.get("location", "")


def test_a_space_is_reached_under_its_own_names(space: Space) -> None:
    def root(**headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = httpx.get(f"{space.url}config", headers=named)
        return answer.json()["root"] if answer.status_code == 200 else answer.status_code

    plain = root()
    assert root(x_forwarded_host=EVIL) in (400, plain)
    assert EVIL not in str(root(x_forwarded_host=EVIL, x_forwarded_proto="https"))
    assert root(x_gradio_server=f"http://{EVIL}") == plain
    assert root(x_forwarded_proto="https") == plain.replace("http:", "https:"), "what the platform sends is used"


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/x", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
     "////evil.example", "http:evil.example", "javascript:evil.example"],
)  # fmt: skip
def test_a_sign_in_ends_on_this_site(space: Space, target: str) -> None:
    for path in ("login/callback", "login/callback/", "logout"):
        address: Any = f"{space.url}{path}"
        for _ in range(3):
            answer = httpx.get(address, params={"_target_url": target, "_nb_redirects": "0"})
            reported = answer.headers.get("location", "")
            if not path.endswith("/"):  # that one is sent to the same address without the slash, with its query
                assert "evil" not in reported, (path, reported)
            if answer.status_code != 307 or "callback" not in reported:
                break
            address = httpx.URL(reported)
        assert answer.status_code in {302, 303, 307, 404}


def test_a_sign_in_that_is_built_to_hurt_is_no_fault_of_the_server(space: Space) -> None:
    for query in ("_nb_redirects=x", "_nb_redirects=" + "9" * 5000, "_target_url=%FF", "&".join(["a=b"] * 200)):
        answer = httpx.get(f"{space.url}login/callback?{query}")
        assert answer.status_code in {302, 303, 307}, query


def test_the_page_of_an_honest_path_is_kept(space: Space, tmp_path: Path) -> None:
    answer = httpx.get(f"{space.url}logout", params={"_target_url": "/?tab=runs"})
    assert answer.headers["location"] == "/?tab=runs"


@contextmanager
def serve_behind_relay(appends: bool, *, sets_client: bool) -> Iterator[str]:
    """Serve the middleware with uvicorn behind a relay of this machine, declared with ``--proxy 127.0.0.1``.

    Args:
        appends: Whether the relay appends the address of its client to ``X-Forwarded-For``, as nginx does with
            ``$proxy_add_x_forwarded_for``. False = it passes the header on unchanged, as nginx does by default.
        sets_client: Whether the server is reported to trust the last address.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORWARDED_ALLOW_IPS", "")
        # The option is left out where it is off: the server is the one of an operator who gave --proxy alone.
        proxying = load_proxy_config(("127.0.0.1",), os.environ, **({"sets_client": True} if sets_client else {}))
        stack = RequestLimitMiddleware(TokenAuth(accepting, "right-token-of-24-letters", accepting))
        server = uvicorn.Server(
            uvicorn.Config(
                OriginCheckMiddleware(stack, LOOPBACK_HOSTS, proxying),
                "127.0.0.1",
                0,
                log_level="error",
                lifespan="off",
            )
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
    upstream = server.servers[0].sockets[0].getsockname()[1]

    class Relay(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sent = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            if appends:
                client = self.client_address[0]
                sent["x-forwarded-for"] = ", ".join([*self.headers.get_all("x-forwarded-for", []), client])
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
            connection.request("POST", self.path, body, sent)
            self.send_response(connection.getresponse().status)
            self.end_headers()
            connection.close()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    relay = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{relay.server_address[1]}"
    finally:
        relay.shutdown()
        relay.server_close()
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize(
    ("appends", "sets_client"), [(False, False), (True, False), (True, True)], ids=["passed on", "appended", "trusted"]
)
def test_no_header_evades_the_limits_behind_a_proxy(appends: bool, sets_client: bool) -> None:
    with serve_behind_relay(appends, sets_client=sets_client) as url, httpx.Client(base_url=url) as client:

        def guess(path: str, count: int, **headers: str) -> Counter[int]:
            found: Counter[int] = Counter()
            for number in range(count):
                forged = {"x-forwarded-for": f"198.51.100.{number}"}
                found[client.post(path, data={"password": f"{number}"}, headers={**headers, **forged}).status_code] += 1
            return found

        assert guess("/login", 30) == {200: MAX_TRIES, 429: 30 - MAX_TRIES}
        assert guess("/mcp", 30, authorization="Bearer guess") == {401: MAX_TRIES, 429: 30 - MAX_TRIES}
