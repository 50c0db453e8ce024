"""Run the blocks of a document in order, in one shell and a new folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.documents.pages import ROOT, Block, blocks, name_of

NOT_RUN = "no-run"
"""Tag of a block that tests cannot run, for example because it needs a GPU."""
SHUTDOWN_TIMEOUT_SECONDS = 3.0
"""Time for background processes of a document to end after SIGTERM."""
_PORT = re.compile(r"(?<=[ :])(8000|9090|29500|29501|7860)\b")


@dataclass(frozen=True)
class Ran:
    """Result of running a document.

    Attributes:
        code: Exit code of the shell; 0 = all blocks succeeded.
        line: Line of the last block that was started.
        output: Output of all blocks.
    """

    code: int
    line: int
    output: str


def runnable(path: Path) -> list[Block]:
    """Blocks that are executed."""
    return [block for block in blocks(path) if block.language in ("bash", "python") and NOT_RUN not in block.tags]


def run_document(path: Path, folder: Path, seconds: float, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a document's blocks.

    Args:
        path: The document.
        folder: An empty folder to run in.
        seconds: Timeout of the whole document.
        environment: Variables in addition to those of this process.
    """
    scripts = folder.with_name(f"{folder.name}-scripts")
    scripts.mkdir()
    ports = {found: str(_free_port()) for block in runnable(path) for found in _PORT.findall(block.code)}
    lines = ["set -euo pipefail"]
    for block in runnable(path):
        code = _PORT.sub(lambda found: ports[found[1]], block.code)
        lines.append(f"echo '@@ {block.line}'")
        if block.language == "python":
            script = scripts / f"line_{block.line}.py"
            script.write_text(code, encoding="utf-8")
            code = f"python {shlex.quote(str(script))}\n"
        lines.append(code)
    script = scripts / "document.sh"
    script.write_text("\n".join(lines), encoding="utf-8")
    log = scripts / "log.txt"
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", str(script)], cwd=folder, env=variables, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        finally:
            _end(process)
    output_text = log.read_text(encoding="utf-8", errors="replace")
    started = re.findall(r"^@@ (\d+)$", output_text, re.MULTILINE)
    return Ran(code, int(started[-1]) if started else 0, output_text)


def describe(path: Path, ran: Ran) -> str:
    """Failing line of a document with the end of its output."""
    return f"{name_of(path)}:{ran.line} ended with {ran.code}:\n{ran.output[-4000:]}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the shell and the servers that the document started; give launchers time to end their own processes."""
    until = time.monotonic() + SHUTDOWN_TIMEOUT_SECONDS
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < until:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
