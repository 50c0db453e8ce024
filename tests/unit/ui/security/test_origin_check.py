import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from hart_studio.ui.security.access import LOOPBACK_HOSTS
from hart_studio.ui.security.origin_check import OriginCheckMiddleware, is_open, is_served


def answer(method="GET", hosts=LOOPBACK_HOSTS, kind="http", **headers):
    """Status and headers of one request through the guard in front of an application that always says 200."""
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    # In a thread of its own: browser tests of the same process keep an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, OriginCheckMiddleware(application, hosts)(scope, None, send)).result()
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860", "LOCALHOST:1"])
def test_names_of_this_machine_are_answered(host):
    assert answer(host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:7860", "", "[", "a:b:c", "@"])
def test_other_names_are_refused_by_a_private_server(host):
    assert answer(host=host)[0] == 400


def test_a_public_server_answers_to_any_name():
    assert answer(hosts=None, host="owner-studio.hf.space")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9999", "null", "http://127.0.0.1"])
def test_posts_from_other_pages_are_refused(origin):
    assert answer("POST", host="localhost:7860", origin=origin)[0] == 403


@pytest.mark.parametrize("hosts", [LOOPBACK_HOSTS, None])
def test_posts_from_the_page_itself_and_from_scripts_pass(hosts):
    assert answer("POST", hosts, host="localhost:7860", origin="http://localhost:7860")[0] == 200
    assert answer("POST", hosts, host="localhost:7860")[0] == 200


def test_a_foreign_page_cannot_post_to_a_public_server_either():
    assert answer("POST", None, host="owner-studio.hf.space", origin="https://evil.example")[0] == 403


def test_headers_are_added_and_own_ones_kept():
    headers = answer(host="localhost")[1]
    assert headers[b"x-own"] == b"1"
    assert headers[b"x-content-type-options"] == b"nosniff"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http:" not in policy


def test_other_protocols_pass_untouched():
    assert answer(kind="lifespan")[1] == {b"x-own": b"1"}


def test_guesses_at_a_login_are_slowed_down_for_each_address():
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    guard = OriginCheckMiddleware(application, LOOPBACK_HOSTS)

    def call(path, address, method="POST"):
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "client": (address, 1),
            "headers": [(b"host", b"localhost")],
        }
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, guard(scope, None, send)).result()
        return sent[-1]

    assert [call("/login", "10.0.0.1") for _ in range(11)] == [200] * 10 + [429]
    assert call("/login/", "10.0.0.1") == 429 and call("/studio/login", "10.0.0.1") == 404
    assert call("/login", "10.0.0.2") == 200
    assert call("/login", "10.0.0.1", "GET") == 200 and call("/gradio_api/cancel", "10.0.0.1") == 200


PAGE = ["/", "/login", "/login/", "/theme.css", "/assets/index.js", "/static/fonts/a.woff2", "/svelte/x.js"]
WORK = ["/config", "/config/", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/call/ask/1"]
FILES = ["/gradio_api/file=/srv/cache/a.png", "/gradio_api/file=C:\\cache\\a.png", "/gradio_api/file=/c/a..b/..c d.png"]
ABSENT = [
    "x", "//login", "/LOGIN", "/login.css", "/configx", "/config/x", "/assets", "/static", "/gradio_api",
    "/gradio_api/", "/gradio_api/uploads", "/gradio_api/upload/x", "/gradio_api/proxy=https://hub.example/x",
    "/gradio_api/deep_link", "/gradio_api/stream/x", "/gradio_api/file", "/gradio_api/file/etc/passwd", "/docs",
    "/openapi.json", "/studio/login", "/mcpx", "/monitoring/x", "/queue/join", "/upload", "/%67radio_api/upload",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGE)
def test_what_the_page_is_drawn_with_is_public(path):
    assert is_open(path) and is_served(path)


@pytest.mark.parametrize("path", WORK + FILES)
def test_what_the_pages_call_is_served_and_not_public(path):
    assert is_served(path) and not is_open(path)


@pytest.mark.parametrize("path", ABSENT)
def test_what_is_not_listed_is_not_there(path):
    assert not is_served(path) and not is_open(path)


def test_slashes_at_the_end_change_nothing():
    for path in (*PAGE[:4], *WORK[:4]):
        assert [is_open(path + end) for end in ("", "/", "//")] == [is_open(path)] * 3
        assert is_served(f"{path}//")


@pytest.mark.parametrize("start", ["/assets/", "/static/", "/svelte/", "/login/", "/mcp/", "/gradio_api/call/"])
@pytest.mark.parametrize(
    "rest",
    ["../config", "..", "a/../../config", "..\\config", "a\\..\\..\\b", "x\0.js", "\0", "a\nb", "a\x7f", "/../x"],
)
def test_nothing_leads_out_of_what_is_public(start, rest):
    assert not is_served(start + rest)


@pytest.mark.parametrize("rest", ["..", "../x", "/srv/cache/../../etc/passwd", "/srv/a\0.png", "/srv/..\\x", "..\\x"])
def test_no_address_of_a_file_leads_elsewhere_than_it_says(rest):
    assert not is_served(f"/gradio_api/file={rest}")


@pytest.mark.parametrize(
    "address",
    [
        "http://hub.example/x", "HTTPS://hub.example/x", "ftp://x", "file:///etc/passwd", "data:text/html,x", "http:x",
        "//hub.example/x", "\\\\host\\share", "\\/host/share", "/\\host\\share", " http://x", "  //x", "git+ssh://x",
    ],
)  # fmt: skip
def test_no_address_of_a_file_names_another_server(address):
    assert not is_served(f"/gradio_api/file={address}")


def test_a_percent_sign_that_is_left_is_a_sign_like_any_other():
    assert is_served("/gradio_api/file=/srv/100%2e%2e.png")
    assert is_served("/assets/%2e%2e/x.js"), "the server has decoded once, and no one decodes twice"
