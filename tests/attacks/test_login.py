"""Behind a login, unauthenticated requests get nothing: tests every route."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.attacks.targets import PASSWORD, Target

pytestmark = pytest.mark.integration

FOR_STRANGERS = {
    ("GET", "/"), ("HEAD", "/"), ("GET", "/theme.css"), ("GET", "/favicon.ico"), ("GET", "/robots.txt"),
    ("GET", "/manifest.json"), ("GET", "/pwa_icon"), ("GET", "/logout"), ("GET", "/gradio_api/theme.css"),
    ("GET", "/gradio_api/startup-events"), ("POST", "/gradio_api/reset"), ("POST", "/gradio_api/reset/"),
}  # fmt: skip
"""Page of the login, its assets, and routes without effect."""


def list_routes(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of all routes of an application, with made-up path values."""
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(route, "methods"):
            path = re.sub(r"\{[^}]*\}", "1", prefix + route.path)
            yield from ((method, path) for method in route.methods or ())
        elif hasattr(inner, "routes"):
            yield from list_routes(inner.routes, prefix + getattr(route, "path", ""))


@pytest.fixture(scope="module")
def routes(login_target: Target) -> list[tuple[str, str]]:
    found = sorted(set(list_routes(login_target.app.app.routes)))
    assert len(found) > 60 and ("POST", "/gradio_api/queue/join") in found and ("GET", "/config") in found
    return found


def knock(client: httpx.Client, target: Target, method: str, path: str) -> int:
    body = {} if method in {"POST", "PUT", "PATCH"} else None
    with client.stream(method, target.url.rstrip("/") + path, json=body, timeout=30) as answer:
        return answer.status_code


@pytest.mark.core
def test_every_route_is_shut_to_strangers(login_target: Target, routes: list[tuple[str, str]]) -> None:
    with httpx.Client() as stranger:
        answers = {(method, path): knock(stranger, login_target, method, path) for method, path in routes}
    taken = {route for route, status in answers.items() if status < 400}
    assert taken <= FOR_STRANGERS
    assert all(status in {401, 404, 405, 415, 422, 429} for route, status in answers.items() if route not in taken)
    for route in (("GET", "/config"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/component_server")):
        assert answers[route] == 401


def test_the_login_page_does_not_show_the_api(login_target: Target) -> None:
    """Gradio writes default values, such as the default model, into the page."""
    page = httpx.get(login_target.url).text
    assert "window.gradio_api_info = {};</script>" in page and "auth_required" in page
    assert "scripted" not in page and "/locate" not in page
    with httpx.Client() as friend:
        friend.post(f"{login_target.url}login", data={"username": "ada", "password": PASSWORD})
        own = friend.get(login_target.url).text
        assert "/locate" in own, "available after login"
        info = friend.get(f"{login_target.url}gradio_api/info").json()["named_endpoints"]
    defaults = [each for call in info.values() for each in call["parameters"] if each["parameter_name"] == "model"]
    assert [each["parameter_default"] for each in defaults] == [""] * 3, "resolved by the server"


def test_what_the_pages_do_not_use_is_not_there(login_target: Target, routes: list[tuple[str, str]]) -> None:
    """Closed even after login: recordings, an editor, deep links, a relay, tokens for scripts."""
    with httpx.Client() as friend:
        login = friend.post(f"{login_target.url}login", data={"username": "ada", "password": PASSWORD})
        assert login.status_code == 200 and knock(friend, login_target, "GET", "/config") == 200
        unused = ("vibe", "process_recording", "deep_link", "proxy=", "token", "stream", "monitoring", "/run/", "/api/")
        tried = [(method, path) for method, path in routes if any(word in path for word in unused)]
        assert len(tried) >= 15
        for method, path in tried:
            assert knock(friend, login_target, method, path) == 404, (method, path)


def test_no_event_of_a_page_runs_for_a_stranger(login_target: Target) -> None:
    for number in login_target.app.fns:
        answer = login_target.trigger(number, [])
        assert "Log in first" in answer, number
    for component, name in login_target.server_functions:
        body = {"component_id": component, "fn_name": name, "session_hash": "x", "data": {}}
        assert httpx.post(f"{login_target.url}gradio_api/component_server", json=body).status_code == 401, name


@pytest.mark.parametrize("cookie", ["", "access-token=1", "access-token-unsecure-{id}=guess", "access-token-{id}="])
def test_made_up_cookies_open_nothing(login_target: Target, cookie: str) -> None:
    cookie = cookie.format(id=login_target.app.app.cookie_id)
    assert httpx.get(f"{login_target.url}config", headers={"cookie": cookie}).status_code == 401


def test_after_the_logout_the_token_is_worth_nothing(login_target: Target) -> None:
    with httpx.Client() as friend:
        friend.post(f"{login_target.url}login", data={"username": "ada", "password": PASSWORD})
        kept = dict(friend.cookies)
        assert friend.get(f"{login_target.url}config").status_code == 200
        friend.get(f"{login_target.url}logout")
    assert httpx.get(f"{login_target.url}config", cookies=kept).status_code == 401
