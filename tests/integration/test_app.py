import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

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
    # Ten seconds on a free machine; the bound leaves room for one that is not.
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


def test_help_names_every_flag(start):
    output = start("--help").communicate(timeout=60)[0]
    assert {"--host", "--port", "--runs-root", "--model", "--share"} <= set(re.findall(r"--[a-z-]+", output))
