import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hart_studio.errors import InputError
from hart_studio.ui.mcp.endpoint import TokenAuth, find_server
from hart_studio.ui.security.access import RateLimiter

TOKEN = "0123456789abcdef0123456-"  # noqa: S105 - of these tests alone
RIGHT = f"Bearer {TOKEN}"


class Knock:
    """Send requests; ``answered`` names the component that answered."""

    def __init__(self, tries: int = 3) -> None:
        self.now = 0.0
        self.answered = ""
        wrong = RateLimiter(tries=tries, seconds=60.0, clock=lambda: self.now)
        self._auth = TokenAuth(self._answer_as("page"), TOKEN, self._answer_as("tools"), wrong)

    def __call__(
        self,
        authorization: str | bytes | None = RIGHT,
        path: str = "/mcp",
        method: str = "POST",
        address: str = "10.0.0.1",
    ) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers of the answer."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the body was read")

        value = authorization.encode() if isinstance(authorization, str) else authorization
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "client": (address, 1),
            "headers": [] if value is None else [(b"authorization", value)],
        }
        self.answered = "auth"
        # In a thread of its own: browser tests of the same process keep an event loop running in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, self._auth(scope, receive, send)).result()
        return sent[0]["status"], dict(sent[0]["headers"])

    def _answer_as(self, name: str) -> Any:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            self.answered = name
            await send({"type": "http.response.start", "status": 200, "headers": []})

        return application


@pytest.mark.parametrize("sent", [RIGHT, f"bearer {TOKEN}", f"BEARER   {TOKEN} "])
def test_who_has_the_token_comes_in(sent: str) -> None:
    knock = Knock()
    assert knock(sent)[0] == 200 and knock.answered == "tools"
    assert knock(sent, "/mcp/")[0] == 200 and knock.answered == "tools"


@pytest.mark.parametrize("sent", [None, "", "Bearer", TOKEN, f"Basic {TOKEN}", f"Token {TOKEN}"])
def test_without_a_token_it_is_asked_for(sent: str | None) -> None:
    knock = Knock()
    for _ in range(10):  # a client that asks first is no guesser
        status, headers = knock(sent)
        assert (status, headers[b"www-authenticate"], knock.answered) == (401, b'Bearer realm="HART Studio"', "auth")
    assert knock()[0] == 200


@pytest.mark.parametrize(
    "sent", [f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", "Bearer ", b"Bearer \xff\x00\xe9"]
)
def test_a_wrong_token_is_refused_whatever_it_is(sent: str | bytes) -> None:
    knock = Knock()
    status, headers = knock(sent)
    assert (status, knock.answered) == (401, "auth")
    assert b"invalid_token" in headers[b"www-authenticate"]


def test_guesses_are_slowed_down_for_each_address_and_a_right_one_among_them_does_not_show() -> None:
    knock = Knock(tries=3)
    assert [knock("Bearer guess")[0] for _ in range(5)] == [401, 401, 401, 429, 429]
    status, headers = knock()
    assert (status, knock.answered, headers[b"retry-after"]) == (429, "auth", b"60")
    assert knock(address="10.0.0.2")[0] == 200
    knock.now = 60.0
    assert knock()[0] == 200


def test_right_tokens_are_not_counted() -> None:
    knock = Knock(tries=1)
    assert {knock()[0] for _ in range(20)} == {200}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD"])
def test_there_is_nothing_but_posts(method: str) -> None:
    knock = Knock()
    status, headers = knock(method=method)
    assert (status, headers[b"allow"], knock.answered) == (405, b"POST", "auth")
    assert knock(None, method=method)[0] == 401, "and unauthenticated clients get no hint"


@pytest.mark.parametrize("path", ["/", "/config", "/mcp/other", "/mcpx", "/gradio_api/mcp"])
def test_other_addresses_are_the_pages_own(path: str) -> None:
    knock = Knock()
    assert knock(None, path)[0] == 200 and knock.answered == "page"


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hart_studio.ui.mcp.server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with pytest.raises(InputError, match=r"the package mcp, version 2.* requirements-mcp\.txt"):
        find_server()


def test_the_library_is_found() -> None:
    assert find_server().__name__ == "McpServer"
