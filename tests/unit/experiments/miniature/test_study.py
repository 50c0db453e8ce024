from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hart_studio.data.splits import read_manifest
from hart_studio.errors import HartError, InputError
from hart_studio.experiments.miniature.processes import Commands, draw_command, measure_command, train_command
from hart_studio.experiments.miniature.study import JobStatus, Progress, StudyJob, plan_jobs, run_study
from hart_studio.experiments.miniature.study_folder import StudyFolder, load_results
from hart_studio.experiments.miniature.variants import QUICK, VARIANTS, select_variants
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.status import read_status
from tests.unit.experiments.miniature.studies import SIZE, commands


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study", SIZE)


def run(
    study: StudyFolder, names: list[str], processes: Commands, seeds: int = 1, jobs: int = 2
) -> tuple[dict[str, JobStatus], list[str]]:
    said: list[str] = []
    statuses = run_study(study, select_variants(names), seeds, jobs, said.append, processes)
    return {job.label: ending for job, ending in statuses.items()}, said


def run_of(study: StudyFolder, variant: str, seed: int = 0) -> RunLayout:
    layout = study.find_run(VARIANTS[variant], seed)
    assert layout is not None
    return layout


def test_tasks_go_seed_by_seed_and_the_base_is_measured_once() -> None:
    variants = select_variants(["grpo_sft"])
    labels = ["seed 0 base", "seed 0 grpo", "seed 0 grpo_sft", "seed 1 grpo", "seed 1 grpo_sft"]
    assert [job.label for job in plan_jobs(variants, 2)] == labels
    with pytest.raises(ValueError, match="the parent of grpo_sft is missing"):
        plan_jobs([VARIANTS["base"], VARIANTS["grpo_sft"]], 1)


def test_a_study_from_beginning_to_end_and_once_more(study: StudyFolder) -> None:
    statuses, said = run(study, ["ap_grpo_060_sft", "sft"], commands(), seeds=2)
    assert set(statuses.values()) == {"done"} and len(statuses) == 7
    parent, child = run_of(study, "ap_grpo_060", 1), run_of(study, "ap_grpo_060_sft", 1)
    assert json.loads(child.config.read_text())["model"]["id"] == str(parent.folder / "model")
    assert (
        f"measure {child.folder / 'model'}"
        in (study.variant_folder(VARIANTS["ap_grpo_060_sft"], 1) / "evaluate.log").read_text()
    )
    splits = [
        read_manifest(run_of(study, name).folder / "split.json") for name in ("ap_grpo_060", "ap_grpo_060_sft", "sft")
    ]
    assert splits[0] == splits[1] == splits[2] != read_manifest(parent.folder / "split.json")
    parts = (*splits[0].rl_ids, *splits[0].sft_ids, *splits[0].evaluation_ids)
    assert len(set(parts)) == len(parts) == 4 + 5 + 3, "no question in two parts, whatever a run trains"
    assert sum(line.startswith("finished") and " s; " in line for line in said) == 7
    results = load_results(study, select_variants(["sft"]), 2, resamples=10)
    assert results.seeds == 2 and results.curve("sft", "reward") == [{0: 0.25, 1: 0.5}] * 2

    runs = sorted(study.runs.iterdir())
    statuses, said = run(study, ["ap_grpo_060_sft", "sft"], commands(), seeds=2)
    assert set(statuses.values()) == {"found"}
    assert said == ["7 of 7 variants are already complete"]
    assert sorted(study.runs.iterdir()) == runs


def test_a_cell_that_fails_takes_only_its_dependants_along_and_is_resumed(study: StudyFolder) -> None:
    names = ["grpo_sft", "sft"]
    statuses, said = run(study, names, commands(failing="grpo"))
    assert statuses == {
        "seed 0 base": "done",
        "seed 0 grpo": "failed",
        "seed 0 grpo_sft": "skipped",
        "seed 0 sft": "done",
    }
    (failure,) = [line for line in said if line.startswith("failed")]
    assert "seed 0 grpo: the training run is failed at step 0: ValueError: broken" in failure
    assert "the disk is full of needles" in failure
    failed = run_of(study, "grpo")
    statuses, _ = run(study, names, commands())
    assert statuses["seed 0 grpo"] == statuses["seed 0 grpo_sft"] == "done"
    assert statuses["seed 0 base"] == statuses["seed 0 sft"] == "found"
    assert run_of(study, "grpo") == failed, "the same run continued"
    assert read_status(failed).attempt == 2


def test_a_study_that_is_interrupted_stops_its_trainings_and_goes_on_later(study: StudyFolder) -> None:
    def report(line: str) -> None:
        if line.startswith("finished seed 0 base"):
            raise KeyboardInterrupt

    processes = commands(waiting="grpo", measure_after=study.runs)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, select_variants(["grpo"]), 1, 2, report, processes)
    layout = run_of(study, "grpo")
    assert read_status(layout).state == "stopped"
    statuses, _ = run(study, ["grpo"], commands())
    assert statuses == {"seed 0 base": "found", "seed 0 grpo": "done"}
    assert run_of(study, "grpo") == layout


def test_measuring_that_is_interrupted_is_ended(study: StudyFolder) -> None:
    def report(line: str) -> None:
        if line == "started  seed 0 base":
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_study(study, select_variants(["base"]), 1, 1, report, commands(measure_after=study.runs))  # waits for ever
    assert time.monotonic() - began < 60
    assert not study.results_path(VARIANTS["base"], 0).exists()


def test_questions_that_cannot_be_drawn_end_the_study(study: StudyFolder) -> None:
    processes = commands()
    broken = Commands(processes.train, processes.measure, lambda *_: ["/bin/sh", "-c", "echo no ink; exit 3"])
    with pytest.raises(HartError, match="exit code 3") as error:
        run(study, ["base"], broken)
    assert "no ink" in str(error.value)
    assert not study.test.exists(), "half a data set is none"
    assert run(study, ["base"], processes)[0] == {"seed 0 base": "done"}


def test_another_study_needs_another_folder(study: StudyFolder) -> None:
    run(study, ["base"], commands())
    with pytest.raises(InputError, match="Choose another --out"):
        run(StudyFolder(study.folder, QUICK), ["base"], commands())


def test_models_measured_on_other_questions_are_refused(study: StudyFolder) -> None:
    run(study, ["sft"], commands())
    path = study.results_path(VARIANTS["sft"], 0)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(HartError, match="was evaluated on other questions"):
        load_results(study, select_variants(["sft"]), 1, resamples=10)


def test_the_rest_is_estimated_from_what_is_done() -> None:
    study_jobs = [StudyJob(VARIANTS[name], seed) for seed in (0, 1) for name in ("grpo", "mgpo")]
    progress = Progress()
    assert progress.estimate(study_jobs, 2) is None
    progress.statuses = {study_jobs[0]: "done", study_jobs[1]: "done"}
    progress.seconds = {"grpo": [100.0], "mgpo": [300.0]}
    assert progress.estimate(study_jobs, 1) == 400.0
    assert progress.estimate(study_jobs, 2) == 200.0
    assert progress.estimate([*study_jobs, StudyJob(VARIANTS["sft"], 0)], 1) == 600.0, (
        "an unknown variant takes the mean of the known"
    )


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
