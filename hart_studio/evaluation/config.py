"""Settings of an evaluation, ``config.json`` of its run, and the inputs that determine its answers, ``inputs.json``.

On resume, model, settings and images must be unchanged, because results of two evaluations must not mix.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.files import from_stored_path, open_regular_file, read_regular_file, write_json
from hart_studio.models.catalog import BUILT_IN_HART, resolve_model_name
from hart_studio.models.model_identity import identify_model
from hart_studio.models.quantization import Quantization
from hart_studio.models.served_settings import ServedSettings
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Protocol, Record
from hart_studio.runs.config_file import flatten_settings, read_config_file
from hart_studio.runs.layout import RunLayout

DRAWN_QUESTIONS: Final = 200
"""Number of drawn needle questions without a folder or limit. Not from the paper."""

MAX_QUESTIONS: Final = 10_000_000
"""Maximum limit of questions, far above the largest benchmark. Not from the paper."""

INPUTS_FILE: Final = "inputs.json"
"""File of the run with digests of its model, settings and images."""

SAMPLED_BYTES: Final = 64 * 1024
"""Bytes at the start and end of an image that its digest covers, besides its size. Not from the paper."""

_WITHOUT_INFLUENCE: Final = frozenset(
    {"title", "device", "batch", "path", "image_root", "exclude", "limit", "subsets", "allow_dropped"}
)
"""Settings that do not change answers. Those that select questions are covered by the fingerprint."""
_SERVED_WITHOUT_INFLUENCE: Final = frozenset({"url", "concurrency", "timeout_seconds", "retries", "api_key_variable"})
_DIGEST_DIGITS: Final = 16
_MOST_INPUTS_BYTES: Final = 1 << 30
_NAMED: Final = 5


class EvaluationConfig(Record):
    """One model on one benchmark, under one or more protocols."""

    benchmark: str = Field(default="needle", min_length=1)
    """Name in ``data.benchmarks.catalog``."""
    path: str = ""
    """Local file or folder in the published format, or a hub id. Empty = the published hub id; for needle, questions
    generated for the evaluation."""
    image_root: str = ""
    """Base folder of relative image paths. Empty = beside the file."""
    subsets: tuple[str, ...] = ()
    """Subsets of a benchmark, such as those of Visual-CoT; empty = the benchmark's default."""
    exclude: str = ""
    """For ``mme_realworld_train``: file or folder of the Lite part, whose questions are excluded from the full set."""
    model: str = Field(default=BUILT_IN_HART, min_length=1)
    """Model folder, hub id, or built-in name."""
    served: ServedSettings | None = None
    """Endpoint of a served model instead of a local one."""
    title: str = Field(default="", max_length=200)
    """Name in tables; empty = the model's name."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    dtype: str = "auto"
    """``auto``, ``float32``, ``bfloat16`` or ``float16``."""
    quantization: Quantization = "none"
    """Weights of the language model in 4 or 8 bits; ``none`` for a served model."""
    protocols: tuple[Protocol, ...] = Field(default=("crops_only",), min_length=1)
    """Inputs of the answer turn; protocols with crops share one grounding turn."""
    limit: int | None = Field(default=None, ge=1, le=MAX_QUESTIONS)
    """Maximum number of questions, in file order; None = all."""
    allow_dropped: bool = False
    """Whether to evaluate although more than 1 % of the rows are invalid and dropped. Not from the paper."""
    loop: LoopSettings = LoopSettings()
    """Image budgets, cropping, decoding and fallback; greedy by default."""
    batch: int = Field(default=16, ge=1, le=1024)
    """Questions per batch, whose images are in memory together; the unit of work of a process. Not from the paper."""

    @field_validator("protocols")
    @classmethod
    def _check_protocols(cls, value: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"expected each protocol once, got {', '.join(value)}")
        return value

    @property
    def known_count(self) -> int | None:
        """Number of questions if known before reading them: for generated questions and published benchmarks."""
        if self.benchmark == "needle":
            return None if self.path else self.limit or DRAWN_QUESTIONS
        benchmark = BENCHMARKS.get(self.benchmark)
        is_part = bool(self.subsets or self.exclude)
        if benchmark is None or benchmark.expected is None or is_part or self.path not in ("", benchmark.hub_id):
            return None
        return min(benchmark.expected, self.limit or benchmark.expected)

    @property
    def published_count(self) -> int | None:
        """Published number of questions of the whole selection; None for a part of it, or if it is not fixed."""
        benchmark = BENCHMARKS.get(self.benchmark)
        return None if benchmark is None or self.limit or self.subsets else benchmark.expected

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


class EvaluationInputs(Record):
    """Inputs that determine the answers of an evaluation; ``inputs.json`` of its run."""

    model: str
    """Digest of a local model's files, or revision of a hub model; empty if unknown."""
    settings: dict[str, Any]
    """Settings that affect answers, by dotted names."""
    images: dict[str, str]
    """Image path below the common folder -> digest of size, start and end. Unreadable images are not included."""


