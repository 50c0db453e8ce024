"""Labels for tests: small images on disk, and items about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from hart_studio.geometry import XYXY
from hart_studio.imaging import SourceImage
from hart_studio.labeling.export_plan import ExportOptions, ExportPlan, plan_export
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import BoxCheck, ImageFile, Item, Label, LabelProvenance
from hart_studio.records import Box, Sample

AT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
NASTY = "a \"b\" 'c' <d> & e\n\t漢字 🙂 \\ ]]> {label} %s"
"""Text that breaks unescaped output."""
TRAIN_ONLY = {"train": 1.0}


def draw_image(path: Path, wh: tuple[int, int] = (64, 48), orientation: int | None = None) -> Path:
    """An image of that stored size, whose bytes differ from those of any other name.

    They depend on the names of the file and its folder alone: the split of an image comes from its bytes, and must not
    change with the place that a test runs in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = "/".join(path.parts[-2:])
    if path.suffix in (".jpg", ".jpeg"):
        exif = Image.Exif()
        if orientation is not None:
            exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", wh, "navy").save(path, "JPEG", exif=exif, comment=name.encode())
    else:
        info = PngInfo()
        info.add_text("name", name)
        Image.new("1", wh).save(path, pnginfo=info)
    return path


def image_file(path: Path) -> ImageFile:
    with SourceImage(path) as image:
        width, height = image.wh
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ImageFile(path=str(path), sha256=sha256, width=width, height=height)


def make_item(
    path: Path,
    boxes: Sequence[Box | XYXY] = (),
    question: str = "Where is the sign?",
    *,
    status: Any = "accepted",
    origin: Any = "human",
    choices: tuple[str, ...] = (),
    answer: str | None = None,
    file: ImageFile | None = None,
    history: tuple[Label, ...] = (),
    **label: Any,
) -> Item:
    """An item about an image on disk; ``file`` avoids reading it again."""
    file = file or image_file(path)
    key = f"{file.sha256}{question}{choices}"
    sample = Sample(id=f"q-{key[:4]}", image=str(path), question=question, choices=choices, answer=answer, source="s")
    made = tuple(box if isinstance(box, Box) else Box.from_xyxy(box, "sign") for box in boxes)
    revision = Label(revision=len(history), status=status, origin=origin, boxes=made, at=AT, **label)
    item_id = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Item(id=item_id, sample=sample, image=file, label=revision, history=history)


def full_item(path: Path, question: str = NASTY) -> Item:
    """An item with something in every field."""
    check = BoxCheck(
        kind="known_answer",
        rollouts=8,
        sufficiency=0.875,
        consensus=1 / 3,
        support=0.5,
        crops_answer="A",
        crops_correct=True,
        full_answer=NASTY,
        full_correct=False,
        masked_answer="B",
        necessity=True,
        area_share=0.01,
        cautions=("touches_border", "scattered"),
    )
    provenance = LabelProvenance(model="tiny", run_id="r1", rollouts=8, temperature=1.0, seed=3, is_refined=True)
    first = Label(
        revision=0,
        status="proposed",
        origin="model",
        boxes=(Box.from_xyxy((0.1, 0.2, 30.3, 40.7), NASTY, 1 / 3),),
        score=0.9,
        check=check,
        provenance=provenance,
        at=AT,
    )
    return make_item(
        path,
        [
            Box.from_xyxy((0, 0, 64, 48), NASTY, 0.25),
            Box.from_xyxy((63, 47, 64, 48), "", 0.5),
            Box.from_xyxy((1 / 3, 1, 2, 3), "sign", 1.0),
        ],
        question,
        status="edited",
        choices=("red", NASTY),
        answer="B",
        history=(first,),
        score=0.9,
        check=check,
        provenance=provenance,
        reviewer="me & you",
        note=NASTY,
    )


def make_plan(items: Sequence[Item], **options: Any) -> ExportPlan:
    """A plan with every item in train unless given otherwise."""
    return plan_export(items, ExportOptions(**{"splits": TRAIN_ONLY, **options}))


def copy_images(plan: ExportPlan, folder: Path, format_name: str) -> None:
    for image in plan.images:
        target = folder / FORMATS[format_name].path_of(image, plan.options)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(image.file.path).read_bytes())


def make_large_project(folder: Path, count: int) -> Project:
    """A project of that many items, written with SQL because an import would take minutes.

    Each item has an own image that is not there; half of them are labeled by a model.
    """
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
            (_make_large_row(number, now) for number in range(1, count + 1)),
        )
    return project


def _make_large_row(number: int, now: str) -> tuple[object, ...]:
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
