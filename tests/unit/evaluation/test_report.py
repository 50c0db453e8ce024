from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import InputError
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.report import describe, write_report
from hart_studio.evaluation.tables.collection import make_tables
from tests.unit.evaluation.questions import answer_result, eight_questions, evaluation, question

HOSTILE = "<script>alert(1)</script>"


def with_images(folder: Path, **changes: object) -> Evaluation:
    path = folder / "image.jpg"
    Image.new("RGB", (100, 100), "gray").save(path)
    return evaluation(tuple(r.model_copy(update={"image": str(path)}) for r in eight_questions()), **changes)


def test_the_report_is_one_page_and_its_files(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    found = [with_images(images), with_images(images, title=HOSTILE, model=HOSTILE, total=9)]
    path = write_report(found, tmp_path / "report", samples_drawn=3)
    text = path.read_text()
    assert HOSTILE not in text
    assert str(tmp_path) not in text, "no path of this machine"
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert not re.search(r'(src|href)="(?!#|data:)', text), "needs nothing else"
    assert text.count("data:image/jpeg;base64,") == 3
    assert "is partial: 8 of 9 questions are measured" in text
    assert "crops_only: 2 of 8 questions are unscored (1 x no known answer; 1 x the image is cut short)" in text
    assert "correct answer, wrong or no box: 2; wrong answer, correct box: 1" in text
    files = {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()}
    assert {"report.md", "tables/table_1.csv", "tables/table_1.tex", "figures/figure_3_treebench.svg"} <= files
    assert {"figures/figure_3_treebench.png", "figures/figure_4_treebench.png"} <= files
    markdown = (path.parent / "report.md").read_text()
    assert "## Table 6: grounding" in markdown and "(figures/figure_3_treebench.svg)" in markdown
    assert "<script>" not in markdown


def test_what_is_missing_is_reported_in_sentences(tmp_path: Path) -> None:
    path = write_report([], tmp_path / "nothing")
    assert "Nothing has been measured yet" in path.read_text()
    assert "<table" not in path.read_text()
    unscored = evaluation((question("h", None, None, (), error="gone", gold_boxes=()),), benchmark="vstar")
    text = write_report([unscored], tmp_path / "unscored").read_text()
    assert "crops_only, direct: 1 of 1 questions are unscored (1 x gone). Nothing could be scored." in text
    assert "No question has both gold boxes and a grounding turn" in text
    assert "No paired comparison possible" in text
    assert "The image can no longer be read." in text
    assert list((tmp_path / "unscored" / "figures").iterdir()) == []


def test_rows_that_were_left_out_are_reported() -> None:
    found = evaluation(left_out=1_200, published=405)
    reported = (
        f"tiny on treebench: n = {found.total} of {found.total + 1_200:,} rows in the file, 405 published. "
        "Invalid rows were dropped; the warnings of the evaluation say why."
    )
    assert reported in list(describe([found], make_tables([found])))


def test_fallbacks_are_reported() -> None:
    fallback = evaluation((question("x", answer_result(1.0, used_fallback=True), None, ()),), protocols=("crops_only",))
    assert "tiny on treebench, crops_only: 1 answers came from the full image because no box was valid." in list(
        describe([fallback], make_tables([fallback]))
    )


@pytest.mark.parametrize("name", ["report.html", "report.md", "tables/accuracy.csv"])
def test_files_that_are_no_earlier_report_are_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match="Cannot write an evaluation report to"):
        write_report([], tmp_path / "out")
    assert path.read_text() == "mine"
