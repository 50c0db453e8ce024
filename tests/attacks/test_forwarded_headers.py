"""No header and no query of a client leads the page, or whoever signs in, to another site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

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
            told = answer.headers.get("location", "")
            if not path.endswith("/"):  # that one is sent to the same address without the slash, with its query
                assert "evil" not in told, (path, told)
            if answer.status_code != 307 or "callback" not in told:
                break
            address = httpx.URL(told)
        assert answer.status_code in {302, 303, 307, 404}


def test_a_sign_in_that_is_built_to_hurt_is_no_fault_of_the_server(space: Space) -> None:
    for query in ("_nb_redirects=x", "_nb_redirects=" + "9" * 5000, "_target_url=%FF", "&".join(["a=b"] * 200)):
        answer = httpx.get(f"{space.url}login/callback?{query}")
        assert answer.status_code in {302, 303, 307}, query


def test_the_page_of_an_honest_path_is_kept(space: Space, tmp_path: Path) -> None:
    answer = httpx.get(f"{space.url}logout", params={"_target_url": "/?tab=runs"})
    assert answer.headers["location"] == "/?tab=runs"
