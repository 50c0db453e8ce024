from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.image_domains import NEEDLE, embed_domain
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project, count_required_reviews
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import BoxCheck, Label
from hart_studio.records import Box, Sample

WH = (400, 300)
BOX = Box.from_xyxy((100, 100, 200, 200))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    Image.new("RGB", WH, "white").save(path)
    return path


@pytest.fixture
def drawn_image(tmp_path: Path) -> Path:
    """An image file with the metadata of a drawn needle scene."""
    return draw_marked(tmp_path / "scene.jpg")


def draw_marked(path: Path, color: str = "white", domain: str = NEEDLE) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", WH, color).save(buffer, "JPEG")
    path.write_bytes(embed_domain(buffer.getvalue(), domain))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return create_project(tmp_path / "project", "Streets")


@pytest.fixture
def filled(project: Project, image: Path) -> Project:
    """Six questions about one image, proposed with scores 0.1 to 0.6."""
    import_samples(project, LoadedSamples("streets", tuple(ask(image, number) for number in range(6))))
    for number, item in enumerate(list(project.items())):
        add_label(project, item.id, score=(number + 1) / 10)
    return project


@pytest.fixture
def item_ids(filled: Project) -> list[str]:
    return [item.id for item in filled.items()]


def ask(image: Path, number: int = 0, answer: str | None = "B", **more: object) -> Sample:
    return Sample(
        id=f"s{number}", image=str(image), question=f"Which digit is on sign {number}?", choices=("3", "7"),
        answer=answer, category="sign", source="streets", **more,
    )  # fmt: skip


def add_label(project: Project, item_id: str, **fields: object) -> Label:
    """Append the next revision."""
    chosen = {"status": "proposed", "origin": "model", "boxes": (BOX,), "at": datetime.now(UTC), **fields}
    label = Label(revision=project.item(item_id).label.revision + 1, **chosen)  # type: ignore[arg-type]
    with project.database.writing() as connection:
        project.append_label(connection, item_id, label)
    return label


def change_settings(project: Project, **changes: object) -> None:
    """Other settings than those that the project was created with; the review queue follows."""
    settings = project.settings.model_copy(update=changes)
    with project.database.writing() as connection:
        connection.execute("UPDATE project SET settings = ?", (settings.model_dump_json(),))
        ids = [row["id"] for row in connection.execute("SELECT id FROM items")]
        required = [(count_required_reviews(item_id, settings), item_id) for item_id in ids]
        connection.executemany("UPDATE items SET required_reviews = ? WHERE id = ?", required)
    project.sample_audit()


def fill_many(project: Project, image: Path, count: int) -> None:
    """Many proposed items, copied in SQL: scores 0 to 0.999, every tenth without one."""
    import_samples(project, LoadedSamples("streets", (ask(image),)))
    first = next(project.items())
    add_label(project, first.id, score=0.5, check=make_check(sufficiency=0.5, crops_correct=True))
    with project.database.writing() as connection:
        connection.execute(
            """WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
            INSERT INTO items (id, image, sample, category, search_text, evidence, audit_hash, label, revision,
            status, score, reviewer, review_priority, required_reviews)
            SELECT printf('%016x', (n * 2654435761) % 4294967296), image, sample, 'c' || (n % 20), search_text,
            evidence, (n % 1000) / 1000.0, CASE WHEN n % 10 THEN json_set(label, '$.score', (n % 1000) / 1000.0)
            ELSE json_set(label, '$.score', NULL) END, revision, status, CASE WHEN n % 10 THEN (n % 1000) / 1000.0 END,
            '', 2 - (n % 1000) / 1000.0, 1 FROM items, numbers""",
            (count - 1,),
        )
        connection.execute(
            """INSERT INTO labels (item, revision, label, reviewer, status)
            SELECT id, 1, label, '', 'proposed' FROM items WHERE id != ?""",
            (first.id,),
        )


def make_check(**fields: object) -> BoxCheck:
    return BoxCheck(**{"kind": "known_answer", "rollouts": 4, **fields})  # type: ignore[arg-type]


MakeCheck = Callable[..., BoxCheck]
