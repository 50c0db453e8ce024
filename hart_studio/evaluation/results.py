"""Load evaluations from their run directories, without running a model."""

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
    """List the evaluations below a root, newest first, without other runs."""
    return [run for run in list_runs(runs_root) if is_evaluation(run)]


def is_evaluation(run: RunSummary) -> bool:
    """Whether a run is a readable evaluation."""
    return run.status is not None and run.status.job == "evaluation"


def is_unreadable(run: RunSummary) -> bool:
    """Whether a run is an evaluation by its id, but its status is unreadable."""
    return run.status is None and "-evaluation-" in run.layout.run_id


def load_evaluations(runs_root: Path, run_ids: Sequence[str]) -> list[Evaluation]:
    """Load evaluations by id, in that order.

    Raises:
        InputError: If a run does not exist or is no evaluation.
        DataError: If its records cannot be read.
    """
    return [load_evaluation(find_run(runs_root, run_id)) for run_id in run_ids]


def load_evaluation(layout: RunLayout) -> Evaluation:
    """Load the records of an evaluation.

    Raises:
        InputError: If it is no evaluation, or has not started.
        DataError: If its records cannot be read.
    """
    config = read_config(layout)
    asked = read_dataset_info(layout)
    shards = ShardReader(layout)
    shards.poll()
    # The order does not depend on the processes.
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
    """Read the dataset information of an evaluation.

    Raises:
        InputError: If it has not read its questions yet.
    """
    try:
        return DatasetInfo.model_validate_json(read_regular_file(layout.folder / DATASET_INFO_FILE))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"The evaluation {layout.run_id} has not read its questions yet. Wait, or check its log."
        ) from error
