"""Drop untrusted forwarding headers, and redirect targets on other sites.

Gradio builds the root address of the page from ``X-Forwarded-Host``, ``X-Gradio-Server`` and ``X-Forwarded-Proto``, and
redirects to ``_target_url`` after a sign-in. A client may send any of them. They are dropped here. Exceptions are those
of a proxy that the operator has declared, and on Hugging Face Spaces those that the platform can have sent.

The web server (uvicorn) reads no such header. It takes the rightmost untrusted address of ``X-Forwarded-For`` as the
client. Behind a proxy that passes the header on unchanged, that address is one the client wrote, and a client that
changes it with each request evades every limit per address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.types import Scope

from hart_studio.errors import InputError

TRUSTED_VARIABLE: Final = "FORWARDED_ALLOW_IPS"
"""Environment variable of uvicorn with the addresses of proxies. Read here, then emptied: see above."""

_DROPPED: Final = re.compile(
    rb"forwarded|x-forwarded(-.*)?|x-gradio-server|x-direct-url|x-original-.*|x-rewrite-url|x-host"
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_SIGN_IN_PATHS: Final = frozenset({"/login/huggingface", "/login/callback", "/logout"})
_TARGET: Final = "_target_url"
_TRIES: Final = "_nb_redirects"
_MAX_TARGET_LENGTH: Final = 2000
_MAX_FIELDS: Final = 64


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class ProxyConfig:
    """Which headers of proxies are used; by default none.

    Attributes:
        proxies: Networks of the proxies that the operator declared. Their ``X-Forwarded-Proto`` is the scheme.
        sets_client: Whether the last address in ``X-Forwarded-For`` of a declared proxy is its client. False = all
            clients of a proxy have the address of the proxy.
        space_hosts: Host names of the Hugging Face Space that this is; empty = it is none.
    """

    proxies: tuple[_Network, ...] = ()
    sets_client: bool = False
    space_hosts: tuple[str, ...] = ()


NO_PROXY: Final = ProxyConfig()
"""The page is reached without a proxy."""


def load_proxy_config(
    proxies: Collection[str], environment: MutableMapping[str, str], *, sets_client: bool = False
) -> ProxyConfig:
    """Read which proxies the operator declared, and stop the web server from reading their headers itself.

    Args:
        proxies: Addresses from ``--proxy``; without any, those that the environment names already.
        environment: Variables of this process; changed, because the web server trusts this machine by default.
        sets_client: See ``ProxyConfig``.

    Raises:
        InputError: If one is not an IP address or network, or if ``sets_client`` comes without a proxy.
    """
    networks = [_read_network(proxy, f"--proxy {proxy}") for proxy in proxies]
    if not networks:
        named = [each.strip() for each in environment.get(TRUSTED_VARIABLE, "").split(",") if each.strip()]
        named = [each for name in named for each in (("0.0.0.0/0", "::/0") if name == "*" else (name,))]
        networks = [_read_network(name, f"{TRUSTED_VARIABLE}={name}") for name in named]
    if sets_client and not networks:
        raise InputError("--trust-forwarded-for needs the address of the proxy. Add --proxy IP.")
    environment[TRUSTED_VARIABLE] = ""
    hosts = environment.get("SPACE_HOST", "") if environment.get("SPACE_ID") else ""
    names = tuple(name.strip().lower() for name in hosts.split(",") if name.strip())
    return ProxyConfig(tuple(networks), sets_client, names)


def _read_network(text: str, option: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InputError(f"{option} is not an IP address. Give one such as 127.0.0.1.") from error


def strip_proxy_headers(scope: Scope, proxying: ProxyConfig) -> Scope:
    """Remove forwarding headers that are not trusted, and redirect targets of other sites.

    ``scheme`` and ``client`` of the result are what limits and links may rely on. They come from a header only if a
    declared proxy sent the request.
    """
    kept, host, schemes, clients = [], b"", [], []
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower == b"x-forwarded-host":
            host = host or value.split(b",")[0].strip()
        elif lower == b"x-forwarded-proto":
            schemes += [each.strip().lower() for each in value.split(b",")]
        elif lower == b"x-forwarded-for":
            clients += [each.strip() for each in value.split(b",")]
        if not _DROPPED.fullmatch(lower):
            kept.append((name, value))
    cleaned = {**scope, "headers": kept, "scheme": "http"}
    if _is_declared_proxy(scope, proxying):
        if schemes and schemes[-1] in (b"http", b"https"):
            cleaned["scheme"] = schemes[-1].decode()
        # The last address only: the proxy wrote it. Those before it may be the client's own words.
        if proxying.sets_client and clients and (address := _read_address(clients[-1])):
            cleaned["client"] = (address, 0)
    if proxying.space_hosts:
        if schemes and schemes[0] in (b"http", b"https"):
            kept.append((b"x-forwarded-proto", schemes[0]))
        if host.decode("latin-1").lower() in proxying.space_hosts:
            kept.append((b"x-forwarded-host", host))
    path = scope.get("path", "")
    if (path.rstrip("/") or "/") in _SIGN_IN_PATHS:
        cleaned["query_string"] = strip_redirect_targets(scope.get("query_string", b""))
    return cleaned


def client_address(scope: Scope) -> str:
    """Address that limits per client count."""
    return str((scope.get("client") or ("unknown",))[0])


def _is_declared_proxy(scope: Scope, proxying: ProxyConfig) -> bool:
    """Whether the other end of the connection is a declared proxy."""
    try:
        peer = ipaddress.ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return False
    return any(peer in network for network in proxying.proxies)


def _read_address(text: bytes) -> str | None:
    """An IP address from ``X-Forwarded-For``, without a port: ``192.0.2.1:443`` or ``[2001:db8::1]:443``."""
    host = text.decode("latin-1")
    if host.startswith("["):
        host = host[1:].split("]")[0]
    elif host.count(":") == 1:
        host = host.split(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def strip_redirect_targets(query: bytes) -> bytes:
    """The query of an address of the sign-in, with a redirect target only if that is a path of this site."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:  # not ASCII, not UTF-8, or too many
        return b""
    kept: dict[str, list[str]] = {}
    for name, value in pairs:
        if name == _TARGET and not is_own_path(value):
            continue
        if name == _TRIES and not (value.isascii() and value.isdecimal() and len(value) == 1):
            continue
        values = kept.setdefault(name, [])
        if not values or name not in (_TARGET, _TRIES):
            values.append(value)
    return urlencode(kept, doseq=True).encode("ascii")


def is_own_path(target: str) -> bool:
    """Whether a redirect target is a path of this site in every reading that browsers know."""
    return (
        target.startswith("/")
        and not target.startswith("//")
        and "\\" not in target
        and len(target) <= _MAX_TARGET_LENGTH
        and all(character.isprintable() for character in target)
    )


def is_host(host: str) -> bool:
    """Whether the Host header is a host name or an IP address, with or without a port."""
    return _HOST.fullmatch(host) is not None
