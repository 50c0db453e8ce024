"""Labeling projects for the browser tests: large images, labels of a made-up model, ways through the page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import BoxCheck, Label, LabelProvenance
from hart_studio.records import Box, Sample

WH = (8192, 5460)
SIGN_XYXY = (4000.0, 2000.0, 4800.0, 2600.0)


def make_project(root: Path, name: str, count: int = 5, question: str = "Which number is on sign {n}?") -> Project:
    """A project of questions about one large image, all waiting for review."""
    path = root.parent / f"{name}.png"
    if not path.exists():
        image = Image.new("RGB", WH, (40, 60, 80))
        ImageDraw.Draw(image).rectangle(SIGN_XYXY, fill=(255, 0, 200))
        image.save(path, compress_level=1)
    project = create_project(root / name, name)
    samples = tuple(
        Sample(id=f"q{n}", image=str(path), question=question.format(n=n), choices=("five", "six", "seven"), answer="A")
        for n in range(count)
    )
    import_samples(project, LoadedSamples("signs", samples))
    for number, item in enumerate(list(project.items())):
        check = BoxCheck(
            kind="known_answer", rollouts=4, sufficiency=0.25, consensus=0.9, support=1.0, crops_answer="B",
            crops_correct=False, full_answer="A", full_correct=True, necessity=False, area_share=0.01,
        )  # fmt: skip
        provenance = LabelProvenance(model="scripted", run_id="none", rollouts=4, temperature=1.0, seed=0)
        label = Label(
            revision=1, status="proposed", origin="model", boxes=(Box.from_xyxy(SIGN_XYXY, label="sign"),),
            score=0.2 + number / 100, check=check, provenance=provenance, at=datetime.now(UTC),
        )  # fmt: skip
        with project.database.writing() as connection:
            project.append_label(connection, item.id, label)
    return project


def create(page: Page, name: str) -> None:
    """Make a project on the page, as a person does."""
    page.get_by_role("tab", name="Label", exact=True).click()
    page.locator(".hs-new-name").fill(name)
    page.locator(".hs-create").click()
    expect(page.locator(".hs-project")).to_contain_text(name)
    expect(page.locator(".hs-steps")).to_be_visible()


def open_label_tab(page: Page, project: str) -> None:
    page.get_by_role("tab", name="Label", exact=True).click()
    page.locator(".hs-project").select_option(project)
    expect(page.locator(".hs-status-list")).to_contain_text("item")


def start_review(page: Page, reviewer: str = "Ada") -> None:
    page.locator("[data-panel=review]").click()
    page.locator(".hs-reviewer").fill(reviewer)
    page.get_by_role("button", name="Start review").click()
    expect(page.locator(".hs-review")).to_be_visible()


def screen_point(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the original is on the screen."""
    point = page.evaluate(
        """([x, y]) => {
            const matrix = document.querySelector(".hs-review .hs-canvas svg").getScreenCTM();
            const point = new DOMPoint(x, y).matrixTransform(matrix);
            return [point.x, point.y];
        }""",
        [x, y],
    )
    return point[0], point[1]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag between two points of the original."""
    page.mouse.move(*screen_point(page, *start))
    page.mouse.down()
    page.mouse.move(*screen_point(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    page.mouse.move(*screen_point(page, *end))
    page.mouse.up()
