"""Distribution of questions to processes, and their record files: one per process, read by all.

Questions are assigned in batches, never one by one: a batch does not depend on its process, so the metrics do not
depend on the number of processes. The processes share only the run folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.records import SampleResult
from hart_studio.files import append_jsonl, open_regular_file, read_regular_file, write_json
from hart_studio.records import GoldSample
from hart_studio.runs.layout import RunLayout

RECORDS_FOLDER: Final = "records"
"""Folder of the run with the records."""

_SHARD_FILE: Final = re.compile(r"shard_\d{5}\.jsonl")


@dataclass(frozen=True)
class Shard:
    """Share of the work of one process.

    Attributes:
        rank: Number of the process, from 0; the first one reports for all.
        count: Number of processes.
        attempt: Number shared by all processes of an attempt and different between attempts: its start time in
            nanoseconds.
    """

    rank: int = 0
    count: int = 1
    attempt: int = field(default_factory=time.time_ns)

    @property
    def is_first(self) -> bool:
        """Whether this process writes shared files."""
        return self.rank == 0


def iterate_batches(samples: Sequence[GoldSample], batch: int, shard: Shard) -> Iterator[Sequence[GoldSample]]:
    """Batches of a process: every N-th batch for N processes."""
    for start in range(shard.rank * batch, len(samples), shard.count * batch):
        yield samples[start : start + batch]


def shard_path(layout: RunLayout, rank: int) -> Path:
    """Record file of a process."""
    return layout.folder / RECORDS_FOLDER / f"shard_{rank:05d}.jsonl"


def append_records(path: Path, records: Sequence[SampleResult]) -> None:
    """Append the records of a batch, after removing an incomplete last line left by a crash.

    Raises:
        OSError: If the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for record in records:
        append_jsonl(path, record.model_dump(mode="json"))


def write_worker_error(layout: RunLayout, shard: Shard, error: str) -> None:
    """Report that a process has ended early, so that the first process does not wait for it."""
    folder = layout.folder / RECORDS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"error_{shard.rank:05d}.json", {"attempt": shard.attempt, "error": error})


def read_worker_error(layout: RunLayout, shard: Shard) -> str:
    """Why another process of this attempt has ended early; empty if none has."""
    for path in sorted((layout.folder / RECORDS_FOLDER).glob("error_*.json")):
        try:
            end = json.loads(read_regular_file(path))
        except (OSError, ValueError):
            continue
        if isinstance(end, dict) and end.get("attempt") == shard.attempt:
            return str(end.get("error"))
    return ""


@dataclass
class ShardReader:
    """Reads the records of all processes while they are written; a poll reads only what is new.

    Attributes:
        layout: The run.
        attempt: Attempt whose errors count as done; None = read only.
        found: Question id -> record. An answer is never replaced by a failure.
    """

    layout: RunLayout
    attempt: int | None = None
    found: dict[str, SampleResult] = field(default_factory=dict)
    _offsets: dict[str, int] = field(default_factory=dict)

    def poll(self) -> list[SampleResult]:
        """Return the records since the last poll; an incomplete line is left for the next one.

        Raises:
            DataError: If a line is no record.
        """
        new = []
        folder = self.layout.folder / RECORDS_FOLDER
        for path in sorted(folder.glob("shard_*.jsonl")) if folder.is_dir() else ():
            if _SHARD_FILE.fullmatch(path.name) and not path.is_symlink():
                new += self._read(path)
        for record in new:
            known = self.found.get(record.sample_id)
            # Files are read in name order, so the last one is not necessarily the newest.
            if known is None or (known.error and not (record.error and known.attempt == self.attempt)):
                self.found[record.sample_id] = record
        return new

    def is_done(self, sample_id: str) -> bool:
        """Whether a question is done: it has an answer, cannot have one, or was asked in this attempt."""
        record = self.found.get(sample_id)
        return record is not None and not (record.is_model_error and record.attempt != self.attempt)

    def has_all(self, samples: Collection[GoldSample]) -> bool:
        """Whether all questions are done."""
        return all(self.is_done(sample.id) for sample in samples)

    @property
    def done(self) -> int:
        """Number of questions that are done."""
        return sum(self.is_done(name) for name in self.found)

    @property
    def model_errors(self) -> int:
        """Number of questions on which the model failed."""
        return sum(record.is_model_error for record in self.found.values())

    def _read(self, path: Path) -> list[SampleResult]:
        start = self._offsets.get(path.name, 0)
        try:
            with open_regular_file(path) as file:
                file.seek(start)
                text = file.read()
        except OSError as error:
            raise DataError(
                f"Cannot read the records of {self.layout.run_id} in {path.name}: {error.strerror}. Remove the file."
            ) from error
        whole = text[: text.rfind(b"\n") + 1]
        self._offsets[path.name] = start + len(whole)
        records = []
        for line in whole.splitlines():
            try:
                records.append(SampleResult.model_validate_json(line))
            except ValidationError as error:
                raise DataError(
                    f"Invalid record in {path.name} of {self.layout.run_id}: "
                    f"{error.errors()[0]['msg']}. Remove the line and resume the evaluation."
                ) from error
        return records
