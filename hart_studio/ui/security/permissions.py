"""Permissions: everyone who can log in to a private page may do everything; on a Space only the owner may train.

The user comes from the signed session: gradio passes it to ``api_handler`` and to event handlers as a
``gr.OAuthProfile``, which a browser cannot forge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Final

import gradio as gr
from gradio.utils import get_space

from hart_studio.errors import InputError
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits
from hart_studio.ui.security.auth import Profile

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
        """Whether the user may see the runs."""
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
