from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hart_studio.data.splits import read_manifest
from hart_studio.errors import HartError, InputError
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.status import read_status
from hart_studio.training.miniature.cells import CELLS, QUICK, choose_cells
from hart_studio.training.miniature.jobs import Commands, draw_command, measure_command, train_command
from hart_studio.training.miniature.results import load_results
from hart_studio.training.miniature.study import Ending, Progress, Task, plan_tasks, run_study
from hart_studio.training.miniature.workplace import Workplace
from tests.unit.training.miniature.studies import SIZE, commands


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "study", SIZE)


def run(
    place: Workplace, names: list[str], told: Commands, seeds: int = 1, jobs: int = 2
) -> tuple[dict[str, Ending], list[str]]:
    said: list[str] = []
    endings = run_study(place, choose_cells(names), seeds, jobs, said.append, told)
    return {task.label: ending for task, ending in endings.items()}, said


def run_of(place: Workplace, cell: str, seed: int = 0) -> RunLayout:
    layout = place.find_run(CELLS[cell], seed)
    assert layout is not None
    return layout


def test_tasks_go_seed_by_seed_and_the_base_is_measured_once() -> None:
    cells = choose_cells(["grpo_sft"])
    labels = ["seed 0 base", "seed 0 grpo", "seed 0 grpo_sft", "seed 1 grpo", "seed 1 grpo_sft"]
    assert [task.label for task in plan_tasks(cells, 2)] == labels
    with pytest.raises(ValueError, match="grpo_sft without"):
        plan_tasks([CELLS["base"], CELLS["grpo_sft"]], 1)


def test_a_study_from_beginning_to_end_and_once_more(place: Workplace) -> None:
    endings, said = run(place, ["ap_grpo_060_sft", "sft"], commands(), seeds=2)
    assert set(endings.values()) == {"done"} and len(endings) == 7
    parent, child = run_of(place, "ap_grpo_060", 1), run_of(place, "ap_grpo_060_sft", 1)
    assert json.loads(child.config.read_text())["model"]["id"] == str(parent.folder / "model")
    assert (
        f"measure {child.folder / 'model'}"
        in (place.cell_folder(CELLS["ap_grpo_060_sft"], 1) / "measure.log").read_text()
    )
    splits = [
        read_manifest(run_of(place, name).folder / "split.json") for name in ("ap_grpo_060", "ap_grpo_060_sft", "sft")
    ]
    assert splits[0] == splits[1] == splits[2] != read_manifest(parent.folder / "split.json")
    parts = (*splits[0].rl_ids, *splits[0].sft_ids, *splits[0].evaluation_ids)
    assert len(set(parts)) == len(parts) == 4 + 5 + 3, "no question in two parts, whatever a run trains"
    assert sum(line.startswith("finished") and " s; " in line for line in said) == 7
    results = load_results(place, choose_cells(["sft"]), 2, resamples=10)
    assert results.seeds == 2 and results.curve("sft", "reward") == [{0: 0.25, 1: 0.5}] * 2

    runs = sorted(place.runs.iterdir())
    endings, said = run(place, ["ap_grpo_060_sft", "sft"], commands(), seeds=2)
    assert set(endings.values()) == {"found"}
    assert said == ["7 of 7 cells are complete already"]
    assert sorted(place.runs.iterdir()) == runs


def test_a_cell_that_fails_takes_only_its_dependants_along_and_is_resumed(place: Workplace) -> None:
    names = ["grpo_sft", "sft"]
    endings, said = run(place, names, commands(failing="grpo"))
    assert endings == {
        "seed 0 base": "done",
        "seed 0 grpo": "failed",
        "seed 0 grpo_sft": "skipped",
        "seed 0 sft": "done",
    }
    (failure,) = [line for line in said if line.startswith("failed")]
    assert "seed 0 grpo: training is failed at step 0: ValueError: broken" in failure
    assert "the disk is full of needles" in failure
    failed = run_of(place, "grpo")
    endings, _ = run(place, names, commands())
    assert endings["seed 0 grpo"] == endings["seed 0 grpo_sft"] == "done"
    assert endings["seed 0 base"] == endings["seed 0 sft"] == "found"
    assert run_of(place, "grpo") == failed, "the same run went on"
    assert read_status(failed).attempt == 2


def test_a_study_that_is_interrupted_stops_its_trainings_and_goes_on_later(place: Workplace) -> None:
    def say(line: str) -> None:
        if line.startswith("finished seed 0 base"):
            raise KeyboardInterrupt

    told = commands(waiting="grpo", measure_after=place.runs)
    with pytest.raises(KeyboardInterrupt):
        run_study(place, choose_cells(["grpo"]), 1, 2, say, told)
    layout = run_of(place, "grpo")
    assert read_status(layout).state == "stopped"
    endings, _ = run(place, ["grpo"], commands())
    assert endings == {"seed 0 base": "found", "seed 0 grpo": "done"}
    assert run_of(place, "grpo") == layout


def test_measuring_that_is_interrupted_is_ended(place: Workplace) -> None:
    def say(line: str) -> None:
        if line == "started  seed 0 base":
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_study(place, choose_cells(["base"]), 1, 1, say, commands(measure_after=place.runs))  # waits for ever
    assert time.monotonic() - began < 60
    assert not place.measured(CELLS["base"], 0).exists()


def test_questions_that_cannot_be_drawn_end_the_study(place: Workplace) -> None:
    told = commands()
    broken = Commands(told.train, told.measure, lambda *_: ["/bin/sh", "-c", "echo no ink; exit 3"])
    with pytest.raises(HartError, match="exit code 3") as error:
        run(place, ["base"], broken)
    assert "no ink" in str(error.value)
    assert not place.test.exists(), "half a data set is none"
    assert run(place, ["base"], told)[0] == {"seed 0 base": "done"}


def test_another_study_needs_another_folder(place: Workplace) -> None:
    run(place, ["base"], commands())
    with pytest.raises(InputError, match="name another --out"):
        run(Workplace(place.folder, QUICK), ["base"], commands())


def test_models_measured_on_other_questions_are_refused(place: Workplace) -> None:
    run(place, ["sft"], commands())
    path = place.measured(CELLS["sft"], 0)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(HartError, match="the same questions"):
        load_results(place, choose_cells(["sft"]), 1, resamples=10)


def test_the_rest_is_estimated_from_what_is_done() -> None:
    tasks = [Task(CELLS[name], seed) for seed in (0, 1) for name in ("grpo", "mgpo")]
    progress = Progress()
    assert progress.estimate(tasks, 2) is None
    progress.endings = {tasks[0]: "done", tasks[1]: "done"}
    progress.seconds = {"grpo": [100.0], "mgpo": [300.0]}
    assert progress.estimate(tasks, 1) == 400.0
    assert progress.estimate(tasks, 2) == 200.0
    assert progress.estimate([*tasks, Task(CELLS["sft"], 0)], 1) == 600.0, "an unknown cell takes the mean of the known"


def test_the_commands_are_this_project_s_own(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "runs" / "20260824-101500-grpo-3fa2c1")
    assert train_command(layout)[1:] == [
        *("-m", "hart_studio.training", "--resume", layout.run_id),
        *("--runs-root", str(tmp_path / "runs")),
    ]
    assert measure_command("", tmp_path, tmp_path / "o")[1:3] == ["-m", "hart_studio.evaluation.measurement"]
    assert "--model" not in measure_command("", tmp_path, tmp_path / "o")
    assert "--model" in measure_command("m", tmp_path, tmp_path / "o")
    assert draw_command("test", 5, tmp_path, ("--width", "64"))[-2:] == ["--width", "64"]
