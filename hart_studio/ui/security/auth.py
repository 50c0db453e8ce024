"""Who may reach the page: only this machine, a network behind a login, or everyone on a Space.

A page can start trainings and read the files that a person names, so it never listens to a network without a login
unless someone says in so many words that it should.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hart_studio.errors import InputError
from hart_studio.ui.security.origin_check import LOOPBACK_HOSTS

Profile = Literal["local", "lab", "space"]
"""``local``: this machine alone. ``lab``: a network, behind a login. ``space``: a public page, see ``space``."""

USER_VARIABLE: Final = "HART_STUDIO_USER"
"""Environment variable with the name of the login."""

PASSWORD_VARIABLE: Final = "HART_STUDIO_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with its password. A flag would be shown to everyone who lists processes."""

MCP_TOKEN_VARIABLE: Final = "HART_STUDIO_MCP_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token that MCP clients send."""

MIN_TOKEN_LENGTH: Final = 24
"""Characters of the token; project default: no one has to remember it."""

MIN_PASSWORD_LENGTH: Final = 12
"""Characters of a password; project default: guesses are slowed down, not stopped (``throttle``)."""


@dataclass(frozen=True)
class AuthConfig:
    """How the page is reached."""

    profile: Profile
    """What the rest follows from."""
    hosts: frozenset[str] | None
    """Host names that are answered; None = all, because a server cannot know under which names a network reaches it."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """Name and password; None = no one is asked."""
    mcp_token: str = field(default="", repr=False)
    """What MCP clients must send; empty = the tools are not served."""


def load_auth_config(
    host: str,
    environment: MutableMapping[str, str],
    *,
    names: Collection[str] = (),
    is_tunneled: bool = False,
    allow_anonymous: bool = False,
    serves_mcp: bool = False,
) -> AuthConfig:
    """How a page with these settings may be reached.

    The password and the token are taken out of the environment, so that no job that the page starts has them.

    Args:
        host: Address to listen on.
        environment: Variables of this process; changed.
        names: Host names under which a network reaches the page; none = any.
        is_tunneled: Whether a public tunnel leads to the page.
        allow_anonymous: Whether someone said that no login is wanted.
        serves_mcp: Whether the tools are to be served to MCP clients.

    Raises:
        InputError: If a network would reach the page without a login, or the login or the token cannot be used.
    """
    user, password = environment.get(USER_VARIABLE, ""), environment.pop(PASSWORD_VARIABLE, "")
    token = environment.pop(MCP_TOKEN_VARIABLE, "")
    login = _check_login(user, password)
    mcp_token = _check_token(token) if serves_mcp else ""
    if environment.get("SPACE_ID"):
        return AuthConfig("space", None, login, mcp_token)
    if host in LOOPBACK_HOSTS and not is_tunneled:
        return AuthConfig("local", LOOPBACK_HOSTS | {name.lower() for name in names}, login, mcp_token)
    if login is None and not allow_anonymous:
        raise InputError(
            f"expected a login for a page that others can reach, got none; set {USER_VARIABLE} and "
            f"{PASSWORD_VARIABLE}, or start it with --without-login to let everyone in who reaches {host}"
        )
    hosts = frozenset(name.lower() for name in names) | LOOPBACK_HOSTS if names else None
    return AuthConfig("lab", hosts, login, mcp_token)


def _check_login(user: str, password: str) -> tuple[str, str] | None:
    if bool(user) != bool(password):
        raise InputError(f"expected both {USER_VARIABLE} and {PASSWORD_VARIABLE} or none, got one; set the other")
    if not user:
        return None
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InputError(
            f"expected at least {MIN_PASSWORD_LENGTH} characters in {PASSWORD_VARIABLE}, got {len(password)}; "
            "choose a longer one"
        )
    return user, password


def _check_token(token: str) -> str:
    """The token, fit to be sent in a header; what is wrong with it is said without it."""
    if not token:
        raise InputError(
            f"expected the token of MCP clients in {MCP_TOKEN_VARIABLE} for --mcp, got none; set it to at least "
            f"{MIN_TOKEN_LENGTH} random characters"
        )
    if not all("!" <= sign <= "~" for sign in token):
        raise InputError(
            f"expected letters, digits and signs of ASCII without blanks in {MCP_TOKEN_VARIABLE}, got others; make "
            "another one"
        )
    if len(token) < MIN_TOKEN_LENGTH:
        raise InputError(
            f"expected at least {MIN_TOKEN_LENGTH} characters in {MCP_TOKEN_VARIABLE}, got {len(token)}; "
            "make a longer one"
        )
    return token
