import pytest

from hart_studio.errors import InputError
from hart_studio.ui.security.auth import MCP_TOKEN_VARIABLE, PASSWORD_VARIABLE, USER_VARIABLE, load_auth_config
from hart_studio.ui.security.origin_check import LOOPBACK_HOSTS

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
