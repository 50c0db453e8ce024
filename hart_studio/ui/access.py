"""Who may reach the page: only this machine, a network behind a login, or everybody on a Space.

A page can start trainings and read the files that a person names, so it never listens to a network without a login
unless somebody says in so many words that it should.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hart_studio.errors import InputError
from hart_studio.ui.guard import LOOPBACK_HOSTS

Profile = Literal["local", "lab", "space"]
"""``local``: this machine alone. ``lab``: a network, behind a login. ``space``: a public page that makes nothing."""

USER_VARIABLE: Final = "HART_STUDIO_USER"
"""Environment variable with the name of the login."""

PASSWORD_VARIABLE: Final = "HART_STUDIO_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with its password. A flag would be shown to everybody who lists processes."""

SHORTEST_PASSWORD: Final = 12
"""Characters of a password, ours: guesses are slowed down, not stopped (``throttle``)."""


@dataclass(frozen=True)
class Access:
    """How the page is reached."""

    profile: Profile
    """What the rest follows from."""
    hosts: frozenset[str] | None
    """Host names that are answered; None = all, because a server cannot know under which names a network reaches it."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """Name and password; None = nobody is asked."""


def find_access(
    host: str,
    environment: MutableMapping[str, str],
    *,
    names: Collection[str] = (),
    is_tunnelled: bool = False,
    lets_everybody_in: bool = False,
) -> Access:
    """How a page with these settings may be reached.

    The password is taken out of the environment, so that no job that the page starts has it.

    Args:
        host: Address to listen on.
        environment: Variables of this process; changed.
        names: Host names under which a network reaches the page; none = any.
        is_tunnelled: Whether a public tunnel leads to the page.
        lets_everybody_in: Whether somebody said that no login is wanted.

    Raises:
        InputError: If a network would reach the page without a login, or the login cannot be used.
    """
    user, password = environment.get(USER_VARIABLE, ""), environment.pop(PASSWORD_VARIABLE, "")
    login = _check_login(user, password)
    if environment.get("SPACE_ID"):
        return Access("space", None, login)
    if host in LOOPBACK_HOSTS and not is_tunnelled:
        return Access("local", LOOPBACK_HOSTS | {name.lower() for name in names}, login)
    if login is None and not lets_everybody_in:
        raise InputError(
            f"expected a login for a page that others can reach, got none; set {USER_VARIABLE} and "
            f"{PASSWORD_VARIABLE}, or start it with --without-login to let everybody in who reaches {host}"
        )
    return Access("lab", frozenset(name.lower() for name in names) | LOOPBACK_HOSTS if names else None, login)


def _check_login(user: str, password: str) -> tuple[str, str] | None:
    if bool(user) != bool(password):
        raise InputError(f"expected both {USER_VARIABLE} and {PASSWORD_VARIABLE} or none, got one; set the other")
    if not user:
        return None
    if len(password) < SHORTEST_PASSWORD:
        raise InputError(
            f"expected at least {SHORTEST_PASSWORD} characters in {PASSWORD_VARIABLE}, got {len(password)}; "
            "choose a longer one"
        )
    return user, password
