"""Evaluations read back from their run directories; nothing here runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from hart_studio.errors import InputError
from hart_studio.evaluation.config import read_config
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.job import DATASET_INFO_FILE, DatasetInfo
from hart_studio.evaluation.shards import ShardReader
from hart_studio.files import read_regular_file
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.reader import RunSummary, list_runs


def list_evaluations(runs_root: Path) -> list[RunSummary]:
    """The evaluations below a root, newest first; runs of other kinds are left out."""
    return [run for run in list_runs(runs_root) if is_evaluation(run)]


def is_evaluation(run: RunSummary) -> bool:
    """Whether a run is one; what cannot be read is none."""
    return run.status is not None and run.status.job == "evaluation"


def is_unreadable(run: RunSummary) -> bool:
    """Whether a run was made as an evaluation, which its id says, and its status cannot be read any more."""
    return run.status is None and "-evaluation-" in run.layout.run_id


def load_evaluations(runs_root: Path, run_ids: Sequence[str]) -> list[Evaluation]:
    """Evaluations by their ids, in that order.

    Raises:
        InputError: If one is not there, or is no evaluation.
        DataError: If its records cannot be read.
    """
    return [load_evaluation(find_run(runs_root, run_id)) for run_id in run_ids]


def load_evaluation(layout: RunLayout) -> Evaluation:
    """What an evaluation has measured so far.

    Raises:
        InputError: If it is no evaluation, or has not begun.
        DataError: If its records cannot be read.
    """
    config = read_config(layout)
    asked = read_dataset_info(layout)
    shards = ShardReader(layout)
    shards.poll()
    # The same order whatever process was first.
    records = sorted(shards.found.values(), key=lambda record: record.sample_id)
    date = layout.run_id[:8]
    return Evaluation(
        run_id=layout.run_id,
        title=config.shown_title,
        model=config.served.title if config.served else config.model,
        benchmark=config.benchmark,
        protocols=config.protocols,
        date=f"{date[:4]}-{date[4:6]}-{date[6:]}",
        records=tuple(records),
        total=asked.samples,
        is_complete=len(records) >= asked.samples,
        left_out=asked.invalid_count,
    )


def read_dataset_info(layout: RunLayout) -> DatasetInfo:
    """What an evaluation asks, and what it had to leave out.

    Raises:
        InputError: If it has not got that far.
    """
    try:
        return DatasetInfo.model_validate_json(read_regular_file(layout.folder / DATASET_INFO_FILE))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"The evaluation {layout.run_id} has not read its questions yet. Wait, or check its log."
        ) from error
