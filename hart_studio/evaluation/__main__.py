"""Evaluate a model on a benchmark: ``python -m hart_studio.evaluation --benchmark NAME --model ID --protocol NAME``.

Every evaluation is a run that can be stopped and resumed. ``report RUN ...`` writes tables, figures and one HTML page
for any evaluations.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import HartError, InputError
from hart_studio.evaluation.config import EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run, run_evaluation
from hart_studio.evaluation.report import write_report
from hart_studio.evaluation.results import list_evaluations, load_evaluation, read_dataset_info, summarize_evaluation
from hart_studio.evaluation.shards import Shard
from hart_studio.files import replace_unencodable_output
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.models.chat import ChatModel
from hart_studio.models.quantization import add_quantization_option
from hart_studio.models.served_settings import add_served_options, describe_endpoint, read_served
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.progress import ProgressReporter
from hart_studio.records import PROTOCOLS
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import RUN_VARIABLE, removing_empty_run
from hart_studio.subcommands import CommandParser, Subcommand, SubcommandHelpFormatter, format_subcommands

FAILED: Final = 1
BAD_INPUT: Final = 2
ALL: Final = "all"
SHOWN_METRICS: Final = (*(f"{protocol}/accuracy" for protocol in PROTOCOLS), "iog_above_0.3", "failed")
"""Metrics shown in the progress output."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 = done, or stopped by its stop file; 1 = the model failed on some questions; 2 = invalid settings, questions
            or model; 130 = interrupted.
    """
    replace_unencodable_output()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0]) if arguments else None
    try:
        return command.run(arguments[1:]) if command else _evaluate(arguments)
    except HartError as error:
        print(f"error: {error}", file=sys.stderr)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"error: {'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg']}", file=sys.stderr)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(f"error:{place} {error.strerror or error}. Measured results are kept.", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted. Measured results are kept. Continue with --resume RUN.", file=sys.stderr)
        return 130
    return BAD_INPUT


def _evaluate(arguments: Sequence[str]) -> int:
    options = _build_parser().parse_args(arguments)
    if options.processes > 1:
        return _launch(options, _without_shards(arguments))
    shard, folder, is_new = _join(options)
    layout = RunLayout(folder)
    progress = ProgressReporter("question", shown=SHOWN_METRICS)
    with removing_empty_run(layout, _report_removal) if is_new and shard.count == 1 else nullcontext():
        is_done = run_evaluation(layout, open_model, shard, progress)
    if not shard.is_first:
        return 0
    left = "" if is_done else read_status(layout).error
    summary = summarize_evaluation(load_evaluation(layout), read_dataset_info(layout), is_done=is_done)
    if options.json:
        print(summary.model_dump_json())
        return FAILED if left else 0
    print("\n".join(summary.lines()))
    if progress.warning_count:
        print(f"warnings: {progress.warning_count:,}; the page and {layout.events} have all of them")
    reason = f": {left}" if left else ""
    dropped = f" (without {summary.invalid_rows:,} of {summary.rows:,} rows)" if summary.invalid_rows else ""
    print(f"done: {layout.run_id}{dropped}" if is_done else f"stopped{reason}; continue with --resume {layout.run_id}")
    print(f"report: python -m hart_studio.evaluation report {layout.run_id} --runs-root {options.runs_root}")
    return FAILED if left else 0


def open_model(config: EvaluationConfig) -> ChatModel:
    """Load the model of an evaluation, one device per process, or connect to its server."""
    from hart_studio.models.model_loading import load_chat_model as open_it  # noqa: PLC0415 - takes seconds; invalid input fails first

    device = config.device
    if device in ("auto", "cuda") and config.served is None and "LOCAL_RANK" in os.environ:
        from accelerate import PartialState  # noqa: PLC0415 - imports torch

        own = PartialState().device
        device = str(own) if own.type == "cuda" else "cpu"
    return open_it(config.model_name, device, config.dtype, config.served, config.quantization)


def _report_removal(text: str) -> None:
    print(text, file=sys.stderr)


def _join(options: argparse.Namespace) -> tuple[Shard, Path, bool]:
    """This process's shard, the run folder, and whether the run is new. The first process creates it."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    given = options.resume or os.environ.get(RUN_VARIABLE)
    config = read_config(find_run(options.runs_root, given)) if given else _read_settings(options)
    shared: list[Any] = ["", time.time_ns()]
    if rank == 0:
        layout = find_run(options.runs_root, given) if given else prepare_run(options.runs_root, config)
        shared[0] = str(layout.folder)
        if not given:
            _note(options, f"run: {layout.folder}")
        if config.served is not None:
            _note(options, describe_endpoint(config.served))
    if count > 1:
        from accelerate import PartialState  # noqa: PLC0415 - imports torch, which a single process may not need yet
        from accelerate.utils import broadcast_object_list  # noqa: PLC0415

        PartialState(cpu=config.device == "cpu" or config.served is not None)
        broadcast_object_list(shared)
    return Shard(rank, count, shared[1]), Path(shared[0]), not given


def _note(options: argparse.Namespace, text: str) -> None:
    """Print a line before the work begins; with ``--json`` standard output has the summary alone."""
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


def _read_settings(options: argparse.Namespace) -> EvaluationConfig:
    given = {name: value for name, value in vars(options).items() if name not in ("served", "protocols")}
    chosen = options.protocols or ["crops_only"]
    return EvaluationConfig(
        served=read_served(options),
        protocols=PROTOCOLS if ALL in chosen else tuple(dict.fromkeys(chosen)),
        loop=LoopSettings(**{name: given[name] for name in LoopSettings.model_fields if name in given}),
        **{name: given[name] for name in EvaluationConfig.model_fields if name in given},
    )


