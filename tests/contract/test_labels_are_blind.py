"""Labels are created without gold boxes: modules for labeling and review have no access to them."""

import ast
from pathlib import Path

import pytest

from tests.contract.test_layers import PACKAGE, imported_modules

LABELING = PACKAGE / "labeling"
MAY_SEE = {"quality", "calibrate", "importing", "database"}
"""Reports and calibration; the import writes gold boxes away, and the schema has their table."""
WORKERS = ("job", "self_verify", "box_refinement", "review", "review_evidence", "review_history", "bulk_accept")


def modules() -> list[Path]:
    return sorted(LABELING.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(LABELING)))
def test_gold_boxes_are_named_where_finished_labels_are_measured_only(path: Path) -> None:
    if path.stem in MAY_SEE or path.parent.name == "formats":
        return
    tree = ast.parse(path.read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "gold_boxes" not in attributes
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not any("FROM gold_boxes" in text or "gold_boxes" in text for text in strings if "\n" not in text.strip())


def test_no_worker_reaches_the_module_that_reads_them() -> None:
    def reached(name: str, seen: set[str]) -> set[str]:
        if name in seen:
            return seen
        seen.add(name)
        path = LABELING / f"{name}.py"
        for module in imported_modules(path) if path.exists() else set():
            parts = module.split(".")
            if parts[:2] == ["hart_studio", "labeling"] and len(parts) > 2:
                reached(parts[2], seen)
        return seen

    for worker in WORKERS:
        assert not {"quality", "calibrate", "report"} & reached(worker, set()), worker
