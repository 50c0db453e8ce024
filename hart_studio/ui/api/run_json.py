"""Convert run data to JSON for the pages."""

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
    """Status of a run as JSON, with a signature that changes with any field.

    Args:
        summary: The run.
        ahead: Runs before it on the same device; None if it is not waiting or unknown.
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
    """Phase of an active run outside its steps; empty during steps."""
    if status.phase or status.state != "queued":
        return status.phase
    return f"queued behind {ahead} {'run' if ahead == 1 else 'runs'} on this device" if ahead else "starting"


def read_device(layout: RunLayout) -> str:
    """Device of the newest attempt; empty if not recorded yet."""
    try:
        return Provenance.model_validate_json(read_regular_file(layout.provenance)).device
    except (OSError, ValidationError):
        return ""


def format_run_time(run_id: str) -> str:
    """``20260824-101500-...`` -> ``24 Aug 10:15:00 UTC``: start time in a run id."""
    return f"{datetime.strptime(run_id[:15], '%Y%m%d-%H%M%S'):%-d %b %H:%M:%S} UTC"


def select_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics shown in the list of runs."""
    return {name: metrics[name] for name in ("accuracy", "iog_above_0.3", "iou", "area_share") if name in metrics}


def rollout_to_dict(rollout: Rollout) -> dict[str, Any]:
    """Rollout as JSON for the rollout viewer: boxes are ``[x_min, y_min, x_max, y_max, label]`` in original pixels."""
    grounding, answer = rollout.grounding_turn, rollout.answer_turn
    return {
        "outcome": rollout.outcome,
        "error": rollout.error,
        "boxes": [_box_to_list(box) for box in rollout.boxes],
        "crops": [_box_to_list(box) for box in rollout.crops],
        "grounding": grounding.text if grounding else None,
        "answer": answer.text if answer else None,
        "extracted": rollout.score.extracted,
        "rule": rollout.score.rule,
        "score": rollout.score.value,
        "tokens": [turn.completion_tokens for turn in rollout.turns],
        "visual_tokens": rollout.visual_tokens,
    }


def _box_to_list(box: Box) -> list[Any]:
    return [*box.xyxy, box.label]