def read_inputs(config: EvaluationConfig, images: Iterable[str]) -> EvaluationInputs:
    """Compute the inputs of an evaluation from its settings and the paths of its images; none for drawn scenes."""
    identity = identify_model(config.model_name) if config.served is None else None
    settings = config.model_dump(mode="json", exclude=set(_WITHOUT_INFLUENCE))
    if isinstance(settings.get("served"), dict):
        for name in _SERVED_WITHOUT_INFLUENCE:
            settings["served"].pop(name, None)
    if config.served is not None or (identity and identity.digest):
        settings.pop("model", None)  # a model folder may move
    paths = list(dict.fromkeys(images))
    root = os.path.commonpath([Path(path).parent for path in paths]) if paths else ""
    digests = {os.path.relpath(path, root or "."): _digest_image(from_stored_path(path)) for path in paths}
    return EvaluationInputs(
        model=(identity.digest or identity.revision) if identity else "",
        settings=flatten_settings(settings),
        images={name: digest for name, digest in digests.items() if digest},
    )


def check_inputs(layout: RunLayout, inputs: EvaluationInputs) -> None:
    """Check that model, settings and images are the same as at the start.

    Raises:
        DataError: If something differs; it is named.
    """
    path = layout.folder / INPUTS_FILE
    if not path.exists():
        return
    try:
        began = EvaluationInputs.model_validate_json(read_regular_file(path, _MOST_INPUTS_BYTES))
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} cannot be read. Nothing was measured. Start a new evaluation.") from error
    changed = []
    if began.model and inputs.model and began.model != inputs.model:
        changed.append("the files of the model")
    names = sorted({*began.settings, *inputs.settings})
    settings = [name for name in names if began.settings.get(name) != inputs.settings.get(name)]
    if settings:
        changed.append(f"settings ({_join(settings)})")
    images = [name for name, digest in began.images.items() if name in inputs.images and inputs.images[name] != digest]
    if images:
        changed.append(f"the content of {len(images):,} images ({_join(images)})")
    if changed:
        raise DataError(
            f"{layout.run_id} cannot be resumed: {'; '.join(changed)} changed since it started, and its metrics would "
            "mix both. Nothing was measured. Restore the changed part, or start a new evaluation."
        )


def write_inputs(layout: RunLayout, inputs: EvaluationInputs) -> None:
    """Write the inputs at the start of an evaluation, once."""
    path = layout.folder / INPUTS_FILE
    if not path.exists():
        write_json(path, inputs.model_dump(mode="json"))


def _digest_image(path: Path) -> str:
    try:
        with open_regular_file(path, follow_symlinks=True) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size}\n".encode() + file.read(SAMPLED_BYTES))
            file.seek(max(0, size - SAMPLED_BYTES))
            digest.update(file.read(SAMPLED_BYTES))
    except (HartError, OSError, ValueError):
        return ""  # its question fails, and is retried once the image is readable
    return digest.hexdigest()[:_DIGEST_DIGITS]


def _join(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} others"
