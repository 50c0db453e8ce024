"""Grounding labels from questions and answers: ``python -m hart_studio.labeling create|import|run|export|...``.

One file because it is one command: every subcommand with its options.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final, get_args

from pydantic import ValidationError

from hart_studio.data.sources import load_jsonl
from hart_studio.errors import HartError, InputError
from hart_studio.files import replace_unencodable_output, write_atomically
from hart_studio.formatting import list_reasons
from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.calibrate import (
    TARGET_PRECISION,
    describe_calibration,
    evaluate_proposals,
    infer_calibration_domain,
    is_evaluated_proposal,
    make_calibration,
    select_gold_samples,
)
from hart_studio.labeling.calibration import is_calibration, load_calibration, save_calibration
from hart_studio.labeling.calibration_lookup import CALIBRATION, get_calibration
from hart_studio.labeling.export_loss import preview_export
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_project
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.importing import import_source
from hart_studio.labeling.job import LabelingConfig, delete_missing_run, prepare_run, read_config, run_labeling
from hart_studio.labeling.project import Project, ProjectSettings
from hart_studio.labeling.project_commands import add_project_commands
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.project_locks import reserve_start
from hart_studio.labeling.records import DEFAULT_CLASS, USABLE_STATUSES, ItemFilter, Status
from hart_studio.labeling.report import write_report
from hart_studio.labeling.run_results import summarize_run
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.labeling.sources import KINDS, SourceSettings
from hart_studio.models.catalog import BUILT_IN_HART, resolve_model_name
from hart_studio.models.model_identity import identify_model
from hart_studio.models.model_loading import load_chat_model
from hart_studio.models.quantization import add_quantization_option
from hart_studio.models.served_settings import add_served_options, describe_endpoint, read_served
from hart_studio.outputs import check_output
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.progress import ProgressReporter
from hart_studio.runs.layout import find_run
from hart_studio.runs.reader import list_runs
from hart_studio.runs.writer import RUN_VARIABLE, removing_empty_run
from hart_studio.subcommands import CommandParser

FAILED: Final = 1
BAD_INPUT: Final = 2
_MAX_REASONS: Final = 8

Command = Callable[[argparse.Namespace], int | None]
"""Run a subcommand with its parsed options; returns an exit code, None = 0."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        0 = done, or stopped by its stop file; 1 = a labeling run failed on every item; 2 = invalid input, or an import
            without a valid row; 130 = interrupted.
    """
    replace_unencodable_output()
    options = _build_parser().parse_args(argv)
    command: Command = options.command
    try:
        return command(options) or 0
    except HartError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except ValidationError as error:
        first = error.errors()[0]
        print(f"error: {'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg']}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.strerror or error}. Saved results are kept.", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("Interrupted. Saved results are kept. Continue a run with --resume RUN.", file=sys.stderr)
        return 130


def _create(options: argparse.Namespace) -> None:
    settings = ProjectSettings(
        seed=options.seed,
        audit_share=options.audit_share,
        double_review_share=options.double_review_share,
        classes=tuple(options.box_class) or (DEFAULT_CLASS,),
    )
    project = create_project(options.project, options.name, settings)
    print(f"created {project.name!r} in {project.folder}")


def _import(options: argparse.Namespace) -> int:
    project = Project(options.project)
    settings = SourceSettings(
        kind=options.kind,
        columns=dict(_split_pair(pair) for pair in options.column),
        image_root=options.image_root,
        question=options.question,
        choices=tuple(options.choice),
        split=options.split,
        config=options.config,
    )
    with ProgressReporter("row") as progress:

        def show(done: int, total: int) -> None:
            progress.set_total(total)
            progress.update(done)

        progress.set_phase("reading the source")
        report = import_source(project, options.source, settings, show)
    print(report.describe())
    for line in list_reasons(report.reasons, _MAX_REASONS, lambda reason, count: f"{count} x {reason}"):
        print(f"  {line}")
    return BAD_INPUT if report.invalid_count and not report.added + report.updated + report.known else 0


def _run(options: argparse.Namespace) -> int:
    project = Project(options.project)
    run_id = options.resume or os.environ.get(RUN_VARIABLE)
    if run_id:
        layout = find_run(project.runs, run_id)
        read_config(layout)
        if run_id != os.environ.get(RUN_VARIABLE):  # the page checked this before it started the process
            with reserve_start(project, run_id):
                pass
    else:
        with reserve_start(project):
            layout = prepare_run(project, _read_config(options))
    notes_stream = sys.stderr if options.json else sys.stdout
    print(f"run: {layout.folder}", file=notes_stream, flush=True)
    config = read_config(layout)
    if config.served is not None:
        print(describe_endpoint(config.served), file=notes_stream, flush=True)
    notes = config.describe_score_basis(project)
    messages = (*(f"WARNING: {text}" for text in notes.warnings), *(f"note: {text}" for text in notes.cautions))
    for line in (notes.basis, *messages):
        if line:
            print(line, file=notes_stream, flush=True)  # before the model loads: the user can still change the settings
    try:
        with nullcontext() if run_id else removing_empty_run(layout, _report_removal):
            run_labeling(layout, load_chat_model, ProgressReporter("item", shown=("auto_accepted", "failed")))
    finally:
        delete_missing_run(project, layout)
    summary = summarize_run(project, layout.run_id)
    print(summary.model_dump_json() if options.json else "\n".join(summary.lines()))
    return FAILED if summary.has_only_failures else 0


def _report_removal(text: str) -> None:
    print(text, file=sys.stderr)


def _read_config(options: argparse.Namespace) -> LabelingConfig:
    loop = LoopSettings(
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        overview_max_pixels=options.overview_max_pixels,
    )
    refinement = BoxRefinementSettings() if options.refine_boxes else None
    served = read_served(options)
    return LabelingConfig(
        model=served.title if served else options.model,
        served=served,
        device=options.device,
        quantization=options.quantization,
        proposals=ProposalSettings(rollouts=options.rollouts, loop=loop, refinement=refinement),
        seed=options.seed,
        batch=options.batch,
        auto_accept=not options.no_auto_accept,
        item_filter=ItemFilter(statuses=tuple(options.status or ("new", "failed"))),
    )


def _stats(options: argparse.Namespace) -> None:
    project = Project(options.project)
    tables: dict[str, Mapping[str, object]] = {
        "statuses": project.count_by("status"),
        "evidence": project.count_by("evidence"),
        "scores": {
            "calibrated": project.count(ItemFilter(min_score=0.0)),
            "uncalibrated": project.count(ItemFilter(is_uncalibrated=True)),
        },
        "reviewers": {name: count for name, count in project.count_by("reviewer").items() if name},
        "runs": {run.layout.run_id: run.state for run in list_runs(project.runs)},
    }
    if options.json:
        print(json.dumps({"name": project.name, "items": project.count(), **tables}, indent=2))
        return
    print(f"{project.name}: {project.count()} items")
    for name, table in tables.items():
        for key, value in table.items():
            print(f"  {name:<10}{key:<40}{value}")


def _report(options: argparse.Namespace) -> None:
    project = Project(options.project)
    calibration = load_calibration(options.calibration) if options.calibration else None
    write_report(project, options.out, calibration)
    print(f"wrote {options.out}")


def _export(options: argparse.Namespace) -> None:
    project = Project(options.project)
    chosen = ExportOptions(
        statuses=tuple(options.status or USABLE_STATUSES),
        min_score=options.min_score,
        splits=dict(zip(("train", "val", "test"), options.splits, strict=True)),
        images="reference" if options.reference_images else "copy",
        classes=project.settings.classes,
        box_class=options.box_class,
    )
    preview = preview_export(project, options.format, chosen)
    for loss in preview.losses:
        print(f"  loss: {loss.text}")
    if options.dry_run:
        for reason, count in preview.excluded.items():
            print(f"  {count} excluded: {reason}")
        return
    with ProgressReporter("item") as progress:
        progress.set_phase("writing and verifying")
        report = export_project(project, options.format, options.out, chosen)
    images = ", ".join(f"{count} {split}" for split, count in report.images.items())
    print(f"{report.items} questions, {report.boxes} boxes on {images} images in {report.folder}; files verified")
    for reason, count in report.excluded.items():
        print(f"  {count} excluded: {reason}")
    for note in report.notes:
        print(f"  {note}")


def _calibrate(options: argparse.Namespace) -> None:
    check_output(options.out, "a calibration", is_calibration)
    if options.records:
        check_output(options.records, "a file of calibration records", is_evaluated_proposal)
    if options.quantization != "none":
        raise InputError("A calibration is for unquantized weights. Remove --quantization.")
    served = read_served(options)
    if served is not None:
        print(describe_endpoint(served), flush=True)
    name = served.title if served else resolve_model_name(options.model)
    if not 0 < options.target_precision < 1:
        raise InputError(f"--target-precision must be above 0 and below 1, got {options.target_precision:g}.")
    samples, excluded = select_gold_samples(load_jsonl(options.data / "samples.jsonl"))
    for reason, count in excluded.items():
        print(f"  {count} excluded: {reason}", flush=True)
    settings = ProposalSettings(
        rollouts=options.rollouts,
        loop=LoopSettings(temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed),
        refinement=BoxRefinementSettings() if options.refine_boxes else None,
    )
    domain = infer_calibration_domain(samples, samples[0].source, settings)
    records = []
    with ProgressReporter("question", len(samples)) as progress:
        progress.set_phase("loading the model")
        model = load_chat_model(name, options.device, served=served)
        progress.begin()
        for batch in evaluate_proposals(model, samples, settings, options.batch):
            records += batch
            progress.update(len(records) // 2)
    if options.records:
        write_atomically(options.records, "".join(f"{record.model_dump_json()}\n" for record in records))
    calibration, shortages = make_calibration(
        records,
        model=identify_model(name),
        data=f"{domain.images or 'gold boxes'}, {len(samples)} questions of {options.data.resolve().name}",
        domain=domain,
        settings=settings,
        target_precision=options.target_precision,
    )
    save_calibration(options.out, calibration)
    print(describe_calibration(calibration))
    for kind, reason in shortages.items():
        print(f"{kind}: uncalibrated. {reason}")
    unscored = sum(record.example is None for record in records)
    print(f"{len(records):,} proposals for {len(samples):,} questions, {unscored:,} of them failed or without a box")
    print(f"wrote {options.out}")


def _serve_ml_backend(options: argparse.Namespace) -> None:
    from hart_studio.labeling.ml_backend import images, server  # noqa: PLC0415 - only this command needs a web server

    credentials = server.read_credentials(os.environ, options.host)
    token = os.environ.get("LABEL_STUDIO_API_KEY", "")
    loader = images.make_image_loader(options.image_root, options.label_studio_url, token)
    name = resolve_model_name(options.model)
    settings = ProposalSettings(
        rollouts=options.rollouts,
        loop=LoopSettings(temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed),
    )
    calibration = get_calibration(name, Path(name)) if options.quantization == "none" else None
    if calibration is None:
        print("No calibration found for this model. Predictions have no score.")
    model = load_chat_model(name, options.device, quantization=options.quantization)
    backend = server.HartBackend(model, identify_model(name).name, loader, settings, calibration)
    server.serve(server.build_app(backend, credentials), options.host, options.port)


def _split_pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise InputError(f"Invalid --column {text!r}. Write FIELD=COLUMN, such as image=photo.")
    return name.strip(), value.strip()


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hart_studio.labeling",
        description=__doc__,
        example="python -m hart_studio.labeling create labels/signs",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, example: str) -> argparse.ArgumentParser:
        line = f"python -m hart_studio.labeling {name} {example}"
        sub = commands.add_parser(name, help=text, description=text, example=line)
        sub.set_defaults(command=command)
        return sub

    create = add("create", _create, "create an empty project", "labels/signs --name Signs")
    create.add_argument("project", type=Path, help="project folder")
    create.add_argument("--name", default="", help="display name (default: the folder's name)")
    create.add_argument("--seed", type=int, default=0, help="seed of the audit and double-review samples (%(default)s)")
    create.add_argument(
        "--audit-share", type=float, default=0.1, help="share of auto-accepted labels to audit (%(default)s)"
    )
    create.add_argument(
        "--double-review-share", type=float, default=0.0, help="share of items that two people review (%(default)s)"
    )

    create.add_argument(
        "--class",
        dest="box_class",
        action="append",
        default=[],
        metavar="NAME",
        help=f"class of exported boxes; repeatable, the first is the default ({DEFAULT_CLASS})",
    )

    add_project_commands(add)

    source = add(
        "import",
        _import,
        "import questions and images; rows already in the project are skipped",
        "labels/signs questions.jsonl",
    )
    source.add_argument("project", type=Path, help="project folder")
    source.add_argument("source", help="table, folder or zip of images, labels of another tool, or hub id")
    source.add_argument(
        "--kind",
        choices=KINDS,
        default="auto",
        help="type of the source (%(default)s): questions = JSONL in the form of HART Studio, table = JSONL, CSV, "
        "TSV, JSON or Parquet with any columns, native = export of HART Studio, "
        "grounded_chat = conversations with boxes; others by their names",
    )
    source.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="override the detected column of a field; repeatable",
    )
    source.add_argument("--image-root", type=Path, help="base folder of relative image paths")
    source.add_argument(
        "--question",
        default="",
        help="question template: per image with {name} and {folder}, or per box with {label}",
    )
    source.add_argument(
        "--choice", action="append", default=[], metavar="TEXT", help="answer option of that question; repeatable"
    )
    source.add_argument("--split", help="split of a hub dataset")
    source.add_argument("--config", help="configuration of a hub dataset")

    run = add("run", _run, "propose boxes, verify them, auto-accept confident labels", "labels/signs --rollouts 8")
    run.add_argument("project", type=Path, help="project folder")
    run.add_argument("--resume", metavar="RUN", help="run id to resume with its saved settings")
    run.add_argument(
        "--status",
        action="append",
        choices=get_args(Status),
        help="label items of this status instead of new and failed; repeatable",
    )
    run.add_argument("--batch", type=int, default=16, help="items per batch (%(default)s)")
    run.add_argument("--refine-boxes", action="store_true", help="shrink boxes while their crops still give the answer")
    run.add_argument("--no-auto-accept", action="store_true", help="disable auto-accept")
    run.add_argument(
        "--overview-max-pixels", type=int, metavar="N", help="max pixels of the overview (default: the model's own)"
    )
    run.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    _add_model(run)
    add_served_options(run)

    stats = add("stats", _stats, "print counts of a project", "labels/signs --json")
    stats.add_argument("project", type=Path, help="project folder")
    stats.add_argument("--json", action="store_true", help="print JSON")

    report = add("report", _report, "write a label quality report as one HTML file", "labels/signs report.html")
    report.add_argument("project", type=Path, help="project folder")
    report.add_argument("out", type=Path, help="output file")
    report.add_argument("--calibration", type=Path, help="calibration file whose reliability diagrams are shown")

    export = add(
        "export", _export, "export labels for other tools and verify the files", "labels/signs out --format coco"
    )
    export.add_argument("project", type=Path, help="project folder")
    export.add_argument("out", type=Path, help="output folder")
    export.add_argument(
        "--format",
        choices=[name for name, info in FORMATS.items() if info.save],
        default="native",
        help="export format (%(default)s)",
    )
    export.add_argument(
        "--status",
        action="append",
        choices=get_args(Status),
        help="export labels of this status; repeatable (default: auto_accepted, accepted, edited)",
    )
    export.add_argument("--min-score", type=float, help="minimum score; applies only to labels without a review")
    export.add_argument(
        "--splits",
        type=float,
        nargs=3,
        default=(0.8, 0.1, 0.1),
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits (0.8 0.1 0.1)",
    )
    export.add_argument("--reference-images", action="store_true", help="reference images instead of copying them")
    export.add_argument("--class", dest="box_class", default="", metavar="NAME", help="one class for all boxes")
    export.add_argument("--dry-run", action="store_true", help="print what the format cannot hold, and write nothing")

    calibrate = add(
        "calibrate",
        _calibrate,
        "calibrate the scores of a model on gold boxes",
        "--data needle-val --out calibration.json",
    )
    calibrate.add_argument("--data", type=Path, required=True, help="folder with samples.jsonl that has gold boxes")
    calibrate.add_argument("--refine-boxes", action="store_true", help="calibrate for runs with --refine-boxes")
    calibrate.add_argument("--out", type=Path, default=Path(CALIBRATION), help="output file (%(default)s)")
    calibrate.add_argument(
        "--records",
        type=Path,
        help="output file, one line per label: its evidence, and whether it matches the gold boxes",
    )
    calibrate.add_argument("--batch", type=int, default=16, help="questions per batch (%(default)s)")
    calibrate.add_argument(
        "--target-precision",
        type=float,
        default=TARGET_PRECISION,
        help="target precision of auto-accepted labels, in (0, 1) (%(default)s)",
    )
    _add_model(calibrate)
    add_served_options(calibrate)

    backend = add(
        "serve-ml-backend", _serve_ml_backend, "run a Label Studio ML backend", "--image-root images --port 9090"
    )
    backend.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to bind; any other than localhost requires BASIC_AUTH_USER and BASIC_AUTH_PASS (%(default)s)",
    )
    backend.add_argument("--port", type=int, default=9090, help="port (%(default)s)")
    backend.add_argument("--image-root", type=Path, metavar="DIR", help="folder of images that tasks may refer to")
    backend.add_argument(
        "--label-studio-url",
        default="",
        metavar="URL",
        help="Label Studio server that serves images, as http://HOST:PORT",
    )
    _add_model(backend)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=BUILT_IN_HART, metavar="NAME", help="model folder or hub id (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    add_quantization_option(parser)
    parser.add_argument("--rollouts", type=int, default=8, metavar="K", help="rollouts per question (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="sampling temperature of the rollouts (%(default)s)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, help="max new tokens per turn (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed of the rollouts (%(default)s)")


if __name__ == "__main__":
    raise SystemExit(main())
