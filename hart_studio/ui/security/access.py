"""Access to the page: login, permissions of users, and a limit on attempts to log in.

The server profile is this machine only, a network with a login, or a public Space. A page can start training and read
files of this machine, so it does not listen on a network without a login unless the operator disables the login
explicitly. Everyone who can log in to a private page may do everything; on a Space only the owner may train. The user
comes from the signed session: gradio passes it to ``api_handler`` and to event handlers as a ``gr.OAuthProfile``, which
a browser cannot forge.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Final, Literal

import gradio as gr
from gradio.utils import get_space

from hart_studio.errors import InputError
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits

Profile = Literal["local", "lab", "space"]
"""``local``: this machine only. ``lab``: a network, with a login. ``space``: a public Hugging Face Space."""

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Host names of a local page."""

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
        names: Additional accepted host names; empty = loopback names only on a local page, any in a network.
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


OPEN_VARIABLE: Final = "HART_STUDIO_TRAINING"
"""Environment variable of a Space; 1 enables training."""

OWNERS_VARIABLE: Final = "HART_STUDIO_OWNERS"
"""Environment variable of a Space: user names of the owners, comma-separated. Organizations cannot sign in."""

SECRET_VARIABLE: Final = "OAUTH_CLIENT_SECRET"  # noqa: S105 - the name of a variable
"""Environment variable with the key for signed sessions. Gradio has read it on import; jobs must not inherit it."""

SIGN_IN_VARIABLES: Final = (SECRET_VARIABLE, "OAUTH_CLIENT_ID", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
"""Environment variables set by ``hf_oauth: true`` in the README of a Space; sign-in needs all of them."""

CLOSED: Final = (
    "Training, evaluations and publishing are disabled on a public Space. Duplicate the Space onto your own hardware, "
    f"set {OPEN_VARIABLE}=1 there and sign in, or run python app.py on your own machine."
)
"""Message of disabled functions."""

OWNER_ONLY: Final = "Only the owner of this Space can see and use this. Sign in as the owner, or duplicate the Space."
"""Message of functions that only the owner may use."""

PUBLIC_IMAGE_LIMITS: Final = ImageLimits(max_pixels=50_000_000)
"""Image limits on a Space. Decoding takes 9 to 37 bytes per pixel (measured), and at most four images are decoded at
once: two for the pages, one for a question, one by a labeling run. That is at most 8 of the 16 GB of the smallest
Space. Project default."""

PermissionCheck = Callable[["gr.OAuthProfile | None"], None]
"""Raises ``InputError`` if the user may not do something."""


@dataclass(frozen=True)
class Permissions:
    """Permissions of this server; by default those of a local page."""

    profile: Profile = "local"
    """Server profile."""
    owners: frozenset[str] = frozenset()
    """User names of the owners of a Space; empty without sign-in."""
    can_write: bool = True
    """Whether training, evaluation and publishing are enabled."""

    @property
    def is_public(self) -> bool:
        """Whether this is a public Space."""
        return self.profile == "space"

    @property
    def image_limits(self) -> ImageLimits:
        """Limits of images; lower on a Space."""
        return PUBLIC_IMAGE_LIMITS if self.is_public else DEFAULT_LIMITS

    def is_owner(self, user: gr.OAuthProfile | None) -> bool:
        """Whether the user may see the runs: an owner on a Space, everyone elsewhere."""
        return not self.is_public or (user is not None and user.username in self.owners)

    def require_owner(self, user: gr.OAuthProfile | None) -> None:
        """Raise unless the user is an owner.

        Raises:
            InputError: If this is a Space and the user is not signed in as an owner.
        """
        if not self.is_owner(user):
            raise InputError(OWNER_ONLY if self.owners else CLOSED)

    def require_write_access(self, user: gr.OAuthProfile | None) -> None:
        """Raise unless the user may train, evaluate and publish.

        Raises:
            InputError: If it is disabled, or the user is not an owner.
        """
        if not self.can_write:
            raise InputError(CLOSED)
        self.require_owner(user)


def load_permissions(profile: Profile, environment: MutableMapping[str, str] = os.environ) -> Permissions:
    """Load the permissions of a server profile.

    Args:
        profile: From ``load_auth_config``.
        environment: Variables of this process; the OAuth secret is removed, so that jobs do not inherit it. Gradio has
            read it on import.
    """
    if profile != "space":
        return Permissions(profile)
    can_sign_in = all(environment.get(name) for name in SIGN_IN_VARIABLES) and get_space() is not None
    environment.pop(SECRET_VARIABLE, None)
    author = environment.get("SPACE_AUTHOR_NAME") or environment.get("SPACE_ID", "").partition("/")[0]
    named = [name.strip() for name in environment.get(OWNERS_VARIABLE, "").split(",")]
    owners = frozenset(filter(None, [author, *named])) if can_sign_in else frozenset[str]()
    is_wanted = environment.get(OPEN_VARIABLE) == "1" and not is_zero_gpu(environment)
    return Permissions(profile, owners, can_write=is_wanted and bool(owners))


def is_zero_gpu(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this is a ZeroGPU Space, where only single calls get a GPU and jobs cannot use it."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"}


def allow_all(user: gr.OAuthProfile | None) -> None:
    """Allow every user."""


MAX_TRIES: Final = 10
"""Attempts per period. Project default."""
PERIOD_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 4096
"""Tracked addresses; the oldest are dropped first."""


class RateLimiter:
    """Counts attempts per address."""

    def __init__(
        self,
        tries: int = MAX_TRIES,
        seconds: float = PERIOD_SECONDS,
        addresses: int = MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tries, self._seconds, self._addresses, self._clock = tries, seconds, addresses, clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, address: str) -> bool:
        """Count an attempt; returns False without counting if the address is over the limit."""
        now = self._clock()
        with self._lock:
            times = self._times.setdefault(address, deque())
            self._times.move_to_end(address)
            while len(self._times) > self._addresses:
                self._times.popitem(last=False)
            if not self._is_below_limit(times, now):
                return False
            times.append(now)
            return True

    def is_below_limit(self, address: str) -> bool:
        """Whether the address has an attempt left, without counting one."""
        with self._lock:
            return self._is_below_limit(self._times.get(address, deque()), self._clock())

    def _is_below_limit(self, times: deque[float], now: float) -> bool:
        while times and times[0] <= now - self._seconds:
            times.popleft()
        return len(times) < self._tries
