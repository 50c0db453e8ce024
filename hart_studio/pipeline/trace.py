"""Trace of one question about one image, which can be reopened without the model or the image.

On disk a trace is a folder (or a zip of it): ``trace.json`` and ``images/``. File names are generated
from the trace; no client input becomes a path.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pydantic import Field, ValidationError

from hart_studio.errors import DataError, InputError
from hart_studio.files import read_regular_file, resolve_inside, write_atomically
from hart_studio.imaging import SourceImage
from hart_studio.outputs import check_output
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.verification import Verification
from hart_studio.records import Box, Protocol, Record, Rollout

TRACE_FILE = "trace.json"
OVERVIEW_FILE = "images/overview.png"


class TraceImage(Record):
    """Metadata of the image."""

    name: str
    """File name without folders."""
    width: int = Field(ge=1)
    """Upright width of the original, pixels."""
    height: int = Field(ge=1)
    """Upright height of the original, pixels."""
    format: str
    """Format detected from the content, such as ``JPEG``."""
    sha256: str
    """SHA-256 of the file, to identify the original."""


class TraceModel(Record):
    """Metadata of the model."""

    name: str
    """Name as given by the user: a folder, a Hub id, or a URL."""
    family: str
    """Key of the model family, such as ``qwen3_vl``."""


class Trace(Record):
    """One question, the answers under each protocol, and the self-check."""

    app_version: str
    """Version of HART Studio that wrote the trace."""
    created_at: datetime
    """Creation time, UTC."""
    image: TraceImage
    """The image."""
    question: str
    """The question, without its choices."""
    choices: tuple[str, ...]
    """Option texts without letters."""
    answer: str | None
    """The correct answer: the letter of an option if there are choices; None if unknown."""
    model: TraceModel
    """The model."""
    settings: LoopSettings
    """The requested settings, with the budgets of the model instead of None."""
    protocols: dict[Protocol, Rollout] = Field(min_length=1)
    """The rollout of each requested protocol; of several rollouts, the first."""
    verification: Verification | None
    """The self-check; None if ``crops_only`` was not requested."""
    warnings: tuple[str, ...] = ()
    """Warnings about the answers, for example that the model was not made for the image."""

    @property
    def grounded(self) -> Rollout | None:
        """The rollout whose boxes and crops the page shows; shared by both protocols with crops."""
        return self.protocols.get("crops_only") or self.protocols.get("full_and_crops")

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Predicted regions, original pixels."""
        return self.grounded.boxes if self.grounded else ()

    @property
    def crops(self) -> tuple[Box, ...]:
        """Cropped regions, whole original pixels."""
        return self.grounded.crops if self.grounded else ()

    @property
    def image_files(self) -> tuple[str, ...]:
        """Names of the image files in the folder of the trace: the overview, then one per crop."""
        return (OVERVIEW_FILE, *(f"images/crop_{number}.png" for number in range(1, len(self.crops) + 1)))


class SavedTrace(NamedTuple):
    """A trace loaded from its folder."""

    trace: Trace
    overview: Path
    """The overview at the size of the model input."""
    crops: tuple[Path, ...]
    """One image per ``trace.crops``, native resolution."""


