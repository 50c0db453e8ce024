"""Train: ``python -m hart_studio.training``. Without arguments, train the built-in model on needle scenes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Final

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hart_studio.errors import HartError, InputError
from hart_studio.files import replace_unencodable_output
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.overrides import apply_overrides, dump_config, load_config, load_run_config
from hart_studio.runs.presets import DEFAULT_PRESET, PRESETS, get_preset
from hart_studio.runs.writer import RUN_VARIABLE, create_run, removing_empty_run
from hart_studio.subcommands import CommandParser, Subcommand, SubcommandHelpFormatter, format_subcommands
from hart_studio.training import merging
from hart_studio.training.dry_run import describe_dry_run
from hart_studio.training.non_finite import NonFiniteError
from hart_studio.training.preflight import check_run
from hart_studio.training.summary import suggest_commands, summarize_training
from hart_studio.training.train import IMAGES_FOLDER, run

MERGE = "merge"
_STATE_LABELS: Final = {"good": "ok   ", "check": "warn ", "bad": "fail "}
COMMANDS: Final[dict[str, Subcommand]] = {
    MERGE: Subcommand(merging.main, "merge adapters into their base model"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training command.

    Returns:
        0 = done, or stopped by a stop request; 1 = too many non-finite steps; 2 = invalid settings, samples or
        model; 130 = interrupted.
    """
    replace_unencodable_output()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        return command.run(arguments[1:])
    options = _parse(arguments)
    try:
        if options.dry_run:
            text, is_usable = _describe(options)
            print(text)
            return 0 if is_usable else 2
        if options.preflight:
            return _check(options)
        config, layout, is_new = _prepare(options)
        is_main = PartialState(cpu=config.model.device == "cpu").is_main_process
        with removing_empty_run(layout, _report) if is_new and is_main else nullcontext():
            result = run(config, layout.folder, resume=options.resume is not None)
    except NonFiniteError as error:
        if PartialState().is_main_process:
            _print_summary(layout, None, options)
            print(f"error: {error}", file=sys.stderr)
        return 1
    except HartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the run cannot be written: {error}. Saved files are kept.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; resume the saved checkpoint with --resume", file=sys.stderr)
        return 130
    if is_main:
        _print_summary(layout, result.model, options)
    return 0


def _print_summary(layout: RunLayout, model: Path | None, options: argparse.Namespace) -> None:
    """Print the last lines of the command, or with ``--json`` its one object."""
    summary = summarize_training(layout, str(model or ""))
    if options.json:
        print(summary.model_dump_json())
        return
    print("\n".join(summary.lines()))
    if model is not None:
        print("\n".join(suggest_commands(str(model), str(options.runs_root))))
        print(f"done: {model}")
    elif summary.state == "stopped":
        print(f"stopped after step {summary.step}; continue with --resume {layout.run_id}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m hart_studio.training",
        example="python -m hart_studio.training --set schedule.rl_steps=10",
        description=__doc__,
        formatter_class=SubcommandHelpFormatter,
        epilog=format_subcommands(COMMANDS),
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--preset", choices=sorted(PRESETS), help=f"preset of settings (default: {DEFAULT_PRESET})")
    start.add_argument("--config", type=Path, help="JSON file of settings, such as the config.json of an earlier run")
    start.add_argument("--resume", metavar="RUN", help="id of a run to resume, with its own settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="set one setting, such as schedule.rl_steps=100; repeatable (see docs/reference/configuration.md)",
    )  # fmt: skip
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder of all runs (default: ./runs)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan without changing anything; exit code 2 if the samples cannot be read or are too few",
    )
    modes.add_argument(
        "--preflight", action="store_true", help="check samples, model, memory and disk without training"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the summary as one JSON object; with --preflight one per finding"
    )
    return parser.parse_args(argv)


def _read_settings(options: argparse.Namespace) -> RunConfig:
    if options.resume is not None:
        if options.overrides:
            raise InputError(
                "--resume cannot be combined with --set: a run keeps its settings. Start a new run for other settings."
            )
        return load_run_config(find_run(options.runs_root, options.resume))
    if options.config is not None:
        base = load_config(options.config)
    else:
        base = get_preset(options.preset or DEFAULT_PRESET).config
    return apply_overrides(base, options.overrides)


def _report(text: str) -> None:
    print(text, file=sys.stderr)


def _prepare(options: argparse.Namespace) -> tuple[RunConfig, RunLayout, bool]:
    """Return settings, run, and whether the run is new; the first process or the server creates it."""
    config = _read_settings(options)
    made = os.environ.get(RUN_VARIABLE)
    if options.resume is not None or made:
        return config, find_run(options.runs_root, options.resume or str(made)), False
    state = PartialState(cpu=config.model.device == "cpu")
    folder = [""]
    if state.is_main_process:
        layout = create_run(options.runs_root, "training", config, config.method.stages, config.total_steps)
        folder = [str(layout.folder)]
        print(f"run: {layout.folder}", file=sys.stderr if options.json else sys.stdout, flush=True)
    broadcast_object_list(folder)
    return config, RunLayout(Path(folder[0])), True


def _check(options: argparse.Namespace) -> int:
    """Print the preflight findings; return 2 if the run would fail."""
    config = _read_settings(options)
    state = PartialState(cpu=config.model.device == "cpu")
    is_bad = False
    for finding in check_run(config, options.runs_root, state.device, state.num_processes):
        is_bad |= finding.state == "bad"
        if options.json:
            line = json.dumps(asdict(finding))
        else:
            line = f"{_STATE_LABELS[finding.state]} {finding.topic}: {finding.text}"
            line += f" {finding.advice}" if finding.advice else ""
        print(line, flush=True)
    return 2 if is_bad else 0


def _describe(options: argparse.Namespace) -> tuple[str, bool]:
    """Describe the plan, and whether it is valid."""
    config = _read_settings(options)
    state = PartialState(cpu=config.model.device == "cpu")
    images = options.runs_root.resolve() / "new" / IMAGES_FOLDER
    plan = describe_dry_run(config, state.device, state.num_processes, images)
    return dump_config(config) + "\n".join(plan.lines), plan.is_usable


if __name__ == "__main__":
    raise SystemExit(main())
