from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.evaluation.statistics import wilson
from hart_studio.labeling.calibrate import make_bins
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.quality import measure_quality
from hart_studio.labeling.report import (
    draw_calibration,
    draw_figures,
    draw_reliability,
    format_estimate,
    reliability_bars,
    write_report,
)
from hart_studio.labeling.review import ReviewQueue
from hart_studio.records import GoldSample
from tests.unit.labeling.conftest import BOX, add_label, ask, make_check
from tests.unit.labeling.test_calibration import make_calibration

HOSTILE = "<script>alert(1)</script>"


def test_the_report_has_every_figure_and_no_foreign_html(tmp_path: Path, image: Path) -> None:
    project = create_project(tmp_path / "p", HOSTILE)
    samples = tuple(GoldSample(**ask(image, number).model_dump(), gold_boxes=(BOX,)) for number in range(3))
    import_samples(project, LoadedSamples("s", samples))
    for item in list(project.items()):
        check = make_check(crops_correct=True, full_correct=False, necessity=True, area_share=0.02)
        add_label(project, item.id, check=check, score=0.9, status="auto_accepted")
    add_label(project, item.id, check=check, score=None, uncalibrated="images")
    assert measure_quality(project).evidence["known_answer"].uncalibrated == 1
    add_label(project, item.id, check=check, score=0.9, status="auto_accepted")
    add_label(project, next(iter(project.items())).id, check=check, score=None, uncalibrated="images")
    ReviewQueue(project).decide(HOSTILE, item.id, 3, "accept", seconds=2.5)
    bins = make_bins(np.array([0.9]), np.array([1.0]))
    curve = make_calibration().curves["known_answer"].model_copy(update={"bins": bins})
    write_report(project, tmp_path / "report.html", make_calibration(model=HOSTILE, curves={"known_answer": curve}))
    text = (tmp_path / "report.html").read_text()
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;") >= 4
    for wanted in (
        "Known answers",
        "Uncalibrated",
        "images of the dataset &#x27;streets&#x27;, multiple choice",
        "100.0 % (43.9 % – 100.0 %)",
        "+100.0 points",
        "2.5 s",
        "Comparison with gold boxes",
        "<svg",
    ):
        assert wanted in text
    assert str(tmp_path) not in text, "no path of this machine"


def test_a_report_of_nothing(tmp_path: Path) -> None:
    write_report(create_project(tmp_path / "p"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "No auto-accepted label has been audited yet" in text
    assert "Comparison with gold boxes" not in text


def test_figures_of_an_empty_project_say_so(tmp_path: Path) -> None:
    project = create_project(tmp_path / "p")
    assert draw_figures(measure_quality(project)) == {}
    write_report(project, tmp_path / "report.html")
    assert "No label has a box yet." in (tmp_path / "report.html").read_text()


def test_the_reliability_diagram_shows_right_and_score() -> None:
    bins = make_bins(np.array([0.15, 0.95]), np.array([0.0, 1.0]))
    curve = make_calibration().curves["known_answer"].model_copy(update={"bins": bins})
    text = draw_reliability(make_calibration(curves={"known_answer": curve}), "known_answer")
    assert text.startswith("<svg") and "calibration data" in text
    calibration = make_calibration(curves={"known_answer": curve})
    heights = {bar.label: (bar.value, bar.mark) for bar in reliability_bars(calibration, "known_answer")}
    assert heights["0.1"] == (0.0, pytest.approx(0.15)) and heights["0.9"] == (1.0, pytest.approx(0.95))


def test_a_diagram_of_evidence_that_no_label_has_is_left_out_in_words(tmp_path: Path, image: Path) -> None:
    project = create_project(tmp_path / "p")
    import_samples(project, LoadedSamples("s", (ask(image),)))
    (item,) = project.items()
    add_label(project, item.id, check=make_check(), score=0.9)
    curve = make_calibration().curves["known_answer"]
    calibration = make_calibration(curves={"agreement": curve, "known_answer": curve})
    figures, reported = draw_calibration(calibration, measure_quality(project))
    assert list(figures) == ["reliability_known_answer"]
    assert reported == "No label of this project has a score from agreement, so that reliability diagram is missing."
    write_report(project, tmp_path / "report.html", calibration)
    text = (tmp_path / "report.html").read_text()
    assert reported in text and text.count("Reliability, ") == 2, "a title and a heading of one diagram"
    assert draw_calibration(make_calibration(curves={"known_answer": curve}), measure_quality(project))[1] == ""


def test_no_reliability_is_shown_where_every_label_is_uncalibrated(tmp_path: Path, image: Path) -> None:
    project = create_project(tmp_path / "p")
    import_samples(project, LoadedSamples("s", (ask(image),)))
    (item,) = project.items()
    add_label(project, item.id, check=make_check(), uncalibrated="images")
    figures, reported = draw_calibration(make_calibration(), measure_quality(project))
    assert figures == {}
    assert "No label of this project has a score from known answers" in reported


def test_the_areas_are_percent_with_a_space(tmp_path: Path, image: Path) -> None:
    project = create_project(tmp_path / "p")
    import_samples(project, LoadedSamples("s", (ask(image),)))
    (item,) = project.items()
    add_label(project, item.id, check=make_check(area_share=0.02))
    names = re.findall(">([0-9.]+ ?%)<", draw_figures(measure_quality(project))["areas"])
    assert names == ["0 %", "0.5 %", "1 %", "2 %", "5 %", "10 %", "25 %", "50 %"]


def test_an_estimate_with_its_interval() -> None:
    assert format_estimate(wilson(8, 10)) == "80.0 % (49.0 % – 94.3 %)"
    assert format_estimate(None) == "–"


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    project = create_project(tmp_path / "project", "Streets")
    (tmp_path / "notes.html").write_text("<!doctype html><p>mine")
    os.mkfifo(tmp_path / "pipe")
    database = (project.folder / DATABASE).read_bytes()
    for path in (tmp_path / "notes.html", tmp_path / "pipe", project.folder / DATABASE, Path("/dev/null")):
        with pytest.raises(InputError, match="Cannot write a quality report to"):
            write_report(project, path)
    assert (tmp_path / "notes.html").read_text().endswith("mine") and (tmp_path / "pipe").is_fifo()
    assert (project.folder / DATABASE).read_bytes() == database
    for name in ("Streets", "Other"):
        project.rename(name)
        write_report(project, tmp_path / "report.html")
        assert f"<h1>{name}</h1>" in (tmp_path / "report.html").read_text()
