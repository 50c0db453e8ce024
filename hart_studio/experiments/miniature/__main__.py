"""The paper's study in miniature: ``python -m hart_studio.experiments.miniature``; restart to resume."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hart_studio.errors import HartError, InputError
from hart_studio.evaluation.statistics import RESAMPLES
from hart_studio.experiments.miniature.report import check_report, write_report
from hart_studio.experiments.miniature.study import run_study
from hart_studio.experiments.miniature.study_folder import StudyFolder, load_results
from hart_studio.experiments.miniature.variants import (
    FULL,
    QUICK,
    QUICK_VARIANTS,
    VARIANTS,
    StudyVariant,
    select_variants,
)
from hart_studio.subcommands import CommandParser

_FULL_REPORT: Final = Path("docs/results/miniature.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and write its report.

    Args:
        argv: Command-line arguments; None = ``sys.argv[1:]``.

    Returns:
        0 = all variants are complete; 1 = a variant failed, see the report; 2 = invalid settings; 130 =
        interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    options = _parse(argv)
    try:
        if options.seeds < 1 or options.jobs < 1:
            raise InputError(f"expected seeds and jobs of at least 1, got {options.seeds} and {options.jobs}")
        check_report(options.report)
        size = QUICK if options.quick else FULL
        names = options.variants.split(",") if options.variants else (QUICK_VARIANTS if options.quick else VARIANTS)
        variants = select_variants(names)
        model = str(Path(options.model).resolve()) if Path(options.model).is_dir() and options.model else options.model
        study = StudyFolder(options.out.resolve(), size, model)
        code = _run(options, argv, study, variants)
    except HartError as error:
        _print_line(f"error: {error}")
        return 2
    return code


def _run(options: argparse.Namespace, argv: Sequence[str], study: StudyFolder, variants: Sequence[StudyVariant]) -> int:
    try:
        statuses = run_study(study, variants, options.seeds, options.jobs, _print_line)
        code = 1 if {"failed", "skipped"} & set(statuses.values()) else 0
    except KeyboardInterrupt:
        _print_line("interrupted; run the same command to resume")
        code = 130
    results = load_results(study, variants, options.seeds, RESAMPLES)
    command = shlex.join(["python", "-m", "hart_studio.experiments.miniature", *argv])
    write_report(options.report, results, study.config, command, options.jobs)
    _print_line(f"report: {options.report}")
    return code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m hart_studio.experiments.miniature",
        description=__doc__,
        example="python -m hart_studio.experiments.miniature --quick",
    )
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ...; default 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="fewer models, steps and questions: about 20 minutes")
    parser.add_argument("--variants", help=f"train only these and their parents: {','.join(VARIANTS)}")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="number of concurrent models (default: number of cores)"
    )
    parser.add_argument("--model", default="", help="folder of the initial model (default: built-in)")
    parser.add_argument(
        "--out", type=Path, help="folder of the study (default: runs/miniature, or runs/miniature-quick)"
    )
    parser.add_argument(
        "--report", type=Path, help=f"report file (default: {_FULL_REPORT}; with --quick: miniature.md in --out)"
    )
    options = parser.parse_args(argv)
    options.out = options.out or Path("runs/miniature-quick" if options.quick else "runs/miniature")
    options.report = options.report or (options.out / _FULL_REPORT.name if options.quick else _FULL_REPORT)
    options.seeds = (1 if options.quick else 3) if options.seeds is None else options.seeds
    return options


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
