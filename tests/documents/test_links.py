"""Everything that documents reference exists: links, anchors, commands with their flags, names of code, files."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import runpy
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from hart_studio.runs.overrides import apply_overrides
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from tests.documents.pages import ROOT, Block, Command, anchors, blocks, code_words, commands, documents, links, name_of

pytestmark = pytest.mark.core

DOCUMENTS = documents()
COMMANDS = [command for path in DOCUMENTS for command in commands(path)]
PROJECT_MODULES = ("hart_studio", "benchmarks", "tests", "accelerate")
TREE_SUFFIXES = {".py", ".md", ".js", ".css", ".yaml", ".toml", ".svg", ".png", ".jpg", ".html"}


class _ParsedError(BaseException):
    """Raised instead of running a command, after its arguments are parsed; not caught by ``except Exception``."""

    def __init__(self, options: Namespace) -> None:
        self.options = options


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in links(path):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / unquote(place)).resolve() if place else path
        if not file.exists() or ROOT not in (file, *file.parents):
            broken.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(f"{target}: {name_of(file)} has no such heading")
    return broken


def parse(command: Command, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """Parse the arguments with the parser of the program, without running it.

    Raises:
        SystemExit: If the program rejects them.
    """
    read = ArgumentParser.parse_args

    def parse_args(self: ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise _ParsedError(read(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [command.module or "app.py", *command.arguments])
        try:
            if command.module:
                spec = importlib.util.find_spec(command.module)
                is_package = spec is not None and spec.submodule_search_locations is not None
                # Run again, and restore afterwards; the package itself stays the imported one.
                name = f"{command.module}.__main__" if is_package else command.module
                patch.delitem(sys.modules, name, raising=False)
                runpy.run_module(command.module, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
        except _ParsedError as parsed:
            return parsed.options
    raise AssertionError(f"{command.place}: the program ended before it parsed its arguments")


def find_name(name: str) -> object:
    """Resolve a dotted name; the last parts may be attributes."""
    found: object = importlib.import_module("hart_studio")
    place = "hart_studio"
    for part in name.split(".")[1:]:
        place = f"{place}.{part}"
        fields = getattr(found, "model_fields", {})
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            found = fields[part] if part in fields else importlib.import_module(place)
    return found


def missing_names(path: Path) -> list[str]:
    missing = []
    # Modules that a guide adds, which ``test_extending`` writes into a copy of the package.
    new = [block for block in blocks(path) if block.language == "python"]
    files = [tag.removeprefix("file=") for block in new for tag in block.tags if tag.startswith("file=")]
    added = tuple(file.removesuffix(".py").replace("/", ".") for file in files)
    for name in sorted(set(re.findall(r"\bhart_studio(?:\.[A-Za-z_]\w*)+", path.read_text(encoding="utf-8")))):
        if name.startswith(added):
            continue
        try:
            find_name(name)
        except ModuleNotFoundError:
            missing.append(name)
    return missing


def missing_files(path: Path) -> list[str]:
    tops = {each.name for each in ROOT.iterdir() if each.is_dir()} - {"runs", "labels"}
    missing = []
    for words in code_words(path):
        word, _, function = words.partition("::")
        word = word.rstrip("/")
        if re.search(r"(?<![A-Z])[A-Z]{3,}(?![A-Z]|\.md)", word):  # a placeholder, such as NAME.py
            continue
        if not re.fullmatch(r"[\w.-]+(/[\w.*-]+)*", word):
            continue
        is_in_tree = word.split("/")[0] in tops if "/" in word else False
        is_file = "/" in word and Path(word).suffix in TREE_SUFFIXES
        if not (is_in_tree or is_file):
            continue
        places = (ROOT, ROOT / "hart_studio", path.parent)
        found = [file for place in places for file in (place.glob(word) if "*" in word else [place / word])]
        file = next((each for each in found if each.exists()), None)
        if file is None:
            missing.append(word)
        elif function and not re.search(rf"^def {re.escape(function)}\(", file.read_text("utf-8"), re.MULTILINE):
            missing.append(words)
    return missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_has_a_target(path: Path) -> None:
    assert broken_links(path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_name_of_code_exists(path: Path) -> None:
    assert missing_names(path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_named_file_exists(path: Path) -> None:
    assert missing_files(path) == []


def test_every_threat_and_every_equation_names_a_test() -> None:
    threats = re.findall(r"^\| (?!Threat|---).*$", (ROOT / "docs" / "security.md").read_text("utf-8"), re.MULTILINE)
    assert len(threats) >= 20 and all("`tests/" in row for row in threats)
    equations = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
    named = re.findall(r"\| `(hart_studio\.[\w.]+)` \| `tests/[\w/.]+` \|", equations)
    assert len(named) >= 8 and all(callable(find_name(name)) for name in named)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_blocks_are_python(path: Path) -> None:
    for block in blocks(path):
        if block.language == "python":
            ast.parse(block.code, f"{name_of(path)}:{block.line}")


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 40
    assert {"hart_studio.training", "hart_studio.labeling", "hart_studio.evaluation", "hart_studio.ask"} <= {
        command.module for command in COMMANDS
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.place} {command.module}")
def test_every_command_parses(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if command.module.split(".")[0] not in PROJECT_MODULES and command.module:
        assert importlib.util.find_spec(command.module.split(".")[0]) is not None, command
        return
    try:
        options = parse(command, monkeypatch)
    except SystemExit as refusal:
        assert refusal.code == 0, f"{command.place}: {command.module} rejects {' '.join(command.arguments)}"
        return
    if getattr(options, "overrides", None):
        apply_overrides(get_preset(options.preset or DEFAULT_PRESET).config, options.overrides)


# The checks themselves -----------------------------------------------------------------------------------------------


def test_errors_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` & C_d!\n# A `b` & C_d!\n[gone](gone.md) [here](#a-b--c_d-1) [not](#nowhere) `[code](no.md)`\n"
        "`hart_studio.records.Sample.question` `hart_studio.records.Nothing` `hart_studio/records.py` `tests/no.py`\n"
        "`tests/a.py::test_a` `tests/a.py::test_b`\n"
        "```bash keep\nX=1 python -m hart_studio.ask a.png \\\n  'b' --wrong  # no\n"
        "python -m hart_studio.ask <a b> c\nask.py   python -m hart_studio.ask\n```\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text("def test_a(): ...")
    monkeypatch.setattr("tests.documents.pages.ROOT", tmp_path)
    monkeypatch.setitem(globals(), "name_of", str)
    monkeypatch.setattr("tests.documents.pages.name_of", lambda path: path.name)
    assert anchors(page) == {"a-b--c_d", "a-b--c_d-1"}
    assert missing_names(page) == ["hart_studio.records.Nothing"]
    assert missing_files(page) == ["tests/no.py", "tests/a.py::test_b"]
    wrong, right = commands(page)
    assert (wrong.place, wrong.arguments) == ("page.md:7", ("a.png", "b", "--wrong"))
    with pytest.raises(SystemExit):
        parse(wrong, monkeypatch)
    assert parse(right, monkeypatch).question == "c"
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert [each.split(":")[0] for each in broken_links(page)] == ["gone.md", "#nowhere"]


def test_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n```python no-run\nx = '''\n``\n'''\n```\n~~~~\n```\n~~~~\n")
    assert blocks(page) == [
        Block("python", "x = '''\n``\n'''\n", 2, ("no-run",)),
        Block("", "```\n", 7),
    ]
    page.write_text("```bash\nls\n")
    with pytest.raises(ValueError, match="Fence in line 1 of"):
        blocks(page)
