"""Large labeling projects, written with SQL because an import would take minutes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project


def make_large_project(folder: Path, count: int) -> Project:
    """A project of that many items, each with an own image that is not there, half of them labeled by a model."""
    project = create_project(folder, "Large")
    now = datetime.now(UTC).isoformat()
    with project.database.writing() as connection:
        connection.executemany(
            "INSERT INTO images (id, sha256, path, width, height) VALUES (?, ?, ?, ?, ?)",
            ((number, f"{number:064x}", f"/images/{number}.png", 4000, 3000) for number in range(1, count + 1)),
        )
        connection.executemany(
            """INSERT INTO items (number, id, image, sample, category, search_text, evidence, audit_hash, label,
            revision, status, score, reviewer) VALUES (?, ?, ?, ?, '', '', 'agreement', 0.5, ?, 1, ?, 0.7, '')""",
            (_make_row(number, now) for number in range(1, count + 1)),
        )
    return project


def _make_row(number: int, now: str) -> tuple[object, ...]:
    status = "accepted" if number % 2 else "edited"
    box = {"x_min": 10.5, "y_min": 20.25, "x_max": 300.0 + number % 7, "y_max": 400.0, "label": "Z", "score": None}
    check = {"kind": "agreement", "rollouts": 8, "sufficiency": 0.5, "consensus": 0.5, "crops_answer": "A"}
    provenance = {"model": "tiny", "run_id": "r", "rollouts": 8, "temperature": 1.0, "seed": 0, "is_refined": False}
    label = {
        "revision": 1, "status": status, "origin": "model" if number % 2 else "human", "boxes": [box], "score": 0.7,
        "check": check, "provenance": provenance, "reviewer": "", "at": now, "note": "",
    }  # fmt: skip
    sample = {
        "id": f"q{number}",
        "question": "Where is it?",
        "choices": [],
        "answer": None,
        "category": "",
        "source": "",
    }
    return number, f"{number:016x}", number, json.dumps(sample), json.dumps(label), status
