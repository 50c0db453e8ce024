"""Run the servers, commands and programs in docs/api.md, and compare their output with the document."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.documents.pages import blocks
from tests.mcp_calls import talk

pytestmark = pytest.mark.integration
PROJECT_ROOT = Path(__file__).parents[2]
DOCUMENT = PROJECT_ROOT / "docs" / "api.md"
BLOCKS = blocks(DOCUMENT)
PORT = "7860"
"""The port in the text."""
VARIABLES = ("HART_STUDIO_MCP_TOKEN", "HART_STUDIO_USER", "HART_STUDIO_PASSWORD")


def find(*tags, languages=("bash", "python")):
    """Places of the blocks that are run and have exactly these tags."""
    return [place for place, block in enumerate(BLOCKS) if block.language in languages and set(block.tags) == set(tags)]


def name_block(place):
    return f"line-{BLOCKS[place].line}"


class Reader:
    """A reader who runs the page from top to bottom in a separate folder, with a running server."""

    def __init__(self, folder, port, variables):
        self.folder, self.port = folder, port
        self.environment = {**os.environ, **variables, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, block):
        """Output of a block."""
        code = block.code.replace(PORT, self.port)
        command = ["bash", "-euo", "pipefail", "-c", code] if block.language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{DOCUMENT.name}:{block.line}: {done.stderr}"
        return done.stdout


@contextmanager
def serve(folder, *tags):
    """Start the server as the page says, on a free port, and record its environment."""
    (place,) = find(*tags)
    for name in ("app.py", "assets"):
        (folder / name).symlink_to(PROJECT_ROOT / name)
    pairs = " ".join(f'"{name}=${{{name}:-}}"' for name in VARIABLES)
    code = re.sub(
        r"^python app\.py",
        f"printf '%s\\\\n' {pairs}\nexec python app.py",
        BLOCKS[place].code,
        flags=re.MULTILINE,
    )
    environment = {
        **{name: value for name, value in os.environ.items() if name not in VARIABLES},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder),
    }
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        variables, lines = {}, []
        for line in process.stdout:
            lines.append(line)
            name, _, value = line.strip().partition("=")
            if name in VARIABLES and value:
                variables[name] = value
            if found := re.search(r"Running on .*http://127\.0\.0\.1:(\d+)", line):
                yield Reader(folder, found.group(1), variables)
                return
        raise AssertionError("".join(lines))
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("reader"), "serve") as found:
        yield found


@pytest.fixture(scope="module")
def friend(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("friend"), "serve", "login") as found:
        yield found


def check_shape(shown, printed, where="it"):
    """Whether two values have the same structure: equal keys and types; numbers may differ."""
    if shown is None or printed is None:
        return
    if isinstance(shown, dict):
        assert isinstance(printed, dict) and set(shown) == set(printed), where
        for name in shown:
            check_shape(shown[name], printed[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert isinstance(printed, list) and bool(shown) == bool(printed), where
        for place, each in enumerate(printed):
            check_shape(shown[min(place, len(shown) - 1)], each, f"{where}[{place}]")
    elif isinstance(shown, bool) or not isinstance(shown, (int, float)):
        assert type(shown) is type(printed), where
    else:
        assert isinstance(printed, (int, float)) and not isinstance(printed, bool), where


def follow(reader, place):
    """Run a block, and compare with the output behind it when one is shown."""
    printed = reader.run(BLOCKS[place])
    after = BLOCKS[place + 1] if place + 1 < len(BLOCKS) else None
    if after is not None and after.language == "json" and not after.tags:
        check_shape(json.loads(after.code), json.loads(printed))
    return printed


@pytest.mark.parametrize("place", find(), ids=name_block)
def test_what_the_page_shows_is_what_happens(reader, place):
    follow(reader, place)


@pytest.mark.parametrize("place", find("login"), ids=name_block)
def test_what_it_shows_behind_a_login_happens_there(friend, place):
    assert follow(friend, place).strip()


def test_an_mcp_client_gets_in_with_the_configuration_of_the_page(reader):
    (place,) = find("config", languages=("json",))
    (server,) = json.loads(BLOCKS[place].code)["mcpServers"].values()
    assert server["type"] == "http"
    address = server["url"].replace(PORT, reader.port)
    scheme, token = re.sub(
        r"\$\{(\w+)\}", lambda found: reader.environment[found[1]], server["headers"]["Authorization"]
    ).split()
    assert scheme == "Bearer"
    listed = talk(address.removesuffix("mcp"), lambda client: client.list_tools(), token=token)
    assert [tool.name for tool in listed.tools] == ["ask", "locate", "verify"]


def test_nothing_on_the_page_is_left_out():
    run = {*find(), *find("login"), *find("serve"), *find("serve", "login")}
    others = [block for place, block in enumerate(BLOCKS) if place not in run]
    assert [block.code for block in others if block.language != "json"] == ["pip install -r requirements-mcp.txt\n"]
    assert len(run) >= 7


def test_another_shape_would_be_found():
    for shown, printed in [({"a": 1}, {"b": 1}), ([1], []), ([{"a": 1}], [{"a": 1}, {"a": "x"}]), (True, 1), (1, True)]:
        with pytest.raises(AssertionError):
            check_shape(shown, printed)
