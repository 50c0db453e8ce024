"""Who may do what, decided from the session alone."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import DEFAULT_LIMITS, SourceImage
from hart_studio.ui import rights as module
from hart_studio.ui.page_calls import guarded
from hart_studio.ui.rights import SECRET_VARIABLE, SIGN_IN_VARIABLES, Rights, find_rights, is_zero_gpu
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
def test_on_a_page_of_ones_own_everybody_works(profile: Any) -> None:
    rights = find_rights(profile, {**SPACE, **SIGN_IN})
    assert rights.can_make and not rights.is_public
    rights.ensure_maker(None)
    rights.ensure_owner(None)


def test_on_a_space_the_owner_trains_and_nobody_else() -> None:
    rights = find_rights("space", {**SPACE, **SIGN_IN})
    rights.ensure_maker(person("ada"))
    for other in (None, *map(person, ["bob", "Ada", "ADA", "ada ", " ada", "ada/hart", "", "hart", "аda"])):
        assert refuses(rights.ensure_maker, other)
        assert refuses(rights.ensure_owner, other)


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
    rights = find_rights("space", {**SPACE, **SIGN_IN, **changes})
    rights.ensure_owner(person("ada"))
    assert refuses(rights.ensure_maker, person("ada"))


@pytest.mark.parametrize("missing", SIGN_IN_VARIABLES)
def test_where_nobody_can_sign_in_nobody_is_the_owner(missing: str) -> None:
    """Without its secret, say, gradio would sign sessions with a word that everybody knows."""
    rights = find_rights("space", {**SPACE, **SIGN_IN, missing: ""})
    assert not rights.owners and not rights.can_make
    assert refuses(rights.ensure_owner, person("ada")) and refuses(rights.ensure_maker, person("ada"))


def test_off_a_space_nobody_is_the_owner_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_space", lambda: None)
    assert not find_rights("space", {**SPACE, **SIGN_IN}).owners


def test_pictures_on_a_space_are_smaller() -> None:
    assert find_rights("local").pictures == find_rights("lab").pictures == DEFAULT_LIMITS
    limits = find_rights("space", {**SPACE, **SIGN_IN}).pictures
    assert SourceImage(png(8000, 6250, b""), limits).wh == (8000, 6250)
    with pytest.raises(ImageError, match="at most 50,000,000 pixels, got 8,000 x 6,251; scale the picture down"):
        SourceImage(png(8000, 6251, b""), limits)


def test_an_organisation_names_its_owners() -> None:
    rights = find_rights("space", {"SPACE_ID": "lab/hart", **SIGN_IN, "HART_STUDIO_OWNERS": " ada, bob ,,"})
    assert rights.owners == {"lab", "ada", "bob"}


def test_no_empty_name_is_an_owner() -> None:
    rights = find_rights("space", {"SPACE_ID": "", **SIGN_IN, "HART_STUDIO_OWNERS": ","})
    assert rights.owners == frozenset()
    assert refuses(rights.ensure_owner, person(""))


def test_no_job_inherits_the_secret_that_signs_sessions() -> None:
    variables = {**SPACE, **SIGN_IN}
    find_rights("space", variables)
    assert SECRET_VARIABLE not in variables


@pytest.mark.parametrize(
    ("value", "is_zero"), [("", False), ("0", False), ("false", False), ("true", True), ("1", True)]
)
def test_zero_gpu_is_told_by_its_variable(value: str, is_zero: bool) -> None:
    assert is_zero_gpu({"SPACES_ZERO_GPU": value}) is is_zero
    assert not is_zero_gpu({})


def test_a_guarded_function_asks_before_it_works() -> None:
    worked = []

    def stop(request: Any) -> str:
        worked.append(request)
        return "done"

    call = guarded(stop, Rights("space", frozenset({"ada"})).ensure_maker)
    assert call.__name__ == "stop"
    assert call({"run": "x", "person": "ada"}) == {"error": module.OWNER_ONLY}
    assert call({"run": "x"}, person("bob")) == {"error": module.OWNER_ONLY}
    assert not worked
    assert call({"run": "x"}, person("ada")) == "done"
