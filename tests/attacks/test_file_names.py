"""File names that are not UTF-8: imported, listed, reviewed and exported like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hart_studio.data.rows import InvalidRow
from hart_studio.errors import InputError
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import prepare_run
from hart_studio.files import from_stored_path, to_stored_path
from hart_studio.imaging import SourceImage
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_labels, write_training_set
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.importing import get_invalid_rows, import_source
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.report import write_report
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.sources import SourceSettings
from hart_studio.records import Box
from tests.labels import draw_image

NAMES = (b"caf\xe9.png", b"\xff\xfe.png", b"good.png", b"back\\xff slash.png", "gr\u00fcn \u6f22.png".encode())


def make_folder(folder: Path) -> Path:
    """Images with these names, and a file that is no image."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        drawn = draw_image(folder / f"{number}.png")
        drawn.rename(os.fsdecode(os.fsencode(folder) + b"/" + name))
    Path(os.fsdecode(os.fsencode(folder) + b"/broken \xe9.png")).write_bytes(b"no image")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = create_project(tmp_path / "project", "Names")
    settings = SourceSettings(kind="images", question="What is on {name}?", choices=("red", "blue"))
    report = import_source(made, str(make_folder(tmp_path / "in")), settings)
    assert (report.added, report.invalid_count) == (len(NAMES), 1)
    return made


@pytest.mark.parametrize("name", [*NAMES, b"\\x5c", b"\\x5cxff", b"\\\xff", b"\\x\xff", b"\\xFF", b"a\xc3\xa9\xc3"])
def test_a_stored_path_is_printable_and_leads_back(name: bytes) -> None:
    path = os.fsdecode(name)
    stored = to_stored_path(path)
    assert stored.encode().decode() == stored
    assert os.fsencode(from_stored_path(stored)) == name


def test_every_image_is_listed_and_opens(project: Project) -> None:
    items = list(project.items())
    assert {Path(item.image.path).name for item in items} == {
        "caf\\xe9.png", "\\xff\\xfe.png", "good.png", "back\\x5cxff slash.png", "gr\u00fcn \u6f22.png",
    }  # fmt: skip
    for item in items:
        with SourceImage(item.image.path) as image:
            assert image.wh == (item.image.width, item.image.height)
        json.dumps(item.model_dump(mode="json"), ensure_ascii=False).encode()


def test_the_bad_row_is_kept(project: Project) -> None:
    ((_, place, reason),) = get_invalid_rows(project)
    assert "broken \\xe9.png" in f"{place} {reason}"


def test_a_bad_row_of_any_name_can_be_written() -> None:
    bad = InvalidRow("\udce9.png", "no \ud800 here")
    assert (bad.row, bad.reason) == ("\\udce9.png", "no \\ud800 here")


def test_a_second_import_finds_them_again(project: Project, tmp_path: Path) -> None:
    settings = SourceSettings(kind="images", question="What is on {name}?", choices=("red", "blue"))
    report = import_source(project, str(tmp_path / "in"), settings)
    assert (report.added, report.known) == (0, len(NAMES))


@pytest.mark.parametrize("name", [name for name, info in FORMATS.items() if info.save])
def test_they_are_reviewed_and_exported(name: str, project: Project, tmp_path: Path) -> None:
    review = ReviewQueue(project)
    for item in list(project.items()):
        opened = review.open_item("me", item.id)
        review.decide("me", item.id, opened.label.revision, "edit", (Box.from_xyxy((4, 4, 20, 20)),))
    write_report(project, tmp_path / "report.html")
    options = ExportOptions(splits={"train": 0.6, "val": 0.4}, salt="7")
    report = export_labels(list(project.items(with_history=True)), name, tmp_path / "out", options)
    assert report.items == len(NAMES)
    for path in (tmp_path / "out").rglob("*"):
        str(path).encode()  # every exported name is UTF-8


def test_formats_that_refer_to_images_leave_out_what_others_could_not_open(project: Project, tmp_path: Path) -> None:
    options = ExportOptions(statuses=("new",), splits={"train": 1.0}, images="reference")
    report = export_labels(list(project.items(with_history=True)), "native", tmp_path / "out", options)
    assert report.items == 2
    assert sum(report.excluded.values()) == 3


def test_they_can_be_trained_on(project: Project) -> None:
    from hart_studio.data.sources import load_jsonl  # noqa: PLC0415 - for this test alone

    review = ReviewQueue(project)
    with project.database.writing() as connection:
        for row in connection.execute("SELECT id, sample FROM items").fetchall():
            sample = {**json.loads(row["sample"]), "answer": "A"}
            connection.execute("UPDATE items SET sample = ? WHERE id = ?", (json.dumps(sample), row["id"]))
    for item in list(project.items()):
        review.open_item("me", item.id)
        review.decide("me", item.id, item.label.revision, "edit", (Box.from_xyxy((4, 4, 20, 20)),))
    found = write_training_set(project)
    assert len(load_jsonl(found.path, image_root=found.image_root).samples) == len(NAMES)


def test_a_terminal_of_plain_ascii_is_no_obstacle(tmp_path: Path) -> None:
    """Like a bare container: no locale, no UTF-8 mode."""
    folder = make_folder(tmp_path / "in")
    create_project(tmp_path / "project", "gr\u00fcn")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "hart_studio.labeling", *arguments]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode("ascii")

    said = call("import", str(tmp_path / "project"), str(folder), "--kind", "images", "--question", "What is {name}?")
    assert said.startswith("5 added")
    assert "broken" in said
    assert "gr" in call("stats", str(tmp_path / "project"))


def test_a_folder_whose_name_is_not_utf8_is_imported_and_a_path_of_it_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "x\udcff d"
    folder.mkdir()
    draw_image(tmp_path / "a.png").rename(folder / "a.png")
    row = {"id": "a", "image": "a.png", "question": "Which?", "choices": ["1", "2"], "answer": "B"}
    (folder / "samples.jsonl").write_text(json.dumps(row) + "\n")
    made = create_project(tmp_path / "project", "Names")
    report = import_source(made, str(folder), SourceSettings())
    assert (report.added, report.invalid_rows) == (1, ())
    config = EvaluationConfig(benchmark="needle", path=str(folder))
    with pytest.raises(InputError, match="not UTF-8"):
        prepare_run(tmp_path / "runs", config)
    assert list((tmp_path / "runs").iterdir()) == []
