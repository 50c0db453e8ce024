"""List, download and check data sets: ``python -m hart_studio.data list | download NAME | check PATH``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hart_studio.data.benchmarks.catalog import BENCHMARKS, Benchmark, get_benchmark
from hart_studio.data.benchmarks.images import image_cache_folder
from hart_studio.data.benchmarks.published_counts import get_facts
from hart_studio.data.benchmarks.published_files import download_folder
from hart_studio.data.dataset_check import check_dataset, guess_benchmark
from hart_studio.errors import HartError, InputError
from hart_studio.files import replace_unencodable_output
from hart_studio.formatting import format_bytes
from hart_studio.subcommands import CommandParser

UNUSABLE: Final = 1
BAD_INPUT: Final = 2
_UNKNOWN: Final = "see its card"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 = done; 1 = more than 1 % of the rows are dropped, nothing could be read, or the download failed; 2 = invalid
        arguments; 130 = interrupted.
    """
    replace_unencodable_output()
    options = _build_parser().parse_args(argv)
    commands = {"list": _list, "download": _download, "check": _check}
    try:
        return commands[options.command](options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (HartError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("Interrupted. Complete files are kept. Repeat the command to continue.", file=sys.stderr)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hart_studio.data",
        description=__doc__,
        example="python -m hart_studio.data check data/TreeBench.tsv",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        line = f"python -m hart_studio.data {name}{example}"
        return commands.add_parser(name, help=text, description=text, example=line)

    add_list = add("list", "list the data sets", " --json")
    download = add("download", "download a data set from the Hub; repeat it to resume", " treebench")
    download.add_argument("name", metavar="NAME", help="name from the list")
    check = add("check", "read all rows, and compare with the published numbers", " data/TreeBench.tsv")
    check.add_argument("path", metavar="PATH", help="file or folder, or a name from the list for its downloaded files")
    check.add_argument("--benchmark", choices=sorted(BENCHMARKS), help="format of the rows (default: detected)")
    check.add_argument("--image-root", type=Path, metavar="DIR", help="base folder of relative image paths")
    check.add_argument("--limit", type=int, metavar="N", help="read only the first N rows")
    for each in (add_list, download, check):
        each.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _describe(benchmark: Benchmark) -> dict[str, str | int | bool | None]:
    facts = get_facts(benchmark.name)
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "hub_id": benchmark.hub_id,
        "questions": benchmark.expected,
        "has_boxes": benchmark.has_boxes,
        "size": facts.size,
        "license": facts.license,
    }


def _list(options: argparse.Namespace) -> int:
    found = [_describe(benchmark) for benchmark in BENCHMARKS.values()]
    if options.json:
        print(json.dumps({"data_sets": found}))
        return 0
    rows = [("name", "questions", "boxes", "size", "license", "hub id")]
    rows += [
        (
            str(each["name"]),
            f"{each['questions']:,}" if each["questions"] else "-",
            "yes" if each["has_boxes"] else "no",
            str(each["size"] or "-"),
            str(each["license"] or (_UNKNOWN if each["hub_id"] else "-")),
            str(each["hub_id"] or "-"),
        )
        for each in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _download(options: argparse.Namespace) -> int:
    from hart_studio.hub.download import plan_download  # noqa: PLC0415 - imports the Hub's library, which takes a second
    from hart_studio.hub.download_progress import download_with_progress  # noqa: PLC0415 - see above

    benchmark = get_benchmark(options.name)
    if not benchmark.hub_id:
        raise InputError(
            f"{benchmark.title} cannot be downloaded from the Hub by this command. See docs/evaluation.md."
        )
    folder = download_folder(benchmark.hub_id, image_cache_folder(benchmark.name))
    plan = plan_download(benchmark.hub_id, "dataset", patterns=benchmark.files, folder=folder)
    card = plan.repository.license or get_facts(benchmark.name).license or _UNKNOWN
    about = f"{benchmark.hub_id}: {len(plan.files)} files, {format_bytes(plan.total_bytes)}, license: {card}"
    print(about, file=sys.stderr if options.json else sys.stdout, flush=True)
    path = download_with_progress(plan)
    if options.json:
        print(json.dumps({"name": benchmark.name, "folder": str(path), "bytes": plan.total_bytes, "license": card}))
    else:
        print(f"done: {path}")
        print(f"check: python -m hart_studio.data check {benchmark.name}")
    return 0


def _check(options: argparse.Namespace) -> int:
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit is {options.limit}. Pass at least 1.")
    path = options.path
    if path in BENCHMARKS and not Path(path).exists():
        name, path = path, str(download_folder(BENCHMARKS[path].hub_id, image_cache_folder(path)))
        if not Path(path).is_dir():
            raise InputError(f"{name} is not downloaded. Run: python -m hart_studio.data download {name}")
    else:
        name = options.benchmark or guess_benchmark(path, options.image_root)
    found = check_dataset(name, path, image_root=options.image_root, limit=options.limit)
    print(found.model_dump_json() if options.json else "\n".join(found.lines()))
    return 0 if found.is_usable else UNUSABLE


if __name__ == "__main__":
    raise SystemExit(main())
