"""Headers and redirect targets by which a client could lead the page to another site."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from hart_studio.errors import InputError
from hart_studio.ui.security.proxy_headers import (
    NO_PROXY,
    TRUSTED_VARIABLE,
    ProxyConfig,
    is_host,
    is_own_path,
    load_proxy_config,
    strip_proxy_headers,
    strip_redirect_targets,
)

SPACE = ProxyConfig(space_hosts=("ada-hart.hf.space", "hart.example"))
PROXIED = load_proxy_config(("127.0.0.1", "10.0.0.0/8"), {})
SETS_CLIENT = load_proxy_config(("127.0.0.1", "10.0.0.0/8"), {}, sets_client=True)


def clean(
    proxying: ProxyConfig = NO_PROXY, path: str = "/config", query: bytes = b"", **headers: str
) -> dict[str, str]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "scheme": "http", "path": path, "query_string": query, "headers": pairs,
        "client": ("127.0.0.1", 7),
    }  # fmt: skip
    cleaned = strip_proxy_headers(scope, proxying)
    assert scope["headers"] == pairs, "the request of others is not changed"
    found = {name.decode(): value.decode() for name, value in cleaned["headers"]}
    return {**found, "scheme": cleaned["scheme"], "query": cleaned["query_string"].decode()}


@pytest.mark.parametrize(
    "name",
    [
        "x-gradio-server", "X-Gradio-Server", "x-forwarded-host", "X-Forwarded-Host", "x-forwarded-proto",
        "x-forwarded-prefix", "x-forwarded-for", "x-forwarded-port", "x-forwarded-server", "forwarded", "Forwarded",
        "x-direct-url", "x-original-url", "x-original-host", "x-rewrite-url", "x-host",
    ],
)  # fmt: skip
@pytest.mark.parametrize("proxying", [NO_PROXY, PROXIED, SETS_CLIENT, SPACE])
def test_no_header_of_a_client_sets_the_address_of_the_page(name: str, proxying: ProxyConfig) -> None:
    headers: dict[str, Any] = {name.replace("-", "_"): "evil.example", "cookie": "a=b"}
    cleaned = clean(proxying, **headers)
    assert "evil.example" not in cleaned.values() and cleaned["cookie"] == "a=b"


def client_of(proxying: ProxyConfig, peer: str, *values: str) -> str:
    """The address that limits count for a request with these ``X-Forwarded-For`` headers."""
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    scope = {"type": "http", "scheme": "http", "path": "/", "headers": headers, "client": (peer, 5)}
    return str(strip_proxy_headers(scope, proxying)["client"][0])


def test_the_scheme_is_that_of_a_declared_proxy_alone() -> None:
    assert clean(x_forwarded_proto="https")["scheme"] == "http"
    assert clean(PROXIED, x_forwarded_proto="https")["scheme"] == "https"
    assert clean(PROXIED, x_forwarded_proto="javascript")["scheme"] == clean(PROXIED)["scheme"] == "http"
    assert clean(load_proxy_config(("10.1.2.3",), {}), x_forwarded_proto="https")["scheme"] == "http", "another proxy"


def test_no_header_changes_the_client_by_default() -> None:
    for proxying in (NO_PROXY, PROXIED, SPACE):
        for peer in ("127.0.0.1", "10.0.0.9", "192.0.2.7"):
            assert client_of(proxying, peer, "198.51.100.1", "198.51.100.2, 198.51.100.3") == peer
    assert client_of(SETS_CLIENT, "192.0.2.7", "198.51.100.1") == "192.0.2.7", "this is not the proxy"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"), (["192.0.2.7:443"], "192.0.2.7"), (["[2001:DB8::1]:443"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"), (["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1", "192.0.2.7"], "192.0.2.7"), (["198.51.100.1, 10.0.0.5"], "10.0.0.5"),
        (["198.51.100.1, 127.0.0.1"], "127.0.0.1"), (["192.0.2.7, guess"], "127.0.0.1"), (["192.0.2.7,"], "127.0.0.1"),
        (["\xff"], "127.0.0.1"), ([""], "127.0.0.1"), ([], "127.0.0.1"),
    ],
)  # fmt: skip
def test_the_client_is_the_last_address_of_a_proxy_that_sets_it(values: list[str], client: str) -> None:
    """Also where the client's own address lies in the network of the proxies: those before the last never count."""
    assert client_of(SETS_CLIENT, "127.0.0.1", *values) == client


