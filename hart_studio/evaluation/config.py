"""Settings of an evaluation and their defaults: ``config.json`` of its run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError, field_validator

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import InputError
from hart_studio.models.catalog import BUILT_IN_HART, resolve_model_name
from hart_studio.models.served_settings import ServedSettings
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Protocol, Record
from hart_studio.runs.config_file import read_config_file
from hart_studio.runs.layout import RunLayout

DRAWN_QUESTIONS: Final = 200
"""Number of drawn needle questions without a folder or limit. Project default."""

MAX_QUESTIONS: Final = 10_000_000
"""Maximum limit of questions, far above the largest benchmark. Project default."""

CACHE_VARIABLE: Final = "HART_STUDIO_CACHE"
"""Environment variable with the folder for images embedded in benchmark tables."""


class EvaluationConfig(Record):
    """One model on one benchmark, under one or more protocols."""

    benchmark: str = Field(default="needle", min_length=1)
    """Name in ``data.benchmarks.catalog``."""
    path: str = ""
    """Local file or folder in the published form, or a hub id. Empty = the published hub id; for needle, questions
    drawn for the evaluation."""
    image_root: str = ""
    """Base folder of relative image paths. Empty = beside the file."""
    subsets: tuple[str, ...] = ()
    """Subsets of a benchmark, such as those of Visual-CoT; empty = the benchmark's default."""
    without: str = ""
    """For ``mme_realworld_train``: file or folder of the Lite part, whose questions are excluded from the full set."""
    model: str = Field(default=BUILT_IN_HART, min_length=1)
    """Model folder, hub id, or built-in name."""
    served: ServedSettings | None = None
    """Endpoint of a served model instead of a local one."""
    title: str = Field(default="", max_length=200)
    """Name in tables; empty = the model's name."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    dtype: str = "auto"
    """``auto``, ``float32``, ``bfloat16`` or ``float16``."""
    protocols: tuple[Protocol, ...] = Field(default=("crops_only",), min_length=1)
    """Inputs of the answer turn; protocols with crops share one grounding turn."""
    limit: int | None = Field(default=None, ge=1, le=MAX_QUESTIONS)
    """Maximum number of questions, in file order; None = all."""
    loop: LoopSettings = LoopSettings()
    """Image budgets, cropping, decoding and fallback; greedy by default."""
    batch: int = Field(default=16, ge=1, le=1024)
    """Questions per batch, whose images are in memory together; the unit of work of a process. Project default."""

    @field_validator("protocols")
    @classmethod
    def _check_protocols(cls, value: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"expected each protocol once, got {', '.join(value)}")
        return value

    @property
    def known_count(self) -> int | None:
        """Number of questions if known before reading them: for drawn questions and the published set."""
        if self.benchmark == "needle":
            return None if self.path else self.limit or DRAWN_QUESTIONS
        benchmark = BENCHMARKS.get(self.benchmark)
        is_part = bool(self.subsets or self.without)
        if benchmark is None or benchmark.expected is None or is_part or self.path not in ("", benchmark.hub_id):
            return None
        return min(benchmark.expected, self.limit or benchmark.expected)

    @property
    def model_name(self) -> str:
        """Model to load."""
        return resolve_model_name(self.model)

    @property
    def shown_title(self) -> str:
        """Name in tables."""
        return self.title or (self.served.model if self.served else "") or self.model.rstrip("/").rpartition("/")[2]


def read_config(layout: RunLayout) -> EvaluationConfig:
    """Read the settings of an evaluation.

    Raises:
        InputError: If they are unreadable or of another kind of job.
    """
    try:
        return EvaluationConfig.model_validate_json(read_config_file(layout))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"Cannot read the settings of the evaluation at {layout.config}. Start a new evaluation."
        ) from error


def image_cache_folder(benchmark: str) -> Path:
    """Folder for the images of a benchmark's tables, shared by all evaluations; files are named by content."""
    root = os.environ.get(CACHE_VARIABLE) or str(Path("~/.cache/hart-studio").expanduser())
    return Path(root) / "images" / benchmark
