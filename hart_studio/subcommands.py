"""Parsers of commands: help that begins with an example, and lists of subcommands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Subcommand(NamedTuple):
    """A subcommand, the first argument of ``python -m``."""

    run: Callable[[Sequence[str]], int]
    """Takes the arguments after the name; returns the exit code."""
    text: str
    """Description for the list in --help."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose help begins with an example."""

    def __init__(self, *, example: str, **options: Any) -> None:
        """Make a parser.

        Args:
            example: A whole command that works.
            options: As for ``argparse.ArgumentParser``.
        """
        if options.get("description"):  # from a docstring
            options["description"] = options["description"].replace("``", "")
        super().__init__(**options)
        self.example = example

    def format_help(self) -> str:
        """The example and the usual help."""
        return f"example: {self.example}\n\n{super().format_help()}"


class SubcommandHelpFormatter(argparse.HelpFormatter):
    """Help formatter that keeps the lines of the epilog."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(TITLE):
            return "\n".join(f"{indent}{line}" for line in text.splitlines())
        return super()._fill_text(text, width, indent)


TITLE = "other commands, each with its own --help:"


def format_subcommands(commands: Mapping[str, Subcommand]) -> str:
    """Format the list of commands for the epilog of a parser with ``SubcommandHelpFormatter``."""
    width = max(map(len, commands))
    return "\n".join([TITLE, *(f"  {name:<{width}}  {command.text}" for name, command in commands.items())])
