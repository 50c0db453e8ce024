"""Every --help lists the subcommands, and every subcommand has its own --help."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hart_studio.subcommands import Subcommand

PACKAGE = Path(__file__).resolve().parents[2] / "hart_studio"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("__main__.py")
)


class Commands:
    """A ``__main__`` module, what its dispatch knows, and what its --help prints."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.module: Any = importlib.import_module(name)
        parsers: list[argparse.ArgumentParser] = []
        parse = argparse.ArgumentParser.parse_args

        def remember(parser: Any, *arguments: Any, **options: Any) -> Any:
            parsers.append(parser)
            return parse(parser, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", remember)
            self.help = help_of(self.module, [], capsys)
        actions = [one for one in parsers[0]._actions if isinstance(one, argparse._SubParsersAction)]
        self.names = {*getattr(self.module, "COMMANDS", {}), *(name for action in actions for name in action.choices)}


def help_of(module: Any, command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        module.main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def stop_after_parsing(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every parser parses its arguments and goes no further; they are in the list that comes back."""
    parsed = []
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: Any, arguments: Any = None, namespace: Any = None) -> Any:
        parse(parser, arguments, namespace)
        parsed.append(list(arguments))
        raise StopIteration

    patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    return parsed


@pytest.mark.parametrize("name", MODULES)
def test_every_command_is_in_the_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(name, monkeypatch, capsys)
    for command in commands.names:
        assert re.search(rf"^ +{re.escape(command)}\s+\S", commands.help, re.MULTILINE), f"{command} has no line"
        example, _, usage = help_of(commands.module, [command], capsys).splitlines()[:3]
        assert example.startswith("example: python ") and f" {command} " in f"{example} "
        assert f" {command} " in f"{usage} "


def test_the_commands_that_are_known_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name: Commands(name, monkeypatch, capsys).names for name in MODULES}
    assert names["hart_studio.evaluation.__main__"] == {"list", "report"}
    assert names["hart_studio.training.__main__"] == {"merge"}
    assert {"create", "import", "run", "export", "calibrate"} <= names["hart_studio.labeling.__main__"]


def test_every_parser_has_an_example() -> None:
    sources = [*PACKAGE.rglob("*.py"), PACKAGE.parent / "app.py"]
    own = [path for path in sources if "argparse.ArgumentParser(" in path.read_text() and path.name != "subcommands.py"]
    assert not own, "CommandParser begins the help with an example"


@pytest.mark.parametrize("name", [*MODULES, "hart_studio.ask"])
def test_the_example_of_a_command_is_parsed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module: Any = importlib.import_module(name)
    example = help_of(module, [], capsys).splitlines()[0]
    start = f"example: python -m {name.removesuffix('.__main__')}"
    assert example.startswith(start)
    arguments = shlex.split(example.removeprefix(start))
    with pytest.MonkeyPatch.context() as patch:
        parsed = stop_after_parsing(patch)
        with pytest.raises(StopIteration):
            module.main(arguments)
    assert parsed == [arguments]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_dispatches_by_its_table_alone(name: str) -> None:
    """A command that ``main`` would know beside the table could not be seen by the test above."""
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text()
    if "arguments[0]" in source:
        assert source.count("arguments[0]") == source.count("COMMANDS.get(arguments[0])") == 1
        assert all(isinstance(command, Subcommand) for command in module.COMMANDS.values())