def _launch(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Start the same command in several processes on this machine and wait for them."""
    if "RANK" in os.environ:
        raise InputError("--processes does not work inside of accelerate launch. Remove it.")
    argv = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(options.processes)]
    argv += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    argv.append("--multi_gpu")  # starts several processes, also on CPUs
    return subprocess.call([*argv, "-m", "hart_studio.evaluation", *rest])


def _without_shards(arguments: Sequence[str]) -> list[str]:
    """Arguments of each process: the same, without --processes."""
    kept, skips = [], False
    for argument in arguments:
        if not skips and argument != "--processes" and not argument.startswith("--processes="):
            kept.append(argument)
        skips = argument == "--processes"
    return kept


def _report(arguments: Sequence[str]) -> int:
    """Write tables and figures of evaluations as one page."""
    parser = CommandParser(
        prog="python -m hart_studio.evaluation report",
        description=_report.__doc__,
        example="python -m hart_studio.evaluation report RUN --out report",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids of evaluations, in the order of the tables")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write (%(default)s)")
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder of all runs (%(default)s)")
    options = parser.parse_args(arguments)
    evaluations = [load_evaluation(find_run(options.runs_root, run_id)) for run_id in options.runs]
    print(f"wrote {write_report(evaluations, options.out)}")
    return 0


def _list(arguments: Sequence[str]) -> int:
    """List the evaluations of a folder of runs."""
    parser = CommandParser(
        prog="python -m hart_studio.evaluation list",
        description=_list.__doc__,
        example="python -m hart_studio.evaluation list --runs-root runs",
    )
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder of all runs (%(default)s)")
    for run in list_evaluations(parser.parse_args(arguments).runs_root):
        status = run.status
        try:
            config = read_config(run.layout)
            text = f"{config.benchmark:<18} {config.shown_title} ({', '.join(config.protocols)})"
        except HartError as error:
            text = str(error)
        done = f"{status.step}/{status.total}" if status else "-"
        print(f"{run.layout.run_id}  {run.state:<10} {done:>12}  {text}")
    return 0


COMMANDS: Final[dict[str, Subcommand]] = {
    "list": Subcommand(_list, "list the evaluations of a runs folder"),
    "report": Subcommand(_report, "write tables and figures of evaluations"),
}


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hart_studio.evaluation",
        example="python -m hart_studio.evaluation --benchmark needle --limit 20",
        description=__doc__,
        formatter_class=SubcommandHelpFormatter,
        epilog=f"{format_subcommands(COMMANDS)}\n\nSeveral processes or nodes: accelerate launch ... -m "
        "hart_studio.evaluation, with the\nruns folder on a shared disk.",
    )
    add = parser.add_argument
    add("--benchmark", choices=sorted(BENCHMARKS), default="needle", help="benchmark (%(default)s)")
    add(
        "--path", default="", help="file, folder or hub id (default: the published hub id; needle: generated questions)"
    )
    add("--image-root", default="", metavar="DIR", help="base folder of relative image paths")
    add(
        "--subset",
        dest="subsets",
        action="append",
        default=[],
        metavar="NAME",
        help="subset of Visual-CoT; repeatable (default: the paper's)",
    )
    add("--exclude", default="", metavar="PATH", help="Lite part to exclude from mme_realworld_train")
    add("--model", default=BUILT_IN_HART, metavar="ID", help="model folder or hub id (%(default)s)")
    add("--title", default="", help="name in tables (default: the model's name)")
    add(
        "--protocol",
        dest="protocols",
        action="append",
        choices=[*PROTOCOLS, ALL],
        help="evaluation protocol; repeatable (crops_only)",
    )
    add("--allow-dropped", action="store_true", help="evaluate although more than 1%% of the rows are invalid")
    add("--limit", type=int, metavar="N", help="evaluate only the first N questions")
    add("--processes", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    add("--resume", metavar="RUN", help="id of an evaluation to resume with its saved settings")
    add("--runs-root", type=Path, default=Path("runs"), help="folder of all runs (%(default)s)")
    add("--batch", type=int, default=16, help="questions in memory together (%(default)s)")
    add("--json", action="store_true", help="print the summary as one JSON object")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    add_quantization_option(parser)
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="precision (%(default)s)")
    loop = parser.add_argument_group("inference")
    fields = LoopSettings.model_fields
    loop.add_argument(
        "--overview-max-pixels", type=int, metavar="N", help="max pixels of the overview (default: the model's own)"
    )
    loop.add_argument(
        "--crop-max-pixels", type=int, metavar="N", help="max pixels of a crop (default: the model's own)"
    )
    loop.add_argument(
        "--padding",
        type=float,
        default=fields["padding"].default,
        help="margin around a box, as a share of its size (%(default)s)",
    )
    loop.add_argument("--max-boxes", type=int, default=fields["max_boxes"].default, help="max boxes (%(default)s)")
    loop.add_argument("--temperature", type=float, default=0.0, help="sampling temperature, 0 = greedy (%(default)s)")
    loop.add_argument(
        "--max-new-tokens",
        type=int,
        default=fields["max_new_tokens"].default,
        help="max new tokens per turn (%(default)s)",
    )
    loop.add_argument("--seed", type=int, default=0, help="sampling seed (%(default)s)")
    loop.add_argument(
        "--fallback",
        choices=["none", "direct"],
        default="none",
        help="without a valid box: none = no answer (wrong), direct = answer from the full image (%(default)s)",
    )
    add_served_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
