"""List, check and download models: ``python -m hart_studio.models list | check NAME | download NAME``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from hart_studio.errors import HartError
from hart_studio.files import replace_unencodable_output
from hart_studio.formatting import format_bytes
from hart_studio.hub.download import plan_download
from hart_studio.hub.download_progress import download_with_progress
from hart_studio.hub.repository import is_offline
from hart_studio.models.machine_memory import DeviceMemory, list_device_memory
from hart_studio.models.memory import ANSWER_TOKENS, CROPS, TEXT_TOKENS
from hart_studio.models.model_table import (
    MODEL_PATTERNS,
    NESTED,
    ModelRow,
    check_model,
    list_models,
    resolve_hub_id,
    to_json,
)
from hart_studio.progress import printable
from hart_studio.subcommands import CommandParser

_LOCATIONS = {"folder": "local folder", "cache": "yes", "partial": "incomplete", "hub": "no"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Args:
        argv: Arguments without the program's name; None = those of the process.

    Returns:
        0; 1 if the checked model is not supported or does not fit this machine, or a download failed; 2 for invalid
        arguments; 130 if it was interrupted.
    """
    replace_unencodable_output()
    flags = _build_parser().parse_args(argv)
    try:
        if flags.command == "list":
            return _list(flags)
        return _check(flags) if flags.command == "check" else _download(flags)
    except HartError as error:
        print(f"models: {' '.join(printable(str(error)).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("models: download canceled. Complete files are kept; repeat the command to continue.", file=sys.stderr)
        return 130


def _list(flags: argparse.Namespace) -> int:
    devices = list_device_memory()
    rows = list_models(devices)
    if flags.json:
        print(to_json(rows, devices))
        return 0
    table = [("NAME", "PARAMETERS", "LICENSE", "DOWNLOAD", "BF16", "8-BIT", "4-BIT", "IN CACHE", "FITS")]
    for row in rows:
        weights = {each.precision: format_bytes(each.weights_bytes) for each in row.precisions}
        table.append(
            (
                row.name, f"{row.parameters / 1e9:.2f} B", row.license or "see card", format_bytes(row.download_bytes),
                weights["bfloat16"], weights["8bit"], weights["4bit"], _LOCATIONS[row.location],
                ", ".join(row.fits) or "no",
            )
        )  # fmt: skip
    _print_table(table)
    print(f"\n{_describe_devices(devices)}\n{_describe_working_set()}")
    return 0


def _check(flags: argparse.Namespace) -> int:
    devices = list_device_memory()
    row = check_model(flags.name, devices)
    if flags.json:
        print(to_json([row], devices))
    else:
        _print_check(row, devices)
    return 0 if row.fits else 1


def _print_check(row: ModelRow, devices: Sequence[DeviceMemory]) -> None:
    print(f"model       {printable(row.model)}")
    print(f"family      {row.family} (supported)")
    print(f"parameters  {row.parameters:,}")
    print(f"license     {printable(row.license) or 'see the model card'}")
    print(f"in cache    {_LOCATIONS[row.location]}")
    if row.download_bytes:
        print(f"download    {format_bytes(row.download_bytes)}")
    print(f"images      {f'only {row.image_domain}' if row.image_domain else 'no limit known'}\n")
    table = [("PRECISION", "WEIGHTS", "WORKING SET", "TOTAL", "FITS")]
    for each in row.precisions:
        total = each.weights_bytes + each.working_set_bytes
        table.append(
            (
                each.precision, format_bytes(each.weights_bytes), format_bytes(each.working_set_bytes),
                format_bytes(total), ", ".join(each.fits) or "no",
            )
        )  # fmt: skip
    _print_table(table)
    print(f"\n{_describe_devices(devices)}\n{_describe_working_set()}")


def _download(flags: argparse.Namespace) -> int:
    hub_id = resolve_hub_id(flags.name)
    plan = plan_download(hub_id, patterns=MODEL_PATTERNS, excluded=NESTED, revision=flags.revision)
    if not plan.missing:
        print(f"{hub_id} is already in the local cache ({format_bytes(plan.total_bytes)}).")
        return 0
    print(
        f"{hub_id}: {len(plan.missing)} of {len(plan.files)} files, {format_bytes(plan.missing_bytes)} of "
        f"{format_bytes(plan.total_bytes)}; {format_bytes(plan.free_bytes)} are free"
    )
    folder = download_with_progress(plan)
    print(f"{hub_id} is in {folder}")
    return 0


def _describe_devices(devices: Sequence[DeviceMemory]) -> str:
    parts = [
        f"{each.device} ({each.title}): {'unknown' if each.free_bytes is None else format_bytes(each.free_bytes)} free"
        for each in devices
    ]
    return "; ".join([*parts, *(["downloads are disabled (HF_HUB_OFFLINE)"] if is_offline() else [])])


def _describe_working_set() -> str:
    return (
        f"FITS: the weights and the working set of one question: its largest images (up to {CROPS} crops), "
        f"{TEXT_TOKENS} prompt tokens and {ANSWER_TOKENS} answer tokens. On at least one of these devices. "
        "8 and 4 bits need bitsandbytes, and --quantization of the command that loads the model."
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class _Parser(CommandParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"models: {message}; see --help\n")


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m hart_studio.models",
        description="List, check and download vision-language models. Nothing is loaded.",
        example="python -m hart_studio.models check qwen2.5-vl-3b",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    example = "python -m hart_studio.models"
    listing = commands.add_parser(
        "list", example=f"{example} list --json", help="models of the catalog, and which of them fit this machine"
    )
    check = commands.add_parser(
        "check",
        example=f"{example} check qwen2.5-vl-3b",
        help="family, memory by precision and image domain of one model",
    )
    check.add_argument("name", metavar="NAME", help="name of the catalog, Hub id, or folder")
    for each in (listing, check):
        each.add_argument("--json", action="store_true", help="print one JSON object")
    download = commands.add_parser(
        "download", example=f"{example} download qwen2.5-vl-3b", help="download a model into the local cache"
    )
    download.add_argument("name", metavar="NAME", help="name of the catalog, or Hub id")
    download.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: the newest)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
