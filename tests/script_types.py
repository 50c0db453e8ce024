"""Check the types of the page's scripts, part of ``make check``: ``python -m tests.script_types``.

Needs the TypeScript compiler (``npm ci``). The scripts of a component share one scope, so each component is a program:
names that two of them declare, or that none does, are errors.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hart_studio.ui.app  # noqa: F401 - defines all components
from hart_studio.ui.pages.display import Display

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "assets" / "js"
OPTIONS = (
    *("--ignoreConfig", "--noEmit", "--allowJs", "--checkJs", "--strict", "false"),
    *("--target", "es2023", "--lib", "es2023,dom,dom.iterable"),
)


def list_programs(base: type[Display] = Display) -> Iterator[tuple[str, ...]]:
    """Scripts of each component, in loading order."""
    for component in base.__subclasses__():
        if "scripts" in vars(component):
            yield ("dom.js", *component.scripts)
        yield from list_programs(component)


def main() -> int:
    """Check every program; the exit code is 1 if one has errors."""
    is_failed = False
    for program in sorted({("page.js",), *list_programs()}):
        files = [str(SCRIPTS / name) for name in (*program, "gradio.d.ts")]
        command = [str(ROOT / "node_modules" / ".bin" / "tsc"), *OPTIONS, *files]
        is_failed |= subprocess.run(command, cwd=ROOT, check=False).returncode != 0
    return int(is_failed)


if __name__ == "__main__":
    sys.exit(main())
