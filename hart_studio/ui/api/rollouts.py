"""JSON API of the rollout viewer on the Watch tab: recorded groups with images, and gold boxes of their questions."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from hart_studio.errors import HartError, InputError
from hart_studio.files import copy_regular_file, read_regular_file
from hart_studio.records import Box, Rollout
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.rollouts import SavedGroup, find_image, list_rollout_steps, read_groups
from hart_studio.ui.api.changes import StampedCache, file_stamp
from hart_studio.ui.api.runs import RunIdRequest, RunMonitor

MAX_TRACKED_RECORDS: Final = 400
"""Number of newest rollout files searched for a tracked question, per kind."""

MAX_TRACKED_BYTES: Final = 512 * 2**20
"""Largest rollout file that is searched. Project default."""

MAX_GOLD_DATASETS: Final = 4
"""Datasets whose gold boxes are cached."""

MAX_GOLD_BYTES: Final = 64 * 2**20
"""Largest dataset file that the server reads for gold boxes. Project default."""


class RolloutsRequest(RunIdRequest):
    """Request for recorded rollouts."""

    run: str = Field(max_length=200)
    step: int = Field(ge=0)
    is_held_out: bool = False
    """Whether to load rollouts of held-out questions."""


class QuestionRequest(RunIdRequest):
    """Request about a question of a run."""

    sample: str = ""
    """Id of the question."""


class RolloutApi:
    """Reads recorded rollouts.

    Attributes:
        watch: Monitor of the runs; names the served folder for copies of images.
    """

    def __init__(self, watch: RunMonitor) -> None:
        self.watch = watch
        self._gold: StampedCache[dict[str, tuple[Box, ...]]] = StampedCache(MAX_GOLD_DATASETS)

    def rollouts(self, request: RolloutsRequest) -> list[dict[str, Any]]:
        """The recorded groups of a step, with the names of their images.

        Raises:
            InputError: If there is no such run.
            DataError: If nothing is recorded for that step.
        """
        layout = find_run(self.watch.runs_root, request.run)
        groups = read_groups(layout, request.step, is_held_out=request.is_held_out)
        return [self._show_group(layout, group) for group in groups]

    def track_question(self, request: QuestionRequest) -> list[list[Any]]:
        """Steps whose recorded rollouts contain the question, as (step, is held out), in order."""
        layout = find_run(self.watch.runs_root, request.run)
        wanted = f'"id":{json.dumps(request.sample, ensure_ascii=False)}'.encode()
        found = []
        for is_held_out in (True, False):
            for step in list_rollout_steps(layout, is_held_out=is_held_out)[-MAX_TRACKED_RECORDS:]:
                with suppress(OSError):  # deleted or not a regular file
                    if wanted in read_regular_file(
                        layout.rollouts_of(step, is_held_out=is_held_out), MAX_TRACKED_BYTES
                    ):
                        found.append([step, is_held_out])
        return sorted(found)

    def gold_boxes(self, request: QuestionRequest) -> list[list[float]]:
        """Gold boxes of a question, ``[x_min, y_min, x_max, y_max]`` in original pixels; empty if there are none.

        They come from the dataset and are for display only: training never gets them.
        """
        layout = find_run(self.watch.runs_root, request.run)
        config = self.watch.config(layout)
        boxes = self.find_gold_boxes(layout, config, request.sample) if config else ()
        return [list(box.xyxy) for box in boxes]

    def find_gold_boxes(self, layout: RunLayout, config: RunConfig, sample_id: str) -> tuple[Box, ...]:
        """Gold boxes of a question; empty if the dataset has none, is too large, or cannot be read."""
        data = config.data
        if data.source == "needle" and not data.path:
            # Imports libraries, which takes seconds.
            from hart_studio.data.run_samples import get_needle_sample  # noqa: PLC0415

            # The config may ask for a million scenes: generate only this one.
            sample = get_needle_sample(data, sample_id, layout.folder)
            return sample.gold_boxes if sample else ()
        if data.source == "hf":  # avoid a download
            return ()
        path = Path(data.path)
        files = [path, *sorted(path.glob("*.json*"))] if path.is_dir() else [path]
        boxes = self._gold.get(
            data.model_dump_json(),
            lambda: [file_stamp(file) for file in files],
            lambda: _load_gold_boxes(layout, config, files),
        )
        return boxes.get(sample_id, ())

    def _show_group(self, layout: RunLayout, saved: SavedGroup) -> dict[str, Any]:
        group = saved.group
        credits = group.credits or (None,) * len(group.rollouts)
        return {
            "sample": saved.sample.model_dump(include={"id", "question", "choices", "answer", "category"}),
            "wh": saved.image_wh,
            "overview": self._serve(layout, saved.overview),
            "protocol": group.protocol,
            "rollouts": [
                {
                    **_show_rollout(rollout),
                    "images": [self._serve(layout, name) for name in crops],
                    "credit": credit and credit.model_dump(),
                }
                for rollout, crops, credit in zip(group.rollouts, saved.crops, credits, strict=True)
            ],
        }

    def _serve(self, layout: RunLayout, name: str | None) -> str | None:
        """Copy an image to the served folder; returns its name there, or None if it is missing."""
        if name is None:
            return None
        served = f"{layout.run_id}-{Path(name).name}"
        target = self.watch.image_folder / served
        try:
            source = find_image(layout, name)
        except InputError:
            return None
        if not target.exists():
            draft = target.with_suffix(f".{threading.get_ident()}.draft")
            copy_regular_file(source, draft)
            draft.replace(target)
        return served


def _load_gold_boxes(layout: RunLayout, config: RunConfig, files: list[Path]) -> dict[str, tuple[Box, ...]]:
    # Imports libraries, which takes seconds.
    from hart_studio.data.run_samples import load_samples  # noqa: PLC0415

    try:
        if any(file.is_file() and file.stat().st_size > MAX_GOLD_BYTES for file in files):
            return {}
        source = load_samples(config.data, layout.folder / "images", makes_folder=False)
    except (HartError, OSError):
        return {}
    return {sample.id: sample.gold_boxes for sample in source.loaded.samples}


def _show_rollout(rollout: Rollout) -> dict[str, Any]:
    """Boxes are ``[x_min, y_min, x_max, y_max, label]`` in original pixels."""
    grounding, answer = rollout.grounding_turn, rollout.answer_turn
    return {
        "outcome": rollout.outcome,
        "error": rollout.error,
        "boxes": [[*box.xyxy, box.label] for box in rollout.boxes],
        "crops": [[*box.xyxy, box.label] for box in rollout.crops],
        "grounding": grounding.text if grounding else None,
        "answer": answer.text if answer else None,
        "extracted": rollout.score.extracted,
        "rule": rollout.score.rule,
        "score": rollout.score.value,
        "tokens": [turn.completion_tokens for turn in rollout.turns],
        "visual_tokens": rollout.visual_tokens,
    }