def summarize_trace(trace: Trace) -> dict[str, Any]:
    """Summarize a trace for scripts; the JSON output of the command line.

    Returns:
        ``image`` and ``model``; ``outcome`` of the rollout with the boxes, otherwise of ``direct``; ``boxes`` and
        ``crops`` in original pixels; per protocol the extracted ``answer`` (a letter if there are choices), the raw
        ``text``, its cost over all turns, and ``value``; the metrics of the self-check or None; and ``warnings``.
    """
    summary = trace.grounded or trace.protocols["direct"]
    edges = {"x_min", "y_min", "x_max", "y_max"}
    checks = {"evidence", "sufficiency", "necessity", "consensus", "agreement", "area_share"}
    return {
        "image": {"name": trace.image.name, "width": trace.image.width, "height": trace.image.height},
        "model": trace.model.name,
        "outcome": summary.outcome,
        "boxes": [box.model_dump(include=edges | {"label"}) for box in trace.boxes],
        "crops": [box.model_dump(include=edges) for box in trace.crops],
        "protocols": {
            protocol: {
                "answer": rollout.score.extracted,
                "text": rollout.answer_turn.text if rollout.answer_turn else None,
                "value": rollout.score.value,
                "used_fallback": rollout.used_fallback,
                "visual_tokens": rollout.visual_tokens,
                "seconds": round(rollout.seconds, 3),
            }
            for protocol, rollout in trace.protocols.items()
        },
        "verification": trace.verification.model_dump(include=checks) if trace.verification else None,
        "warnings": list(trace.warnings),
    }


def render_images(trace: Trace, image: SourceImage) -> dict[str, Image.Image]:
    """Render the images of a trace from the original.

    Args:
        trace: The trace.
        image: The original image.

    Returns:
        File name -> RGB image, in the order of ``Trace.image_files``: the overview at the size that the processor
        produced, and the crops at native resolution.

    Raises:
        ImageError: If the original cannot be decoded.
    """
    seen_wh = next(turn.image_sizes_wh[0] for rollout in trace.protocols.values() for turn in rollout.turns)
    overview = image.overview(max_pixels=trace.settings.overview_max_pixels).resize(seen_wh, Image.Resampling.BICUBIC)
    return dict(zip(trace.image_files, [overview, *image.crops(trace.crops)], strict=True))


def check_trace_folder(folder: Path) -> None:
    """Check that a trace may be written into a folder: it contains an earlier trace, or none of its file names.

    Raises:
        InputError: If the folder contains other files with these names.
    """
    if not folder.is_dir():  # if it is missing, or not a folder, writing reports the error
        return
    path = folder / TRACE_FILE
    check_output(path, "a trace", lambda head: head.startswith(b'{\n  "app_version"'))
    if (folder / "images").exists() and not path.is_file():
        raise InputError(f"Cannot write a trace to {folder}: it contains 'images' but no trace. Choose another folder.")


def save_trace(trace: Trace, folder: Path, images: Mapping[str, Image.Image]) -> None:
    """Write a trace into a folder, which is created if missing; ``trace.json`` is written last.

    Args:
        trace: The trace.
        folder: Output folder.
        images: From ``render_images``.

    Raises:
        OSError: If the folder cannot be written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, data in _files(trace, images).items():
        write_atomically(folder / name, data)


def zip_trace(trace: Trace, images: Mapping[str, Image.Image]) -> bytes:
    """Return the files of ``save_trace`` as a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNG does not compress further
        for name, data in _files(trace, images).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def load_trace(folder: Path) -> SavedTrace:
    """Load a trace. The folder is untrusted: it is validated, and nothing outside it is read.

    Raises:
        DataError: If ``trace.json`` is missing or not a trace, or an image is missing or outside the folder.
    """
    path = folder / TRACE_FILE
    try:
        trace = Trace.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except OSError as error:
        raise DataError(f"Cannot read {TRACE_FILE} in {folder}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DataError(f"{path} is not a trace: {where}: {first['msg']}") from error
    overview, *crops = (resolve_inside(folder, name) for name in trace.image_files)
    for image in (overview, *crops):
        if not image.is_file():
            raise DataError(f"The trace is incomplete: the image {image} is missing")
    return SavedTrace(trace, overview, tuple(crops))


def _files(trace: Trace, images: Mapping[str, Image.Image]) -> dict[str, bytes]:
    """Content of every file of a trace, ``trace.json`` last: a folder that contains it is complete."""
    files = {name: _to_png(images[name]) for name in trace.image_files}
    return {**files, TRACE_FILE: trace.model_dump_json(indent=2).encode() + b"\n"}


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
