from __future__ import annotations

import argparse

from hart_studio.subcommands import Subcommand, SubcommandHelpFormatter, format_subcommands


def test_each_command_has_a_line_of_its_own_and_other_texts_are_wrapped() -> None:
    commands = {"list": Subcommand(lambda _: 0, "list things"), "report": Subcommand(lambda _: 0, "write a report")}
    parser = argparse.ArgumentParser(
        description="word " * 60, epilog=format_subcommands(commands), formatter_class=SubcommandHelpFormatter
    )
    lines = parser.format_help().splitlines()
    assert "  list    list things" in lines and "  report  write a report" in lines
    assert max(map(len, lines)) < 120
