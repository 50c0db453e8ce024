"""A trace: one question asked of one image, complete enough to be reopened without model or image.

On disk a trace is a folder (or the same as a zip): ``trace.json`` and ``images/``. Every file name in it is made here
from the trace itself; nothing that a client typed becomes a path.
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
    """The image that was asked about."""

    name: str
    """File name without folders."""
    width: int = Field(ge=1)
    """Pixels of the original, upright."""
    height: int = Field(ge=1)
    """Pixels of the original, upright."""
    format: str
    """Format found in the content, such as ``JPEG``."""
    sha256: str
    """Digest of the file, to find the original again."""


class TraceModel(Record):
    """The model that was asked."""

    name: str
    """What the user typed: a folder, a hub id, or a URL."""
    family: str
    """Key of its family, such as ``qwen3_vl``."""


class Trace(Record):
    """One question, the answers under each protocol, and the self-check."""

    app_version: str
    """Version of HART Studio that wrote it."""
    created_at: datetime
    """When it was made, UTC."""
    image: TraceImage
    """The image."""
    question: str
    """The question, without its choices."""
    choices: tuple[str, ...]
    """Option texts without letters."""
    answer: str | None
    """The known answer: the option's letter when there are choices; None when unknown."""
    model: TraceModel
    """The model."""
    settings: LoopSettings
    """As asked for, with the model's own budgets in place of a None."""
    protocols: dict[Protocol, Rollout] = Field(min_length=1)
    """The rollout of each protocol that was asked for; of several, the first."""
    verification: Verification | None
    """The self-check; None when ``crops_only`` was not asked for."""
    warnings: tuple[str, ...] = ()
    """What a reader must know before trusting any of the answers, such as that the model was not made for the image."""

    @property
    def grounded(self) -> Rollout | None:
        """The rollout whose boxes and crops the page shows; both protocols with crops share them."""
        return self.protocols.get("crops_only") or self.protocols.get("full_and_crops")

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Predicted regions, original pixels."""
        return self.grounded.boxes if self.grounded else ()

    @property
    def crops(self) -> tuple[Box, ...]:
        """Regions that were cut, whole original pixels."""
        return self.grounded.crops if self.grounded else ()

    @property
    def image_files(self) -> tuple[str, ...]:
        """Names of the trace's images below its folder: the overview, then one per crop."""
        return (OVERVIEW_FILE, *(f"images/crop_{number}.png" for number in range(1, len(self.crops) + 1)))


class SavedTrace(NamedTuple):
    """A trace read back from its folder."""

    trace: Trace
    overview: Path
    """The overview at the size at which the model saw it."""
    crops: tuple[Path, ...]
    """One image per ``trace.crops``, native resolution."""


def summarize_trace(trace: Trace) -> dict[str, Any]:
    """The short form for scripts: what the command line prints as JSON.

    Returns:
        ``image`` and ``model``; ``outcome`` of the rollout with the boxes, else of ``direct``; ``boxes`` and ``crops``
        in original pixels; per protocol the ``answer`` that was read (a letter when there are choices), the raw
        ``text``, its cost over all turns, and ``value``; the figures of the self-check or None; and ``warnings``.
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
    """Make the images of a trace from the original.

    Args:
        trace: The trace.
        image: The original that it is about.

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
    """Check that a trace may be written into a folder: it holds an earlier one, or none of the names of its files.

    Raises:
        InputError: If it does not.
    """
    if not folder.is_dir():  # missing, or a write will say why it is no folder
        return
    path = folder / TRACE_FILE
    check_output(path, "a trace", lambda head: head.startswith(b'{\n  "app_version"'))
    if (folder / "images").exists() and not path.is_file():
        raise InputError(f"Cannot write a trace to {folder}: it holds 'images', and no trace. Choose another folder.")


def save_trace(trace: Trace, folder: Path, images: Mapping[str, Image.Image]) -> None:
    """Write a trace into a folder, which is made when missing; ``trace.json`` comes last.

    Args:
        trace: The trace.
        folder: Where to write.
        images: From ``render_images``.

    Raises:
        OSError: If the folder cannot be written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, data in _files(trace, images).items():
        write_atomically(folder / name, data)


def zip_trace(trace: Trace, images: Mapping[str, Image.Image]) -> bytes:
    """The same files as ``save_trace`` writes, as the bytes of one zip for download."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNG does not shrink further
        for name, data in _files(trace, images).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def load_trace(folder: Path) -> SavedTrace:
    """Reopen a trace. The folder is input: it is validated, and nothing outside it is touched.

    Raises:
        DataError: If ``trace.json`` is missing or not a trace, or an image is missing or leads out of the folder.
    """
    path = folder / TRACE_FILE
    try:
        trace = Trace.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except OSError as error:
        raise DataError(f"expected a trace with {TRACE_FILE} in {folder}, got {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DataError(f"{path} is not a trace: {where}: {first['msg']}") from error
    overview, *crops = (resolve_inside(folder, name) for name in trace.image_files)
    for image in (overview, *crops):
        if not image.is_file():
            raise DataError(f"expected the image {image}, got no file; the trace is incomplete")
    return SavedTrace(trace, overview, tuple(crops))


def _files(trace: Trace, images: Mapping[str, Image.Image]) -> dict[str, bytes]:
    """The content of every file of a trace, ``trace.json`` last: a folder that has it is complete."""
    files = {name: _to_png(images[name]) for name in trace.image_files}
    return {**files, TRACE_FILE: trace.model_dump_json(indent=2).encode() + b"\n"}


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
