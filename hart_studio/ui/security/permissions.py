"""Who may do what. On a page of one's own everyone who gets in; on a Space its owner, and visitors what is light.

Who asks is told by the session alone, which the server signs: ``api_handler`` and the handlers of events get it as a
``gr.OAuthProfile`` from gradio, and nothing that a browser sends can put another name there.
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
"""Environment variable with which the owner of a Space switches training on, when it is 1."""

OWNERS_VARIABLE: Final = "HART_STUDIO_OWNERS"
"""Environment variable with the user names of a Space's owners, by commas: an organisation cannot sign in."""

SECRET_VARIABLE: Final = "OAUTH_CLIENT_SECRET"  # noqa: S105 - the name of a variable
"""Environment variable that gradio signs sessions with. It has read it by now, and no job is to inherit it."""

SIGN_IN_VARIABLES: Final = (SECRET_VARIABLE, "OAUTH_CLIENT_ID", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
"""Environment variables of a Space whose README says ``hf_oauth: true``; without all of them no one can sign in."""

CLOSED: Final = (
    "this is switched off on a public page; duplicate the Space onto hardware of your own, set "
    f"{OPEN_VARIABLE}=1 there and sign in, or run python app.py yourself"
)
"""Why nothing is made here."""

OWNER_ONLY: Final = "this belongs to the owner of the Space; sign in as the owner, or duplicate the Space"
"""Why it is not made or shown for this person."""

PUBLIC_IMAGE_LIMITS: Final = ImageLimits(max_pixels=50_000_000)
"""Images on a Space (project default). To decode one takes 9 to 37 bytes a pixel, as measured, and four may be decoded at once,
two for the pages, one for a question, one by a labeling run: at most 8 of the 16 GB that the smallest Space has."""

PermissionCheck = Callable[["gr.OAuthProfile | None"], None]
"""Refuses, by an ``InputError``, who may not do something."""


@dataclass(frozen=True)
class Permissions:
    """Who may do what here; the default is a page of one's own."""

    profile: Profile = "local"
    """How the page is reached."""
    owners: frozenset[str] = frozenset()
    """User names of the owners of a Space; none where no one can sign in."""
    can_write: bool = True
    """Whether anyone at all may train, evaluate and publish here."""

    @property
    def is_public(self) -> bool:
        """Whether anyone can come here."""
        return self.profile == "space"

    @property
    def image_limits(self) -> ImageLimits:
        """What an image may be: on a Space all of them have to fit into its memory."""
        return PUBLIC_IMAGE_LIMITS if self.is_public else DEFAULT_LIMITS

    def is_owner(self, user: gr.OAuthProfile | None) -> bool:
        """Whether the runs of this page are this person's business."""
        return not self.is_public or (user is not None and user.username in self.owners)

    def require_owner(self, user: gr.OAuthProfile | None) -> None:
        """Refuse everyone else.

        Raises:
            InputError: If this is a Space and the person is not its owner, signed in.
        """
        if not self.is_owner(user):
            raise InputError(OWNER_ONLY if self.owners else CLOSED)

    def require_write_access(self, user: gr.OAuthProfile | None) -> None:
        """Refuse whoever may not train, evaluate or publish.

        Raises:
            InputError: If no one may, or this person may not.
        """
        if not self.can_write:
            raise InputError(CLOSED)
        self.require_owner(user)


def load_permissions(profile: Profile, environment: MutableMapping[str, str] = os.environ) -> Permissions:
    """Who may do what on a page that is reached in this way.

    Args:
        profile: From ``load_auth_config``.
        environment: Variables of this process. Without the secret of the sign-in afterwards, which gradio has read
            while it was imported, so that no job has it.
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
    """Whether this is a Space on ZeroGPU, which lends a processor to single calls: no job of its own can use it."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"}


def allow_all(user: gr.OAuthProfile | None) -> None:
    """Refuse no one: for what is meant for every visitor."""
