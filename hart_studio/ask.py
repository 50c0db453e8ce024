"""Ask a question about an image from the command line: ``python -m hart_studio.ask IMAGE QUESTION``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hart_studio.errors import HartError, InputError
from hart_studio.files import replace_unencodable_output
from hart_studio.formatting import format_percent
from hart_studio.imaging import SourceImage
from hart_studio.models.catalog import BUILT_IN_MODEL, resolve_model_name
from hart_studio.models.model_loading import load_chat_model
from hart_studio.models.quantization import add_quantization_option
from hart_studio.pipeline.inference import ask_question, build_sample
from hart_studio.pipeline.settings import LoopSettings, read_settings
from hart_studio.pipeline.trace import Trace, check_trace_folder, render_images, save_trace, summarize_trace
from hart_studio.pipeline.verification import check_rollout_count, guess_probability
from hart_studio.progress import ProgressReporter, printable, shorten_to_line
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import PROTOCOLS, Rollout
from hart_studio.subcommands import CommandParser

BAD_INPUT = 2
"""Exit code for invalid input; the reason is one line on stderr."""


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the question and print the trace.

    Args:
        argv: Arguments without the program's name; None = those of the process.

    Returns:
        0 when the question was asked, whatever the answer; 2 for invalid input.
    """
    replace_unencodable_output()
    flags = _build_parser().parse_args(argv)
    try:
        sys.stdout.write(_run(flags) + "\n")
    except HartError as error:
        sys.stderr.write(f"ask: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    return 0


def _run(flags: argparse.Namespace) -> str:
    """Do everything except printing; the input is checked before the model is loaded."""
    settings = read_settings(
        **{name: value for name, value in vars(flags).items() if name in LoopSettings.model_fields}
    )
    build_sample(flags.image, flags.question, flags.choice, flags.answer)
    check_rollout_count(flags.rollouts, settings)
    if flags.save:
        check_trace_folder(flags.save)
        with _explain_write_errors(flags.save):
            flags.save.mkdir(parents=True, exist_ok=True)
    with SourceImage(flags.image) as image, ProgressReporter(is_brief=True) as progress:
        set_phase = _no_progress if flags.json else progress.set_phase
        set_phase("loading the model")
        trace = ask_question(
            load_chat_model(resolve_model_name(flags.model), flags.device, quantization=flags.quantization),
            flags.image,
            flags.question,
            flags.choice,
            flags.answer,
            flags.protocol or PROTOCOLS,
            settings,
            flags.rollouts,
            open_image=lambda _: image,
            progress=lambda _, text: set_phase(text),
        )
        if flags.save:
            with _explain_write_errors(flags.save):
                save_trace(trace, flags.save, render_images(trace, image))
    return json.dumps(summarize_trace(trace), indent=2) if flags.json else _describe(trace)


def _no_progress(phase: str) -> None:
    """Print no progress: with ``--json``, stderr contains errors only."""


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn a write failure into an ``InputError``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write the trace to {folder}: {error.strerror}. Choose another folder.") from error


def _describe(trace: Trace) -> str:
    """Format the trace as a short table."""
    image, model = trace.image, trace.model
    lines = [f"WARNING   {warning}" for warning in trace.warnings]
    lines += [
        f"image     {printable(image.name)}, {image.width} x {image.height}",
        f"model     {printable(model.name)} ({model.family})",
    ]
    if trace.grounded:
        lines += [
            f"region    [{', '.join(f'{edge:.0f}' for edge in box.xyxy)}]  "
            f"{format_percent(box.area / (image.width * image.height), 2)} of the image  "
            f"{printable(box.label)}".rstrip()
            for box in trace.boxes
        ] or [f"region    {_describe_missing_boxes(trace.grounded)}"]
    lines += ["", f"{'protocol':<16}{'answer':<28}{'right':<7}{'visual tokens':>13}{'seconds':>9}"]
    lines += [_describe_rollout(trace, rollout) for rollout in trace.protocols.values()]
    lines += [note for rollout in trace.protocols.values() if (note := _explain_missing_answer(rollout))]
    if trace.verification:
        check, chance = trace.verification, guess_probability(len(trace.choices))
        figures = {
            "correct from the crops": None if check.sufficiency is None else format_percent(check.sufficiency, 0),
            "necessary (masking test)": None if check.necessity is None else _yes_or_no(check.necessity),
            "mean IoU of the rollouts": None if check.consensus is None else f"{check.consensus:.2f}",
            "agreement": None if check.agreement is None else format_percent(check.agreement, 0),
            "chance of guessing": None if chance is None else format_percent(chance, 0),
            "area": None if check.area_share is None else f"{format_percent(check.area_share, 2)} of the image",
        }
        measured = [f"{name} {figure}" for name, figure in figures.items() if figure is not None]
        lines += ["", f"self-check  {', '.join(measured) or 'no measurements'}"]
    return "\n".join(lines)


def _describe_rollout(trace: Trace, rollout: Rollout) -> str:
    score = rollout.score
    answer = score.extracted or ("none readable" if rollout.outcome == "ok" else f"none (outcome: {rollout.outcome})")
    if score.extracted and trace.choices:
        answer = f"({answer}) {dict(zip(OPTION_LETTERS, trace.choices, strict=False))[answer]}"
    if rollout.used_fallback:
        answer = f"[full image] {answer}"
    right = "-" if score.value is None else _yes_or_no(score.value == 1.0)
    cost = f"{rollout.visual_tokens:>13,}{rollout.seconds:>9.2f}"
    return f"{rollout.protocol:<16}{shorten_to_line(answer, 26):<28}{right:<7}{cost}"


def _describe_missing_boxes(rollout: Rollout) -> str:
    reasons = {
        "no_box": "the model wrote no box",
        "bad_box": "the model wrote no valid box",
        "truncated": "the token limit cut the text off before a box",
        "error": rollout.error,
    }
    outcome = "" if rollout.outcome == "ok" else f" (outcome: {rollout.outcome})"
    reason = shorten_to_line(reasons.get(rollout.outcome, ""))
    return f"none predicted{outcome}" + (f": {reason}" if reason else "")


def _explain_missing_answer(rollout: Rollout) -> str:
    """Raw output if no answer was read, or why the model was not asked; empty if there is an answer."""
    if rollout.score.extracted:
        return ""
    if rollout.answer_turn is not None:
        return f"{rollout.protocol} wrote: {shorten_to_line(rollout.answer_turn.text, 100) or 'nothing'}"
    reason = "no box to crop, so the model was not asked (--fallback direct answers from the full image)"
    return f"{rollout.protocol}: {shorten_to_line(rollout.error) if rollout.error else reason}"


def _yes_or_no(is_so: bool) -> str:
    return "yes" if is_so else "no"


class _Parser(CommandParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"ask: {message}; see --help\n")


def _build_parser() -> argparse.ArgumentParser:
    defaults = LoopSettings()
    parser = _Parser(
        prog="python -m hart_studio.ask",
        description="Ask a question about a high-resolution image.",
        example='python -m hart_studio.ask assets/examples/3-dots.jpg "How many dots are on the white square?"',
    )
    parser.add_argument("image", metavar="IMAGE", help="path of the image")
    parser.add_argument("question", metavar="QUESTION", help="the question, without its choices")
    parser.add_argument("--choice", action="append", default=[], metavar="TEXT", help="answer option; repeatable")
    parser.add_argument("--answer", metavar="TEXT", help="correct answer, if known: a letter or the text of an option")
    parser.add_argument(
        "--model", default=BUILT_IN_MODEL, metavar="NAME", help="model folder or Hub id (default: built-in)"
    )
    parser.add_argument(
        "--protocol", action="append", choices=PROTOCOLS, help="what the answer turn sees; repeatable (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", type=Path, metavar="DIR", help="save the trace and its images in this folder")
    parser.add_argument(
        "--overview-max-pixels",
        type=int,
        metavar="N",
        help="maximum area of the overview in pixels (default: set by the model)",
    )
    parser.add_argument(
        "--padding",
        type=float,
        default=defaults.padding,
        metavar="SHARE",
        help="margin around a box, as a share of its size (%(default)s)",
    )
    parser.add_argument(
        "--max-boxes", type=int, default=defaults.max_boxes, metavar="N", help="max boxes (%(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        metavar="T",
        help="sampling temperature; 0 = greedy (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, metavar="N", help="random seed")
    parser.add_argument(
        "--rollouts", type=int, default=1, metavar="K", help="rollouts for the self-check (%(default)s)"
    )
    parser.add_argument(
        "--fallback",
        choices=("none", "direct"),
        default=defaults.fallback,
        help="if no region is valid: no answer, or an answer from the full image (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    add_quantization_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
