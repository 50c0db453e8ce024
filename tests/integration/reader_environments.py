"""Virtual environments for readers of exports whose requirements conflict with those of HART Studio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
"""Variables at the start of the session: tests change the home folder, which holds the settings of pip."""

INSTALL_SECONDS = 240


def make_environment(folder: Path, requirement: str) -> Path:
    """Create an environment with one package from pip's index, or skip the test and say why.

    Args:
        folder: Folder to create.
        requirement: The package with its version range.

    Returns:
        The interpreter.
    """
    interpreter = folder / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement],
    ):
        try:
            done = subprocess.run(
                command, env=ENVIRONMENT, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"{requirement} was not installed within {INSTALL_SECONDS} s")
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            pytest.skip(f"{requirement} cannot be installed in an environment of its own: {' / '.join(lines[-2:])}")
    return interpreter


def run_reader(interpreter: Path, program: str, *arguments: str | Path) -> Any:
    """Run a program that prints ``RESULT`` and one JSON document.

    Args:
        interpreter: From ``make_environment``.
        program: Python source.
        arguments: Its arguments.
    """
    done = subprocess.run(
        [str(interpreter), "-I", "-c", program, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])
