"""Drop what a client could use to tell the server its own address, and redirect targets that lead to another site.

Gradio builds the root address of the page from ``X-Forwarded-Host``, ``X-Gradio-Server`` and ``X-Forwarded-Proto``, and
redirects to ``_target_url`` after a sign-in. A client may send any of them. They are dropped here. Exceptions are those
of a proxy that the operator has declared, and on Hugging Face Spaces those that the platform can have sent.
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
"""Environment variable with the addresses whose forwarding headers the web server (uvicorn) uses."""

_DROPPED: Final = re.compile(
    rb"forwarded|x-forwarded(-.*)?|x-gradio-server|x-direct-url|x-original-.*|x-rewrite-url|x-host"
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_SIGN_IN_PATHS: Final = frozenset({"/login/huggingface", "/login/callback", "/logout"})
_TARGET: Final = "_target_url"
_TRIES: Final = "_nb_redirects"
_LONGEST_TARGET: Final = 2000
_MOST_FIELDS: Final = 64


@dataclass(frozen=True)
class Proxying:
    """Which headers of proxies are used; by default none.

    Attributes:
        is_declared: Whether the operator named a proxy, from whose headers the web server took scheme and client.
        space_hosts: Host names of the Hugging Face Space that this is; empty = it is none.
    """

    is_declared: bool = False
    space_hosts: tuple[str, ...] = ()


NO_PROXY: Final = Proxying()
"""The page is reached without a proxy."""


def read_proxying(proxies: Collection[str], environment: MutableMapping[str, str]) -> Proxying:
    """Read which proxies the operator declared, and tell the web server.

    Args:
        proxies: Addresses from ``--proxy``; without any, those that the environment names already.
        environment: Variables of this process; changed, because the web server trusts this machine by default.

    Raises:
        InputError: If one is not an IP address or network.
    """
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise InputError(f"--proxy {proxy} is not an IP address. Give one such as 127.0.0.1.") from error
    trusted = ",".join(proxies) or environment.get(TRUSTED_VARIABLE, "")
    environment[TRUSTED_VARIABLE] = trusted
    hosts = environment.get("SPACE_HOST", "") if environment.get("SPACE_ID") else ""
    names = tuple(name.strip().lower() for name in hosts.split(",") if name.strip())
    return Proxying(bool(trusted.strip()), names)


def clean_scope(scope: Scope, proxying: Proxying) -> Scope:
    """A request without forwarding headers that are not trusted, and without redirect targets of other sites."""
    kept, host, scheme = [], b"", b""
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower == b"x-forwarded-host":
            host = host or value.split(b",")[0].strip()
        elif lower == b"x-forwarded-proto":
            scheme = scheme or value.split(b",")[0].strip().lower()
        if not _DROPPED.fullmatch(lower):
            kept.append((name, value))
    cleaned = {**scope, "headers": kept}
    if proxying.space_hosts:
        if scheme in (b"http", b"https"):
            kept.append((b"x-forwarded-proto", scheme))
        if host.decode("latin-1").lower() in proxying.space_hosts:
            kept.append((b"x-forwarded-host", host))
    elif not proxying.is_declared:
        cleaned["scheme"] = "http"  # the web server may have taken it from a header
    path = scope.get("path", "")
    if (path.rstrip("/") or "/") in _SIGN_IN_PATHS:
        cleaned["query_string"] = clean_query(scope.get("query_string", b""))
    return cleaned


def clean_query(query: bytes) -> bytes:
    """The query of an address of the sign-in, with a redirect target only if that is a path of this site."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
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
        and len(target) <= _LONGEST_TARGET
        and all(character.isprintable() for character in target)
    )


def is_host(host: str) -> bool:
    """Whether the Host header is a host name or an IP address, with or without a port."""
    return _HOST.fullmatch(host) is not None
