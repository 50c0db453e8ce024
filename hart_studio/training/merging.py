"""Merge trained adapters into their base model: ``python -m hart_studio.training merge RUN_OR_FOLDER --out DIR``.

The output is a complete model in Hugging Face format, which needs neither the base model nor PEFT.
With ``--dtype``, a fully trained model can be converted too: training keeps its weights in float32, and bfloat16 is
half the size.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from transformers import AutoConfig

from hart_studio.errors import HartError, InputError
from hart_studio.models.devices import DTYPES
from hart_studio.models.loading import load_model
from hart_studio.progress import ProgressReporter
from hart_studio.runs.layout import find_run, is_run_id
from hart_studio.subcommands import CommandParser
from hart_studio.training.initial_model import ADAPTER_FILE
from hart_studio.training.train import MODEL_FOLDER

_KEPT: Final = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the merge command.

    Args:
        argv: Arguments without the program's name and ``merge``; None = those of the process.

    Returns:
        0 = written; 2 = nothing to merge, or the folder cannot be written.
    """
    options = _parse(argv)
    try:
        folder = find_trained_model(options.source, options.runs_root, allows_whole=options.dtype != _KEPT)
        with ProgressReporter() as progress:
            merge_adapter(folder, options.out, options.dtype, progress.set_phase)
    except HartError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"merged: {options.out}\n")
    return 0


def find_trained_model(source: str, runs_root: Path, *, allows_whole: bool = False) -> Path:
    """Find the folder with the trained adapters, or with a fully trained model.

    Args:
        source: Id of a run, its folder, its ``model`` folder, or one of its checkpoints.
        runs_root: Folder of all runs, for an id.
        allows_whole: Whether to accept a fully trained model.

    Raises:
        InputError: If there are no adapters.
    """
    folder = find_run(runs_root, source).folder if is_run_id(source) else Path(source)
    folder = folder / MODEL_FOLDER if (folder / MODEL_FOLDER).is_dir() else folder
    if (folder / ADAPTER_FILE).is_file():
        return folder
    if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
        if allows_whole:
            return folder
        raise InputError(
            f"{folder} is a complete model without adapters. Use it directly, or convert its precision with --dtype."
        )
    raise InputError(
        f"{source} is neither a completed run nor a folder with {ADAPTER_FILE}. For an unfinished run, "
        "give one of its checkpoints."
    )


def merge_adapter(
    adapter: Path, out: Path, dtype: str = _KEPT, set_phase: Callable[[str], object] = lambda phase: None
) -> None:
    """Merge the adapters into the base model, and save it with its processor.

    Merging is done in float32 on the CPU, with one rounding.

    Args:
        adapter: Folder of the adapters, which names their base model; or of a complete model, to convert its precision.
        out: New or empty folder; on failure it is removed.
        dtype: Precision (dtype) of the output: one of ``DTYPES``; ``auto`` = the base model's, for adapters only.
        set_phase: Called with the current activity.

    Raises:
        InputError: If the folder is not empty, or cannot be written.
        ModelError: If base model and adapters cannot be loaded, or do not fit in memory.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"The output folder {out} is not empty. Choose another one.")
    set_phase("loading the base model and the adapters")
    loaded = load_model(str(adapter), device="cpu", dtype="float32")
    model = loaded.model
    if dtype == _KEPT:
        base = AutoConfig.from_pretrained(model.config._name_or_path, trust_remote_code=False, local_files_only=True)
        model.to(base.dtype)
    else:
        model.to(DTYPES[dtype])
    set_phase("writing the merged model")
    draft = out.absolute().with_name(f".{out.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        model.save_pretrained(draft)
        loaded.processor.save_pretrained(draft)
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise InputError(f"Cannot write to {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m hart_studio.training merge",
        example="python -m hart_studio.training merge RUN --out merged",
        description="Merge trained adapters into their base model, or convert a model to another precision.",
    )
    parser.add_argument("source", metavar="RUN_OR_FOLDER", help="id or folder of a run, or a folder with adapters")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder of all runs (default: ./runs)")
    parser.add_argument(
        "--dtype",
        choices=(_KEPT, *DTYPES),
        default=_KEPT,
        help="precision (dtype) of the result; auto = that of the base model",
    )
    return parser.parse_args(argv)
