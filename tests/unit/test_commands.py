from __future__ import annotations

import argparse

from hart_studio.commands import Command, CommandsFormatter, describe_commands


def test_each_command_has_a_line_of_its_own_and_other_texts_are_wrapped() -> None:
    commands = {"list": Command(lambda _: 0, "list things"), "report": Command(lambda _: 0, "write a report")}
    parser = argparse.ArgumentParser(
        description="word " * 60, epilog=describe_commands(commands), formatter_class=CommandsFormatter
    )
    lines = parser.format_help().splitlines()
    assert "  list    list things" in lines and "  report  write a report" in lines
    assert max(map(len, lines)) < 120
