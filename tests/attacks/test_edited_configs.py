"""Run settings that were edited, copied, or replaced at the last moment have no effect."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError, ModelError
from hart_studio.evaluation import __main__ as evaluation_command
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.labeling import __main__ as labeling_command
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.records import Sample
from hart_studio.runs.config import DataConfig, RunConfig
from hart_studio.runs.config_file import CONFIG_VARIABLE, config_variables, hash_config
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import RunQueue
from hart_studio.runs.reader import list_runs
from hart_studio.runs.signing import KEY_FILE
from hart_studio.runs.status import read_status
from hart_studio.ui.api import labels as labels_module
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from hart_studio.ui.api.review import ReviewApi
from hart_studio.ui.api.runs import RunMonitor
from tests.attacks.targets import Canary
from tests.fakes import ScriptedModel

VARIABLE = "A_SECRET_OF_THE_SERVER"
VALUE = "the-value-of-the-secret"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, VALUE)


@pytest.fixture
def canary() -> Iterator[Canary]:
    found = Canary()
    yield found
    found.close()
    assert found.hits == []


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelApi:
    """A label API with the project ``p`` and one run of it that waits for its process."""
    monkeypatch.setattr(labels_module, "start_run", lambda *arguments: None)
    api = LabelApi(tmp_path / "labels")
    call_handler(api.create, {"name": "p"})
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    sample = Sample(id="s", image=str(tmp_path / "a.png"), question="What?", answer="red")
    import_samples(api.open_project("p"), LoadedSamples("x", (sample,)))
    call_handler(api.start, {"project": "p", "rollouts": 2})
    return api


@pytest.fixture
def launch(tmp_path: Path) -> RunLauncher:
    api = RunLauncher(tmp_path / "runs", is_open=False, find_gpus=list)  # closed: its queue starts nothing by itself
    api.is_open = True
    return api


def newest(project: Project) -> RunLayout:
    return list_runs(project.runs)[0].layout


def edit(layout: RunLayout, **changes: Any) -> None:
    values = json.loads(layout.config.read_text())
    layout.config.write_text(json.dumps({**values, **changes}))


def served(canary: Canary) -> dict[str, Any]:
    return {"url": f"{canary.url}/v1", "family": "qwen2_5_vl", "model": "m", "api_key_variable": VARIABLE}


def test_a_labeling_run_that_names_a_server_and_a_secret_is_not_resumed(labels: LabelApi, canary: Canary) -> None:
    layout = newest(labels.open_project("p"))
    call_handler(labels.resume, {"project": "p", "run": layout.run_id})  # as it was made
    edit(layout, served=served(canary))
    with pytest.raises(
        InputError, match=f"{canary.url}/v1 with the key in the environment variable {VARIABLE}"
    ) as reported:
        call_handler(labels.resume, {"project": "p", "run": layout.run_id})
    assert f"run {labels.root.resolve() / 'p'} --resume {layout.run_id}" in str(reported.value)
    assert VALUE not in str(reported.value)


@pytest.mark.parametrize("model", ["evil/model", "/etc", "http://127.0.0.1:9/x", "../secret"])
def test_no_model_of_an_edited_project_is_opened(labels: LabelApi, tmp_path: Path, model: str) -> None:
    project = labels.open_project("p")
    edit(newest(project), model=model)
    opened: list[str] = []

    def load(name: str) -> ScriptedModel:
        opened.append(name)
        return ScriptedModel(crops_only="red", direct="red")

    calls = ReviewApi(labels, AskService(tmp_path / "cache" / "work", load))
    item = next(iter(project.items()))
    boxes = [{"x_min": 1, "y_min": 1, "x_max": 30, "y_max": 30}]
    request = {"project": "p", "reviewer": "ada", "item": item.id, "boxes": boxes}
    with pytest.raises(InputError, match=r"not created by this server|not started by this server|is a URL"):
        call_handler(labels.resume, {"project": "p", "run": newest(project).run_id})
    with pytest.raises(ModelError, match=r"is not loaded|is a URL"):
        call_handler(calls.check, request)
    call_handler(calls.open_item, request)
    call_handler(calls.decide, {**request, "decision": "edit", "revision": project.item(item.id).label.revision})
    assert project.item(item.id).label.status == "edited", "what a person decides is saved all the same"
    assert opened == []


def test_a_project_that_was_copied_here_signs_nothing(labels: LabelApi, tmp_path: Path) -> None:
    """A copy within one server, a copy to another server, and one with its own key."""
    layout = newest(labels.open_project("p"))
    edit(layout, model="owner/name")
    for root in (labels.root, tmp_path / "other"):
        shutil.copytree(labels.root / "p", root / "q")
        shutil.copyfile(labels.root / KEY_FILE, root / "q" / KEY_FILE)
        api = LabelApi(root)
        with pytest.raises(InputError, match="not started by this server"):
            call_handler(api.resume, {"project": "q", "run": layout.run_id})


def test_the_key_of_labeling_lies_beside_the_projects(labels: LabelApi) -> None:
    assert (labels.root / KEY_FILE).stat().st_mode & 0o077 == 0
    assert not list((labels.root / "p").rglob(KEY_FILE)) and call_handler(labels.projects, {})[0]["id"] == "p"


def test_a_signed_labeling_run_of_a_hub_model_goes_on_until_it_is_edited(labels: LabelApi) -> None:
    project = labels.open_project("p")
    shutil.rmtree(newest(project).folder)
    run = call_handler(labels.start, {"project": "p", "model": "owner/name", "rollouts": 2})["run"]
    call_handler(labels.resume, {"project": "p", "run": run})
    edit(find_run(project.runs, run), batch=1)
    with pytest.raises(InputError, match="its files were changed since, and it opens the model 'owner/name'"):
        call_handler(labels.resume, {"project": "p", "run": run})


@pytest.mark.parametrize("place", ["run", "runs"])
def test_runs_that_are_links_to_elsewhere_are_not_started(labels: LabelApi, tmp_path: Path, place: str) -> None:
    project = labels.open_project("p")
    layout = newest(project)
    moved = layout.folder if place == "run" else project.runs
    shutil.move(moved, tmp_path / "moved")
    moved.symlink_to(tmp_path / "moved")
    with pytest.raises(InputError):
        call_handler(labels.resume, {"project": "p", "run": layout.run_id})


def test_a_training_run_is_not_resumed_with_what_others_wrote(launch: RunLauncher) -> None:
    run = launch.enqueue(LaunchRequest(RunConfig(), "cpu-demo"))
    layout = find_run(launch.runs_root, run)
    call_handler(launch.resume, {"run": run})
    data = json.loads(layout.config.read_text())["data"]
    for changes in (
        {"trackers": ["wandb"]}, {"data": {**data, "source": "hf", "path": "evil/data"}},
        {"data": {**data, "source": "jsonl", "path": "/etc/passwd"}}, {"model": {"id": "evil/model"}},
    ):  # fmt: skip
        edit(layout, **{"trackers": [], "data": data, "model": {}, **changes})
        with pytest.raises(InputError, match="its files were changed since"):
            call_handler(launch.resume, {"run": run})


def test_an_evaluation_is_not_resumed_with_what_others_wrote(
    launch: RunLauncher, canary: Canary, tmp_path: Path
) -> None:
    api = EvaluationApi(launch, RunMonitor(launch.runs_root, tmp_path / "seen"))
    run = call_handler(api.start, {"benchmark": "needle"})["run"]
    layout = find_run(launch.runs_root, run)
    call_handler(api.resume, {"run": run})
    with pytest.raises(InputError, match="served model"):
        edit(layout, served=served(canary))
        call_handler(api.resume, {"run": run})
    for changes in ({"model": "evil/model"}, {"path": "evil/data"}, {"image_root": "/etc"}, {"benchmark": "vstar"}):
        edit(layout, **{**json.loads(EvaluationConfig().model_dump_json()), **changes})
        with pytest.raises(InputError, match="its files were changed since"):
            call_handler(api.resume, {"run": run})


def test_a_run_that_is_edited_while_it_waits_is_not_started(
    launch: RunLauncher, canary: Canary, tmp_path: Path
) -> None:
    api = EvaluationApi(launch, RunMonitor(launch.runs_root, tmp_path / "seen"))
    evaluation = find_run(launch.runs_root, call_handler(api.start, {"benchmark": "needle"})["run"])
    training = find_run(launch.runs_root, launch.enqueue(LaunchRequest(RunConfig(), "cpu-demo")))
    edit(evaluation, served=served(canary))
    edit(training, seed=5)
    assert RunQueue(launch.runs_root).start_next() == []
    for layout in (evaluation, training):
        status = read_status(layout)
        assert status.state == "failed" and "changed after it was queued" in status.error


def test_a_config_that_is_replaced_after_the_last_check_is_refused_by_the_job(
    labels: LabelApi, launch: RunLauncher, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The file is replaced after the check of the page and before the process reads it."""
    project = labels.open_project("p")
    layout = newest(project)
    monkeypatch.setenv(
        CONFIG_VARIABLE, *config_variables(layout.run_id, hash_config(layout.config.read_bytes())).values()
    )
    edit(layout, served=served(canary))
    assert labeling_command.main(["run", str(project.folder), "--resume", layout.run_id]) == 2
    assert "were changed after it was started" in capsys.readouterr().err

    api = EvaluationApi(launch, RunMonitor(launch.runs_root, tmp_path / "seen"))
    evaluation = find_run(launch.runs_root, call_handler(api.start, {"benchmark": "needle"})["run"])
    reported = config_variables(evaluation.run_id, hash_config(evaluation.config.read_bytes()))
    monkeypatch.setenv(CONFIG_VARIABLE, *reported.values())
    edit(evaluation, served=served(canary))
    words = ["--resume", evaluation.run_id, "--runs-root", str(launch.runs_root)]
    assert evaluation_command.main(words) == 2
    assert "were changed after it was started" in capsys.readouterr().err


