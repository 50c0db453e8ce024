"""Authentication settings by server profile: this machine only, a network with a login, or a public Space.

A page can start training and read files of this machine, so it does not listen on a network without a login unless the
operator disables the login explicitly.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hart_studio.errors import InputError
from hart_studio.ui.security.origin_check import LOOPBACK_HOSTS

Profile = Literal["local", "lab", "space"]
"""``local``: this machine only. ``lab``: a network, with a login. ``space``: a public Hugging Face Space."""

USER_VARIABLE: Final = "HART_STUDIO_USER"
"""Environment variable with the user name of the login."""

PASSWORD_VARIABLE: Final = "HART_STUDIO_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password. A flag would be visible in the process list."""

MCP_TOKEN_VARIABLE: Final = "HART_STUDIO_MCP_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token of MCP clients."""

MIN_TOKEN_LENGTH: Final = 24
"""Minimum number of characters of the token. Project default."""

MIN_PASSWORD_LENGTH: Final = 12
"""Minimum number of characters of the password; ``RateLimiter`` slows down guessing. Project default."""


@dataclass(frozen=True)
class AuthConfig:
    """Authentication settings."""

    profile: Profile
    """Server profile."""
    hosts: frozenset[str] | None
    """Accepted host names; None = all, because a server cannot know its names in a network."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User name and password; None = no login."""
    mcp_token: str = field(default="", repr=False)
    """Token of MCP clients; empty = no MCP."""


def load_auth_config(
    host: str,
    environment: MutableMapping[str, str],
    *,
    names: Collection[str] = (),
    is_tunneled: bool = False,
    allow_anonymous: bool = False,
    serves_mcp: bool = False,
) -> AuthConfig:
    """Load the authentication settings.

    The password and the token are removed from the environment, so that jobs do not inherit them.

    Args:
        host: Address to listen on.
        environment: Variables of this process; changed.
        names: Host names of the page in the network; empty = any.
        is_tunneled: Whether the page has a public tunnel (``--share``).
        allow_anonymous: Whether the login is disabled explicitly.
        serves_mcp: Whether MCP is enabled.

    Raises:
        InputError: If a network could reach the page without a login, or the login or the token is invalid.
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
            f"A page that is reachable from the network at {host} needs a login. Set {USER_VARIABLE} and "
            f"{PASSWORD_VARIABLE}, or start with --without-login to allow everyone."
        )
    hosts = frozenset(name.lower() for name in names) | LOOPBACK_HOSTS if names else None
    return AuthConfig("lab", hosts, login, mcp_token)


def _check_login(user: str, password: str) -> tuple[str, str] | None:
    if bool(user) != bool(password):
        raise InputError(f"Only one of {USER_VARIABLE} and {PASSWORD_VARIABLE} is set. Set both or none.")
    if not user:
        return None
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InputError(
            f"{PASSWORD_VARIABLE} has {len(password)} characters, at least {MIN_PASSWORD_LENGTH} are required. Choose "
            "a longer password."
        )
    return user, password


def _check_token(token: str) -> str:
    """Validate the token for use in a header; errors never contain it."""
    if not token:
        raise InputError(
            f"--mcp needs a token for MCP clients. Set {MCP_TOKEN_VARIABLE} to at least {MIN_TOKEN_LENGTH} random "
            "characters."
        )
    if not all("!" <= sign <= "~" for sign in token):
        raise InputError(
            f"{MCP_TOKEN_VARIABLE} contains characters other than ASCII letters, digits and punctuation. Create "
            "another token."
        )
    if len(token) < MIN_TOKEN_LENGTH:
        raise InputError(
            f"{MCP_TOKEN_VARIABLE} has {len(token)} characters, at least {MIN_TOKEN_LENGTH} are required. Create a "
            "longer token."
        )
    return token
