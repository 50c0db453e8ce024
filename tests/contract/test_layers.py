"""Rules of the code base: allowed imports between layers, and lengths of files and lines."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hart_studio"
CORE = {
    "records", "geometry", "imaging", "image_formats", "image_domains", "prompts", "parsing", "scoring", "extraction",
    "spelling", "formatting",
    "files", "symlinks", "outputs", "errors", "progress", "subcommands",
}  # fmt: skip

# Layer -> layers that it may import besides itself and the core. Siblings of one layer do not see each other.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "hub": set(),
    "models": {"hub"},
    "algorithms": set(),
    "runs": {"algorithms"},
    "pipeline": {"models", "hub", "algorithms", "runs"},
    "data": {"needle", "models", "hub", "algorithms", "runs"},
    "needle": {"models", "hub", "algorithms", "runs"},
    "labeling": {"evaluation", "pipeline", "data", "needle", "models", "hub", "algorithms", "runs"},
    "evaluation": {"pipeline", "data", "needle", "models", "hub", "algorithms", "runs"},
    "training": {"evaluation", "pipeline", "data", "needle", "models", "hub", "algorithms", "runs"},
    "experiments": {"training", "evaluation", "pipeline", "data", "needle", "models", "hub", "algorithms", "runs"},
    "ask": {"pipeline", "models"},
    "ui": {"labeling", "evaluation", "pipeline", "data", "needle", "models", "hub", "algorithms", "runs"},
}

# Library -> layers that may import it.
LIBRARIES: dict[str, set[str]] = {
    "gradio": {"ui"},
    "trl": {"training"},
    "transformers": {"models", "training", "experiments"},
    "torch": {"models", "algorithms", "pipeline", "training", "experiments"},
    "matplotlib": {"evaluation"},
    "peft": {"models", "training"},
    "mcp": {"ui"},
    "mcp_types": {"ui"},
}

LONG_FILE_LINES = 500
"""A longer file says in its docstring why it is one subject."""


def source_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.stat().st_size)


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "core" if first in CORE or first == "__init__" else first


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_violations(path: Path) -> list[str]:
    layer = layer_of(path)
    problems = []
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "hart_studio" and len(parts) > 1:
            target = "core" if parts[1] in CORE or parts[1] == "__version__" else parts[1]
            if target not in {"core", layer} | ALLOWED[layer]:
                problems.append(f"{layer} imports {target} ({name})")
        elif parts[0] in LIBRARIES and layer not in LIBRARIES[parts[0]]:
            problems.append(f"{layer} imports the library {parts[0]}")
    return problems


def test_every_file_belongs_to_a_known_layer() -> None:
    assert {layer_of(path) for path in source_files()} <= set(ALLOWED)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_respect_the_layers(path: Path) -> None:
    assert layer_violations(path) == []


def test_a_violation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "pipeline").mkdir()
    offender = tmp_path / "pipeline" / "offender.py"
    offender.write_text("import gradio as gr\nfrom hart_studio.ui import app\n")
    assert sorted(layer_violations(offender)) == [
        "pipeline imports the library gradio",
        "pipeline imports ui (hart_studio.ui.app)",
    ]


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_long_file_says_why_it_is_one_subject(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert len(text.splitlines()) <= LONG_FILE_LINES or "One file because" in docstring


def test_no_line_of_a_script_or_style_is_longer_than_120_characters() -> None:
    """``make check`` runs the formatter itself."""
    files = [*(ROOT / "assets" / "js").glob("*.js"), *(ROOT / "assets" / "css").glob("*.css")]
    lines = [(path.name, line) for path in files for line in path.read_text("utf-8").split("\n")]
    assert lines and [each for each in lines if len(each[1]) > 120] == []


def test_one_script_calls_the_server() -> None:
    calls = re.compile(r"\bserver\s*(?:\.\w+\(|\[)|\bfetch\(|\bXMLHttpRequest\b")
    found = {path.name for path in (ROOT / "assets" / "js").glob("*.js") if calls.search(path.read_text("utf-8"))}
    assert found == {"server_calls.js"}


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "common", "helpers", "manager", "misc"}
    assert not drawers & {path.stem for path in source_files()}


def test_no_remote_code_pickle_or_shell() -> None:
    banned = ("trust_remote_code=True", "import pickle", "torch.load(", "shell=True", "weights_only=False")
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in [*source_files(), ROOT / "app.py"]
        for text in banned
        if text in path.read_text()
    ]
    assert found == []


def test_bitsandbytes_fetches_no_kernel(tmp_path: Path) -> None:
    """With a package ``kernels`` installed, it would fetch code from the Hub when imported, and run it."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('kernels was imported')\n")
    program = (
        "import hart_studio, importlib.util; assert importlib.util.find_spec('kernels') is None; import bitsandbytes"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, ""), found.stderr