@pytest.mark.integration
def test_a_training_job_refuses_a_config_that_was_replaced(
    launch: RunLauncher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hart_studio.training import __main__ as training_command  # noqa: PLC0415 - imports torch

    layout = find_run(launch.runs_root, launch.enqueue(LaunchRequest(RunConfig(), "cpu-demo")))
    variables = config_variables(layout.run_id, hash_config(layout.config.read_bytes()))
    monkeypatch.setenv(CONFIG_VARIABLE, *variables.values())
    edit(layout, data=json.loads(DataConfig(source="jsonl", path="/etc/passwd").model_dump_json()))
    assert training_command.main(["--resume", layout.run_id, "--runs-root", str(launch.runs_root)]) == 2
    assert "were changed after it was started" in capsys.readouterr().err


def test_a_terminal_says_where_images_go_before_they_do(
    labels: LabelApi, launch: RunLauncher, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In a terminal the user decides after a warning; here the server is never reached."""
    line = f"endpoint: {canary.url}/v1 receives the images; key from environment variable {VARIABLE} (set)\n"
    seen: list[str] = []

    def stop(*_: Any, **__: Any) -> None:
        seen.append(capsys.readouterr().out)
        raise InputError("far enough")

    project = labels.open_project("p")
    layout = newest(project)
    edit(layout, served=served(canary))
    monkeypatch.setattr(labeling_command, "run_labeling", stop)
    assert labeling_command.main(["run", str(project.folder), "--resume", layout.run_id]) == 2
    api = EvaluationApi(launch, RunMonitor(launch.runs_root, tmp_path / "seen"))
    evaluation = find_run(launch.runs_root, call_handler(api.start, {"benchmark": "needle"})["run"])
    edit(evaluation, served=served(canary))
    monkeypatch.setattr(evaluation_command, "run_evaluation", stop)
    assert evaluation_command.main(["--resume", evaluation.run_id, "--runs-root", str(launch.runs_root)]) == 2
    assert len(seen) == 2 and all(line in reported and VALUE not in reported for reported in seen)


def test_a_copied_project_cannot_send_anything_by_itself(labels: LabelApi, canary: Canary, tmp_path: Path) -> None:
    """Open, list and review a project, then wait half a second for anything that this starts."""
    project = labels.open_project("p")
    edit(newest(project), served=served(canary), model="evil/model")
    calls = ReviewApi(labels, AskService(tmp_path / "cache" / "work", lambda name: ScriptedModel()))
    call_handler(labels.projects, {})
    call_handler(labels.poll, {"project": "p"})
    call_handler(calls.next_item, {"project": "p", "reviewer": "ada"})
    call_handler(calls.list_items, {"project": "p", "reviewer": "ada"})
    time.sleep(0.5)
    assert canary.hits == []
