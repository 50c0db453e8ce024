"""Who may do what, decided from the session alone."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import DEFAULT_LIMITS, SourceImage
from hart_studio.ui.api.handler import api_handler
from hart_studio.ui.security import permissions as module
from hart_studio.ui.security.permissions import (
    SECRET_VARIABLE,
    SIGN_IN_VARIABLES,
    Permissions,
    is_zero_gpu,
    load_permissions,
)
from tests.images import png

SPACE = {"SPACE_ID": "ada/hart", "SPACE_AUTHOR_NAME": "ada", "HART_STUDIO_TRAINING": "1"}
SIGN_IN = dict.fromkeys(SIGN_IN_VARIABLES, "x")


@pytest.fixture(autouse=True)
def space_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_space", lambda: "ada/hart")


def person(name: str) -> gr.OAuthProfile:
    return gr.OAuthProfile({"name": name, "preferred_username": name, "profile": "", "picture": ""})


def refuses(act: Any, *given: Any) -> bool:
    try:
        act(*given)
    except InputError:
        return True
    return False


@pytest.mark.parametrize("profile", ["local", "lab"])
def test_on_a_local_page_everyone_may_work(profile: Any) -> None:
    permissions = load_permissions(profile, {**SPACE, **SIGN_IN})
    assert permissions.can_write and not permissions.is_public
    permissions.require_write_access(None)
    permissions.require_owner(None)


def test_on_a_space_the_owner_trains_and_no_one_else() -> None:
    permissions = load_permissions("space", {**SPACE, **SIGN_IN})
    permissions.require_write_access(person("ada"))
    for other in (None, *map(person, ["bob", "Ada", "ADA", "ada ", " ada", "ada/hart", "", "hart", "аda"])):
        assert refuses(permissions.require_write_access, other)
        assert refuses(permissions.require_owner, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"HART_STUDIO_TRAINING": "0"},
        {"HART_STUDIO_TRAINING": ""},
        {"HART_STUDIO_TRAINING": "true"},
        {"SPACES_ZERO_GPU": "true"},
        {"SPACES_ZERO_GPU": "1"},
    ],
)
def test_without_the_variable_or_on_borrowed_hardware_the_owner_sees_and_makes_nothing(changes: dict[str, str]) -> None:
    permissions = load_permissions("space", {**SPACE, **SIGN_IN, **changes})
    permissions.require_owner(person("ada"))
    assert refuses(permissions.require_write_access, person("ada"))


@pytest.mark.parametrize("missing", SIGN_IN_VARIABLES)
def test_where_no_one_can_sign_in_no_one_is_the_owner(missing: str) -> None:
    """Without its secret, say, gradio would sign sessions with a word that everyone knows."""
    permissions = load_permissions("space", {**SPACE, **SIGN_IN, missing: ""})
    assert not permissions.owners and not permissions.can_write
    assert refuses(permissions.require_owner, person("ada")) and refuses(
        permissions.require_write_access, person("ada")
    )


def test_off_a_space_no_one_is_the_owner_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_space", lambda: None)
    assert not load_permissions("space", {**SPACE, **SIGN_IN}).owners


def test_images_on_a_space_are_smaller() -> None:
    assert load_permissions("local").image_limits == load_permissions("lab").image_limits == DEFAULT_LIMITS
    limits = load_permissions("space", {**SPACE, **SIGN_IN}).image_limits
    assert SourceImage(png(8000, 6250, b""), limits).wh == (8000, 6250)
    with pytest.raises(ImageError, match="at most 50,000,000 pixels, got 8,000 x 6,251; scale the image down"):
        SourceImage(png(8000, 6251, b""), limits)


def test_an_organisation_names_its_owners() -> None:
    permissions = load_permissions("space", {"SPACE_ID": "lab/hart", **SIGN_IN, "HART_STUDIO_OWNERS": " ada, bob ,,"})
    assert permissions.owners == {"lab", "ada", "bob"}


def test_no_empty_name_is_an_owner() -> None:
    permissions = load_permissions("space", {"SPACE_ID": "", **SIGN_IN, "HART_STUDIO_OWNERS": ","})
    assert permissions.owners == frozenset()
    assert refuses(permissions.require_owner, person(""))


def test_no_job_inherits_the_secret_that_signs_sessions() -> None:
    variables = {**SPACE, **SIGN_IN}
    load_permissions("space", variables)
    assert SECRET_VARIABLE not in variables


@pytest.mark.parametrize(
    ("value", "is_zero"), [("", False), ("0", False), ("false", False), ("true", True), ("1", True)]
)
def test_zero_gpu_is_detected_by_its_variable(value: str, is_zero: bool) -> None:
    assert is_zero_gpu({"SPACES_ZERO_GPU": value}) is is_zero
    assert not is_zero_gpu({})


def test_a_guarded_function_asks_before_it_works() -> None:
    worked = []

    def stop() -> str:
        worked.append(1)
        return "done"

    call = api_handler(stop, Permissions("space", frozenset({"ada"})).require_write_access)
    assert call.__name__ == "stop"
    assert call({"run": "x", "person": "ada"}) == {"error": module.OWNER_ONLY}
    assert call({"run": "x"}, person("bob")) == {"error": module.OWNER_ONLY}
    assert not worked
    assert call({"run": "x"}, person("ada")) == "done"
