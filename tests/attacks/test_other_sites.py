"""Requests of other sites, other host names, and cookies of the login."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.attacks.targets import PASSWORD, Target

pytestmark = pytest.mark.integration
FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://["},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    {"referer": "http://evil.example/127.0.0.1"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("path", ["gradio_api/component_server", "gradio_api/queue/join", "gradio_api/upload", "login"])
def test_another_site_cannot_post(target: Target, headers: dict[str, str], path: str) -> None:
    assert httpx.post(f"{target.url}{path}", json={}, headers=headers).status_code == 403


@pytest.mark.parametrize("headers", FOREIGN[:-1], ids=str)
def test_another_site_cannot_read(target: Target, headers: dict[str, str]) -> None:
    file = target.upload("x.png", b"x").json()[0]
    for path in ("config", f"gradio_api/file={file}", "gradio_api/queue/data?session_hash=x", "logout"):
        assert httpx.get(f"{target.url}{path}", headers=headers).status_code == 403, path


def test_a_link_from_another_site_opens_the_page_and_logs_no_one_out(target: Target) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "referer": "http://evil.example/"}
    assert httpx.get(target.url, headers=headers).status_code == 200
    assert httpx.get(f"{target.url}logout", headers=headers).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_cannot_call_a_function(target: Target, kind: str) -> None:
    """Content types that a browser sends to another site without a preflight request."""
    body = f'{{"component_id": {target.server_functions[0][0]}, "fn_name": "projects", "session_hash": "x", "data": 0}}'
    for path in ("component_server", "queue/join", "call/ask"):
        answer = httpx.post(f"{target.url}gradio_api/{path}", content=body, headers={"content-type": kind})
        assert answer.status_code == 415, (path, answer.text)


def test_the_page_itself_and_programs_are_answered(target: Target) -> None:
    own = {"origin": target.url.rstrip("/"), "sec-fetch-site": "same-origin", "referer": target.url}
    assert target.call("projects", {}, httpx.Client(headers=own)).status_code == 200
    assert target.call("projects", {}).status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["GET /config HTTP/1.1", "Host: evil.example"],
        ["GET /config HTTP/1.1", "Host: evil.example", "X-Forwarded-Host: 127.0.0.1"],
        ["GET /config HTTP/1.1", "Host: 127.0.0.1", "X-Forwarded-Host: evil.example"],
        ["GET /config HTTP/1.1", "Host: 127.0.0.1", "Host: evil.example"],
        ["GET http://evil.example/config HTTP/1.1", "Host: evil.example"],
        ["GET http://127.0.0.1/config HTTP/1.1", "Host: evil.example"],
        ["GET http://evil.example/config HTTP/1.1", "Host: 127.0.0.1"],
        ["GET /config HTTP/1.0"],
        ["GET //evil.example/config HTTP/1.1", "Host: 127.0.0.1"],
    ],
    ids=" | ".join,
)
def test_no_other_name_gets_the_page(target: Target, lines: list[str]) -> None:
    place = urlsplit(target.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    status = int(answer.split(b" ", 2)[1])
    assert status in {400, 404}
    assert b"components" not in answer


def test_cookies_of_the_login_stay_with_the_page(login_target: Target) -> None:
    answer = httpx.post(f"{login_target.url}login", data={"username": "ada", "password": PASSWORD})
    cookies = answer.headers.get_list("set-cookie")
    assert answer.status_code == 200 and len(cookies) == 2
    for cookie in cookies:
        flags = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=lax"} <= flags and "samesite=none" not in flags
        assert PASSWORD not in cookie
