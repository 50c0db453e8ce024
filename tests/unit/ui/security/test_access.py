"""Who may do what, decided from the session alone."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import DEFAULT_LIMITS, SourceImage
from hart_studio.ui.api.handler import api_handler
from hart_studio.ui.security import access
from hart_studio.ui.security.access import (
    LOOPBACK_HOSTS,
    MCP_TOKEN_VARIABLE,
    PASSWORD_VARIABLE,
    SECRET_VARIABLE,
    SIGN_IN_VARIABLES,
    USER_VARIABLE,
    Permissions,
    RateLimiter,
    is_zero_gpu,
    load_auth_config,
    load_permissions,
)
from tests.images import png

SPACE = {"SPACE_ID": "ada/hart", "SPACE_AUTHOR_NAME": "ada", "HART_STUDIO_TRAINING": "1"}
SIGN_IN = dict.fromkeys(SIGN_IN_VARIABLES, "x")


@pytest.fixture(autouse=True)
def space_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "get_space", lambda: "ada/hart")


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
    monkeypatch.setattr(access, "get_space", lambda: None)
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
    assert call({"run": "x", "person": "ada"}) == {"error": access.OWNER_ONLY}
    assert call({"run": "x"}, person("bob")) == {"error": access.OWNER_ONLY}
    assert not worked
    assert call({"run": "x"}, person("ada")) == "done"


PASSWORD = "correct horse battery"  # noqa: S105 - of these tests alone


def variables(user: str = "ada", password: str = PASSWORD) -> dict[str, str]:
    return {USER_VARIABLE: user, PASSWORD_VARIABLE: password}


@pytest.mark.parametrize("host", sorted(LOOPBACK_HOSTS))
def test_this_machine_needs_no_login_and_answers_to_its_own_names(host: str) -> None:
    access = load_auth_config(host, {})
    assert (access.profile, access.hosts, access.login) == ("local", LOOPBACK_HOSTS, None)
    assert load_auth_config(host, variables()).login == ("ada", PASSWORD), "one that is given counts"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "lab.example"])  # noqa: S104 - nothing listens
def test_a_network_is_not_let_in_without_a_login(host: str) -> None:
    with pytest.raises(InputError, match=rf"Set {USER_VARIABLE} and {PASSWORD_VARIABLE}, or .*--without-login"):
        load_auth_config(host, {})
    access = load_auth_config(host, variables())
    assert (access.profile, access.hosts, access.login) == ("lab", None, ("ada", PASSWORD))
    assert load_auth_config(host, {}, allow_anonymous=True).login is None


def test_a_tunnel_is_a_network() -> None:
    with pytest.raises(InputError, match="needs a login"):
        load_auth_config("127.0.0.1", {}, is_tunneled=True)
    assert load_auth_config("127.0.0.1", variables(), is_tunneled=True).hosts is None


def test_named_hosts_are_the_only_ones() -> None:
    access = load_auth_config("0.0.0.0", variables(), names=["Studio.lab.example"])  # noqa: S104 - nothing listens
    assert access.hosts == LOOPBACK_HOSTS | {"studio.lab.example"}


def test_a_space_is_public() -> None:
    access = load_auth_config("0.0.0.0", {"SPACE_ID": "someone/studio"})  # noqa: S104 - nothing listens
    assert (access.profile, access.hosts, access.login) == ("space", None, None)


@pytest.mark.parametrize(
    "given",
    [variables(user=""), variables(password=""), variables(password="short")],  # noqa: S106 - of this test alone
)
def test_half_a_login_and_a_short_password_are_refused_without_being_shown(given: dict[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        load_auth_config("127.0.0.1", given)
    assert "short" not in str(caught.value)


def test_the_password_leaves_the_environment_and_is_not_shown() -> None:
    given = variables()
    access = load_auth_config("127.0.0.1", given)
    assert PASSWORD_VARIABLE not in given, "a job that the page starts must not have it"
    assert PASSWORD not in repr(access)


TOKEN = "0123456789abcdef0123456-"  # noqa: S105 - of these tests alone


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - nothing listens
def test_tools_are_served_behind_a_token_with_and_without_a_login(host: str) -> None:
    given = {**variables(), MCP_TOKEN_VARIABLE: TOKEN}
    access = load_auth_config(host, given, serves_mcp=True)
    assert (access.mcp_token, access.login) == (TOKEN, ("ada", PASSWORD))
    assert MCP_TOKEN_VARIABLE not in given, "a job that the page starts must not have it"
    assert TOKEN not in repr(access)
    assert load_auth_config(host, {MCP_TOKEN_VARIABLE: TOKEN}, serves_mcp=True, allow_anonymous=True).mcp_token == TOKEN


def test_a_token_alone_serves_nothing_and_is_no_login() -> None:
    given = {MCP_TOKEN_VARIABLE: TOKEN}
    assert load_auth_config("127.0.0.1", given).mcp_token == "" and not given
    with pytest.raises(InputError, match="needs a login"):
        load_auth_config("0.0.0.0", {MCP_TOKEN_VARIABLE: TOKEN}, serves_mcp=True)  # noqa: S104 - nothing listens


@pytest.mark.parametrize("token", ["", "x" * 23, "x" * 23 + " ", "x" * 23 + "\n", "ü" * 24, "x" * 12 + "\x7f" * 12])
def test_tools_are_not_served_with_a_token_that_cannot_be_used(token: str) -> None:
    with pytest.raises(InputError, match=MCP_TOKEN_VARIABLE) as caught:
        load_auth_config("127.0.0.1", {MCP_TOKEN_VARIABLE: token}, serves_mcp=True)
    assert not token or token not in str(caught.value)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tries_are_counted_for_each_address_and_forgotten_in_time() -> None:
    clock = Clock()
    limiter = RateLimiter(tries=3, seconds=60.0, clock=clock)
    assert [limiter.admit("a") for _ in range(5)] == [True, True, True, False, False]
    assert limiter.admit("b"), "another address has tries of its own"
    clock.now = 59.9
    assert not limiter.admit("a")
    clock.now = 60.0
    assert [limiter.admit("a") for _ in range(4)] == [True, True, True, False], "refused tries did not count"


def test_checking_the_limit_counts_nothing() -> None:
    clock = Clock()
    limiter = RateLimiter(tries=1, clock=clock)
    assert all(limiter.is_below_limit("a") for _ in range(5))
    assert limiter.admit("a") and not limiter.is_below_limit("a") and limiter.is_below_limit("b")
    clock.now = 60.0
    assert limiter.is_below_limit("a")


def test_memory_is_bounded() -> None:
    limiter = RateLimiter(tries=1, addresses=3, clock=Clock())
    assert all(limiter.admit(str(address)) for address in range(100))
    assert not limiter.admit("99") and limiter.admit("0"), "the oldest are forgotten first"
