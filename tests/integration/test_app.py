import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.mcp_calls import TOKEN, talk, use, words

pytestmark = pytest.mark.integration
PROJECT_ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """``start(*flags)`` -> (process, lines as they come) of ``app.py`` with its own temporary folder."""
    running = []

    def launch(*flags, **environment):
        process = subprocess.Popen(
            [sys.executable, str(PROJECT_ROOT / "app.py"), *flags],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield launch
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_up_in_seconds_without_torch_and_leaves_nothing_behind(start, tmp_path, stop):
    started = time.monotonic()
    process = start()
    line = next(line for line in process.stdout if "Running on" in line)
    url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
    assert httpx.get(url).status_code == 200
    # Ten seconds on a free machine; the limit allows for one that is not.
    assert time.monotonic() - started < 30
    maps = Path(f"/proc/{process.pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text("utf-8")
    assert list(tmp_path.glob("hart-studio-*"))
    process.send_signal(stop)
    assert process.wait(60) == 0
    assert not list(tmp_path.glob("hart-studio-*"))


def test_a_taken_port_is_one_clear_line(start):
    first = start()
    line = next(line for line in first.stdout if "Running on" in line)
    port = re.search(r":(\d+)", line.split("127.0.0.1")[1]).group(1)
    second = start("--port", port)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 2
    assert port in output
    assert "Traceback" not in output


@pytest.mark.parametrize("port", ["99999", "-1", "many", "1" * 9000])
def test_a_port_that_there_is_not_is_one_clear_line(start, port):
    process = start(f"--port={port}")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "argument --port: expected a port from 0 to 65535, got" in output
    assert "Traceback" not in output and len(output) < 2000


@pytest.mark.core
def test_help_names_every_flag(start):
    output = start("--help").communicate(timeout=60)[0]
    assert {
        "--host",
        "--port",
        "--runs-root",
        "--model",
        "--share",
        "--allow-host",
        "--allow-model",
        "--without-login",
        "--cache-mb",
        "--mcp",
    } <= set(re.findall(r"--[a-z-]+", output))


def test_a_network_is_refused_before_anything_listens(start):
    refused = start("--host", "0.0.0.0")  # noqa: S104 - that is what must not happen
    output = refused.communicate(timeout=60)[0]
    assert refused.returncode == 2
    assert "HART_STUDIO_PASSWORD" in output and "--without-login" in output
    assert "Traceback" not in output and "Running on" not in output


def test_tools_without_a_token_are_refused_before_anything_listens(start):
    refused = start("--mcp", HART_STUDIO_MCP_TOKEN="short-secret")  # noqa: S106 - of this test alone
    output = refused.communicate(timeout=60)[0]
    assert refused.returncode == 2
    assert (
        "HART_STUDIO_MCP_TOKEN has 12 characters, at least 24 are required" in output and "short-secret" not in output
    )
    assert "Traceback" not in output and "Running on" not in output


def test_the_tools_offer_the_models_that_the_operator_has_added_and_no_others(start):
    process = start("--mcp", "--allow-model", "owner/added", HART_STUDIO_MCP_TOKEN=TOKEN)
    line = next(line for line in process.stdout if "Running on" in line)
    url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
    tools = talk(f"{url}/", lambda client: client.list_tools()).tools
    offered = [tool.input_schema["properties"]["model"]["enum"] for tool in tools]
    assert offered == [["built-in", "built-in-hart", "owner/added"]] * 3
    message = words(use(f"{url}/", "locate", image="AA", question="What?", model="Qwen/Qwen2.5-VL-7B-Instruct"))
    assert "Choose one of built-in, built-in-hart, owner/added" in message


def test_behind_a_login_nothing_is_answered_without_it(start):
    password = "correct horse battery"  # noqa: S105 - of this test alone
    process = start(HART_STUDIO_USER="ada", HART_STUDIO_PASSWORD=password)
    line = next(line for line in process.stdout if "Running on" in line)
    url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
    stranger = httpx.Client(base_url=url)
    for name in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd", "gradio_api/queue/data?session_hash=x"):
        assert stranger.get(f"/{name}").status_code == 401, name
    for name in ("call/ask", "queue/join", "component_server", "upload"):
        assert stranger.post(f"/gradio_api/{name}", json={"data": []}).status_code in (401, 403), name
    friend = httpx.Client(base_url=url)
    assert friend.post("/login", data={"username": "ada", "password": password}).status_code == 200
    assert friend.get("/config").status_code == 200
    assert friend.get("/config").json()["components"], "the page itself"
    tries = [stranger.post("/login", data={"username": "ada", "password": "guess"}).status_code for _ in range(12)]
    assert tries[0] == 400 and tries[-1] == 429
