"""What run directories hold, in the shape in which a page gets it: plain JSON, texts as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from hart_studio.files import read_regular_file
from hart_studio.records import Box, Rollout
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.reader import RunSummary
from hart_studio.runs.status import RunStatus


def status_to_dict(summary: RunSummary, ahead: int | None = None) -> dict[str, Any]:
    """The state as a page shows it; its signature changes when anything in it does.

    Args:
        summary: The run.
        ahead: Runs that come before it on its device; None when it does not wait, or it is not known.
    """
    status = summary.status
    shown: dict[str, Any] = {"state": summary.state, "error": summary.problem}
    if status is not None:
        shown |= {
            "step": status.step,
            "total": status.total,
            "attempt": status.attempt,
            "error": status.error or summary.problem,
            "exit_code": status.exit_code,
            "phase": _describe_phase(status, ahead) if status.is_active else "",
            "heartbeat": status.heartbeat.isoformat() if status.heartbeat else None,
        }
    shown["signature"] = json.dumps(shown)
    return shown


def _describe_phase(status: RunStatus, ahead: int | None) -> str:
    """What an active run does beside its steps, from the moment it is made; empty = its steps."""
    if status.phase or status.state != "queued":
        return status.phase
    return f"waiting for {ahead} other {'run' if ahead == 1 else 'runs'} on its device" if ahead else "starting soon"


def read_device(layout: RunLayout) -> str:
    """What the newest attempt ran on; empty before it has said so."""
    try:
        return Provenance.model_validate_json(read_regular_file(layout.provenance)).device
    except (OSError, ValidationError):
        return ""


def format_run_time(run_id: str) -> str:
    """``20260824-101500-...`` -> ``24 Aug 10:15:00 UTC``: what an id says of its time."""
    return f"{datetime.strptime(run_id[:15], '%Y%m%d-%H%M%S'):%-d %b %H:%M:%S} UTC"


def select_metrics(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that the list of runs shows."""
    return {name: figures[name] for name in ("accuracy", "iog_above_0.3", "iou", "area_share") if name in figures}


def rollout_to_dict(rollout: Rollout) -> dict[str, Any]:
    """What the rollout theatre draws: boxes are ``[x_min, y_min, x_max, y_max, label]`` in original pixels."""
    grounding, answer = rollout.grounding_turn, rollout.answer_turn
    return {
        "outcome": rollout.outcome,
        "error": rollout.error,
        "boxes": [_show_box(box) for box in rollout.boxes],
        "crops": [_show_box(box) for box in rollout.crops],
        "grounding": grounding.text if grounding else None,
        "answer": answer.text if answer else None,
        "extracted": rollout.score.extracted,
        "rule": rollout.score.rule,
        "score": rollout.score.value,
        "tokens": [turn.completion_tokens for turn in rollout.turns],
        "visual_tokens": rollout.visual_tokens,
    }


def _show_box(box: Box) -> list[Any]:
    return [*box.xyxy, box.label]
