"""Run every recipe: its blocks in order, in a new folder, with the built-in model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents.pages import ROOT, blocks
from tests.documents.running import NOT_RUN, describe, run_document, runnable

RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
SECONDS = 900.0


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {
        "boxes_to_coco", "evaluate_served", "label_studio", "move_a_run", "train_headless", "two_machines",
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_most_blocks_of_a_recipe_are_run(path: Path) -> None:
    skipped = [block for block in blocks(path) if NOT_RUN in block.tags]
    assert len(runnable(path)) > 2 * len(skipped)
    assert all(block.language == "bash" for block in skipped)


@pytest.mark.integration
@pytest.mark.timeout(960)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_works(path: Path, tmp_path: Path) -> None:
    if path.stem == "boxes_to_coco":
        pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    folder = tmp_path / path.stem
    folder.mkdir()
    ran = run_document(path, folder, SECONDS)
    assert ran.code == 0, describe(path, ran)


def test_a_failure_is_reported_with_its_line(tmp_path: Path) -> None:
    page = ROOT / "docs" / "none.md"
    written = tmp_path / "none.md"
    written.write_text(
        "```bash\nX=1\nsleep 60 &\n```\n```bash no-run\nexit 5\n```\n```python\nprint('two')\n```\n"
        "```bash\ntest $X = 2\n```\n```bash\necho never\n```\n"
    )
    (tmp_path / "here").mkdir()
    ran = run_document(written, tmp_path / "here", 30)
    assert (ran.code, ran.line) == (1, 11)
    assert "two" in ran.output and "never" not in ran.output
    assert "docs/none.md:11 ended with 1" in describe(page, ran)
