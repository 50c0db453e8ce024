import pytest

from hart_studio.ui.security.routes import is_open, is_served

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