def test_a_space_uses_its_own_names_alone() -> None:
    for own in ("ada-hart.hf.space", "HART.example"):
        cleaned = clean(SPACE, x_forwarded_host=own, x_forwarded_proto="https")
        assert (cleaned["x-forwarded-host"], cleaned["x-forwarded-proto"]) == (own, "https")
    for other in ("evil.example", "ada-hart.hf.space.evil.example", "ada-hart.hf.space/x", "evil, ada-hart.hf.space"):
        assert "x-forwarded-host" not in clean(SPACE, x_forwarded_host=other)
    assert "x-forwarded-proto" not in clean(SPACE, x_forwarded_proto="javascript")


def test_proxies_are_declared_by_address() -> None:
    environment: dict[str, str] = {}
    assert load_proxy_config((), environment) == NO_PROXY
    assert environment[TRUSTED_VARIABLE] == "", "else the web server trusts every program of this machine"
    assert [str(each) for each in load_proxy_config(("127.0.0.1", "10.0.0.0/8"), environment).proxies] == [
        "127.0.0.1/32", "10.0.0.0/8",
    ]  # fmt: skip
    assert environment[TRUSTED_VARIABLE] == "", "else the web server takes the client from a header"
    environment = {TRUSTED_VARIABLE: "10.1.2.3, ::1"}
    assert [str(each) for each in load_proxy_config((), environment).proxies] == ["10.1.2.3/32", "::1/128"]
    assert environment[TRUSTED_VARIABLE] == ""
    assert client_of(load_proxy_config((), {TRUSTED_VARIABLE: "*"}), "192.0.2.7", "198.51.100.1") == "192.0.2.7"
    with pytest.raises(InputError, match=f"{TRUSTED_VARIABLE}=proxy"):
        load_proxy_config((), {TRUSTED_VARIABLE: "proxy"})
    with pytest.raises(InputError, match="Add --proxy IP"):
        load_proxy_config((), {}, sets_client=True)
    assert load_proxy_config((), {"SPACE_ID": "a/b", "SPACE_HOST": "A.hf.space, b.example"}).space_hosts == (
        "a.hf.space", "b.example",
    )  # fmt: skip
    assert load_proxy_config((), {"SPACE_HOST": "a.hf.space"}) == NO_PROXY, "no Space"
    for wrong in ("*", "proxy", ""):
        with pytest.raises(InputError, match="--proxy"):
            load_proxy_config((wrong,), {})


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example", "https://evil.example", "http:evil.example", "javascript:alert(1)", "\\\\evil.example",
        "/\\evil.example", "/a\\..\\\\evil", "/\t/evil.example", "/\n", "/x\r\nset-cookie: a=b", "\x00", "", " //evil",
        "evil.example", "?x", "////evil.example", "/\x7f", "/\u2028", "/" + "a" * 2000,
    ],
)  # fmt: skip
def test_a_target_of_another_site_is_dropped(target: str) -> None:
    assert not is_own_path(target)
    for path in ("/login/callback", "/login/huggingface", "/logout", "/logout/"):
        query = urlencode({"_target_url": target, "code": "7"}).encode()
        assert clean(path=path, query=query)["query"] == "code=7"


def test_a_path_of_this_site_stays_and_so_does_what_the_sign_in_needs() -> None:
    query = urlencode({"code": "a/b+c", "state": "s&t", "_target_url": "/?tab=runs&x=1#top", "_nb_redirects": "2"})
    assert parse_qs(strip_redirect_targets(query.encode()).decode()) == parse_qs(query)
    assert clean(path="/config", query=b"_target_url=//x")["query"] == "_target_url=//x", "of the sign-in alone"


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (b"_target_url=/a&_target_url=//evil.example", b"_target_url=%2Fa"),
        (b"_target_url=//evil.example&_target_url=/a", b"_target_url=%2Fa"),
        (b"_target_url=/a&_target_url=/b", b"_target_url=%2Fa"),
        (b"_nb_redirects=x", b""), (b"_nb_redirects=99999", b""), (b"_nb_redirects=-1", b""),
        (b"_target_url=%FF", b""), (b"\xff", b""), (b"&".join([b"a=b"] * 100), b""), (b"", b""),
    ],
)  # fmt: skip
def test_queries_that_are_built_to_hurt(query: bytes, kept: bytes) -> None:
    assert strip_redirect_targets(query) == kept


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7860", "[::1]:7860", "a.b-c.example:443", "my_host"])
def test_hosts(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host", ["a/b", "a@b", "a b", "a?b", "a#b", "a\\b", "[", "a:b", "a:1:2", "-a", "a:123456", "é"]
)
def test_what_is_no_host(host: str) -> None:
    assert not is_host(host)
