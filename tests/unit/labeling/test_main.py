from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import ModelError
from hart_studio.labeling import __main__ as command
from hart_studio.labeling.job import read_config
from hart_studio.labeling.project import Project
from hart_studio.prompts import GROUNDING_INSTRUCTION
from hart_studio.runs.reader import list_runs
from tests.fake_endpoint import Answer, Seen, serving
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import draw_marked
from tests.unit.pipeline.conftest import boxes_text


@pytest.fixture
def table(image: Path) -> Path:
    path = image.with_name("questions.csv")
    path.write_text(
        "image,question,answer,A,B\nstreet.png,Which digit?,B,3,7\nstreet.png,Which color?,A,red,blue\n"
        "gone.png,What?,A,x,y\n"
    )
    return path


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(grounding=boxes_text((250, 333, 500, 667)), crops_only="B", direct="B")
    monkeypatch.setattr(command, "load_chat_model", lambda name, device, **_: model)


def test_the_whole_path(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = str(tmp_path / "project")
    assert command.main(["create", project, "--name", "Streets"]) == 0
    assert command.main(["import", project, str(table)]) == 0
    reported = capsys.readouterr().out
    assert "2 added, 0 updated, 0 already in the project, 1 invalid rows" in reported
    assert "1 x image not found" in reported
    assert command.main(["run", project, "--rollouts", "2", "--batch", "1", "--no-auto-accept"]) == 0
    assert command.main(["stats", project, "--json"]) == 0
    reported = capsys.readouterr().out
    assert "WARNING: hart-tiny was trained only on synthetic needle scenes;" in reported
    assert "1 uncalibrated: no score" not in reported
    found = json.loads(reported.split("of the calibration\n")[-1])
    assert found["scores"] == {"calibrated": 0, "uncalibrated": 2}
    assert (found["name"], found["items"], found["statuses"]) == ("Streets", 2, {"proposed": 2})
    assert command.main(["report", project, str(tmp_path / "report.html")]) == 0
    assert "Streets" in (tmp_path / "report.html").read_text()
    export = [
        "export",
        project,
        str(tmp_path / "out"),
        "--format",
        "coco",
        "--status",
        "proposed",
        "--splits",
        "1",
        "0",
        "0",
    ]
    assert command.main(export) == 0
    assert "2 questions, 2 boxes" in capsys.readouterr().out
    assert (tmp_path / "out" / "annotations" / "instances_train.json").exists()


def test_a_stopped_run_is_resumed(tmp_path: Path, table: Path) -> None:
    project = str(tmp_path / "project")
    command.main(["create", project])
    command.main(["import", project, str(table)])
    command.main(["run", project, "--rollouts", "2"])
    (run,) = list_runs(Project(Path(project)).runs)
    assert command.main(["run", project, "--resume", run.layout.run_id]) == 2, "it is completed"
    assert command.main(["run", project, "--resume", "20260101-000000-labeling-000000"]) == 2


def test_a_run_ends_with_its_figures_and_the_reasons_of_failures(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = str(tmp_path / "project")
    command.main(["create", project])
    command.main(["import", project, str(table)])
    assert "reading the source" in capsys.readouterr().err
    table.with_name("street.png").unlink()
    assert command.main(["run", project, "--rollouts", "2"]) == 1
    out, err = capsys.readouterr()
    assert (
        "this run: 2 of 2 items, 0 proposed, 0 with a sufficient crop, 0 auto-accepted, 2 failed, 0 without a box"
        in out
    )
    assert "  2 failed: " in out and out.splitlines()[-1] == "project: 2 failed"
    assert "loading the model" in err.splitlines() and "proposing the first boxes" in err.splitlines()
    assert command.main(["run", project, "--rollouts", "2", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["failed"], found["statuses"]) == (2, 2, {"failed": 2})
    assert command.main(["export", project, str(tmp_path / "out"), "--status", "failed"]) in (0, 2)
    assert "writing and verifying" in capsys.readouterr().err


def test_a_labeling_run_that_could_not_begin_leaves_nothing(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command.main(["create", str(tmp_path / "project")])
    command.main(["import", str(tmp_path / "project"), str(table)])
    project = Project(tmp_path / "project")

    def no_model(name: str, device: str, **_: object) -> ScriptedModel:
        raise ModelError("expected a model, got none")

    with monkeypatch.context() as patch:
        patch.setattr(command, "load_chat_model", no_model)
        assert command.main(["run", str(project.folder)]) == 2
    assert "had done no work and was removed" in capsys.readouterr().err
    assert list_runs(project.runs) == []
    counts = "SELECT (SELECT COUNT(*) FROM runs) + (SELECT COUNT(*) FROM predictions)"
    with project.database.reading() as connection:
        assert connection.execute(counts).fetchone()[0] == 0
    assert command.main(["run", str(project.folder), "--rollouts", "2"]) == 0
    assert len(list_runs(project.runs)) == 1


def test_warnings_about_the_scores_are_printed_before_the_model_is_loaded(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = str(tmp_path / "project")
    command.main(["create", project])
    command.main(["import", project, str(table)])
    reported: list[str] = []

    def load(name: str, device: str, **_: object) -> ScriptedModel:
        reported.append(capsys.readouterr().out)
        return ScriptedModel()

    monkeypatch.setattr(command, "load_chat_model", load)
    command.main(["run", project, "--rollouts", "2"])
    assert (
        "WARNING: hart-tiny was trained only on synthetic needle scenes; its answers on images of this project"
        in reported[0]
    )
    assert "note: 2 of 2 items will be uncalibrated and need review: images differ" in reported[0]
    assert "Scores are" not in reported[0]
    draw_marked(table.parent / "street.png")
    scenes = str(tmp_path / "scenes")
    command.main(["create", scenes])
    command.main(["import", scenes, str(table)])
    command.main(["run", scenes, "--rollouts", "8"])
    assert (
        "Scores are calibrated on needle" in reported[1] and "note:" not in reported[1] and "WARNING" not in reported[1]
    )
    command.main(["run", project, "--model", "org/other"])
    assert "note: no calibration for this model" in reported[2] and "Scores are" not in reported[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "gone"], "Create a project first"),
        (["create", "p", "--audit-share", "2"], "audit_share"),
        (["import", "gone", "t.csv"], "Create a project first"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    reported = capsys.readouterr().err
    assert message in reported
    assert reported.count("\n") == 1


def test_an_import_that_can_use_no_row_is_an_error(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = str(tmp_path / "p")
    command.main(["create", project])
    bad = tmp_path / "bad.csv"
    bad.write_text("image,question\ngone.png,What?\nlost.png,Where?\n")
    assert command.main(["import", project, str(bad)]) == 2
    reported = capsys.readouterr()
    assert "image not found" in reported.out + reported.err
    copy = tmp_path / "broken"
    copy.mkdir()
    (copy / "street.png").write_bytes(b"junk")
    (copy / "questions.csv").write_text("image,question\nstreet.png,What?\n")
    assert command.main(["import", project, str(copy / "questions.csv")]) == 2
    assert "0 added, 0 updated, 0 already in the project, 1 invalid rows" in capsys.readouterr().out
    assert command.main(["import", project, str(table)]) == 0, "some rows are good"
    assert command.main(["import", project, str(table)]) == 0, "all good rows are known"


def test_a_run_that_fails_at_every_item_is_a_failure(tmp_path: Path, table: Path, image: Path) -> None:
    project = str(tmp_path / "p")
    command.main(["create", project])
    command.main(["import", project, str(table)])
    whole = image.read_bytes()
    image.write_bytes(b"junk")
    assert command.main(["run", project, "--rollouts", "2"]) == 1
    assert Project(Path(project)).count_by("status") == {"failed": 2}
    image.write_bytes(whole)
    assert command.main(["run", project, "--rollouts", "2"]) == 0


def test_nothing_to_label_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["create", str(tmp_path / "p")])
    assert command.main(["run", str(tmp_path / "p")]) == 2
    assert "Import items" in capsys.readouterr().err


def test_a_served_model_labels(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(seen: Seen) -> Answer:
        is_pointing = seen.text.startswith(GROUNDING_INSTRUCTION)
        return Answer((boxes_text((250, 333, 500, 667)) if is_pointing else "B",))

    project = str(tmp_path / "project")
    command.main(["create", project])
    command.main(["import", project, str(table)])
    with serving(script) as server:
        run = ["run", project, "--rollouts", "2", "--served", server.url, "--served-model", "hart"]
        assert command.main(run) == 2
        assert "--served needs --served-family" in capsys.readouterr().err
        assert command.main([*run, "--served-family", "qwen3_vl"]) == 0
    assert {seen.body["model"] for seen in server.seen} == {"hart"}
    (finished,) = list_runs(Project(Path(project)).runs)
    config = read_config(finished.layout)
    assert config.served is not None
    assert config.model == config.model_name == f"hart at {server.url}"
    for item in Project(Path(project)).items():
        assert item.label.status == "proposed"  # a score of another model's calibration accepts nothing
        assert item.label.provenance is not None
        assert item.label.provenance.model == config.model


@pytest.mark.parametrize("option", ["--out", "--records"])
def test_calibrate_replaces_no_other_file_and_says_so_first(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    assert command.main(["calibrate", "--data", "gone", option, "mine.json"]) == command.BAD_INPUT
    assert "Choose another path" in capsys.readouterr().err
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'


def test_reasons_of_bad_rows_that_are_not_shown_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = str(tmp_path / "project")
    command.main(["create", project])
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    rows = [{"image": "good.png", "question": "q" * (20_001 + n)} for n in range(10)]
    rows.append({"image": "good.png", "question": "Which?"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert command.main(["import", project, str(tmp_path / "q.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 added") and lines[0].endswith("10 invalid rows")
    assert lines[-1] == "  and 2 other reasons"


def test_a_quantized_model_is_recorded_and_gets_no_scores(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = str(tmp_path / "project")
    command.main(["create", project])
    command.main(["import", project, str(table)])
    assert command.main(["run", project, "--rollouts", "2", "--quantization", "4bit"]) == 0
    assert "Labels get no score, because calibrations are made with unquantized weights." in capsys.readouterr().err
    (run,) = list_runs(Project(Path(project)).runs)
    assert read_config(run.layout).quantization == "4bit"
    assert command.main(["calibrate", "--data", str(tmp_path), "--quantization", "4bit"]) == 2
    assert "A calibration is for unquantized weights" in capsys.readouterr().err
