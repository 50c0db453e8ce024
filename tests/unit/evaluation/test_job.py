from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from hart_studio.errors import DataError, InputError, ModelError
from hart_studio.evaluation import job
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import MAX_CONSECUTIVE_FAILURES, compute_metrics, prepare_run, run_evaluation
from hart_studio.evaluation.results import list_evaluations, load_evaluation, load_evaluations
from hart_studio.evaluation.shards import Shard
from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.progress import ProgressReporter
from hart_studio.runs.events import Warned
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import read_events
from hart_studio.runs.status import get_state
from tests.fakes import ScriptedModel, text_of
from tests.unit.evaluation.conftest import QUESTIONS


def model() -> ScriptedModel:
    return ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', crops_only="\\boxed{A}", direct="\\boxed{B}"
    )


class FailingModel(ScriptedModel):
    """Fails when a question contains a word, after a number of successful calls."""

    word = ""
    calls_left = 10**9

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KeyboardInterrupt
        if self.word and any(self.word in text_of(request) for request in requests):
            raise RuntimeError("no such operator")
        return super().generate(requests, sampling, group_size)


def failing(word: str = "", calls: int = 10**9) -> FailingModel:
    made = FailingModel(grounding=model().grounding, crops_only="\\boxed{A}", direct="\\boxed{B}")
    made.word, made.calls_left = word, calls
    return made


def answers_of(layout: RunLayout) -> list[str]:
    """All measured values except times."""
    found = [record.model_dump(mode="json") for record in load_evaluation(layout).records]
    for record in found:
        record.pop("attempt")
        for answer_result in record["answers"].values():
            answer_result.pop("seconds")
    return [json.dumps(record) for record in found]


def test_an_evaluation_from_start_to_end(config: EvaluationConfig, tmp_path: Path) -> None:
    layout = prepare_run(tmp_path / "runs", config)
    asked = model()
    assert run_evaluation(layout, lambda _: asked)
    state, status = get_state(layout)
    assert (state, status.job, status.step, status.total) == ("completed", "evaluation", QUESTIONS, QUESTIONS)
    (evaluation,) = load_evaluations(tmp_path / "runs", [layout.run_id])
    assert (evaluation.benchmark, evaluation.title, evaluation.is_complete) == ("needle", "built-in-hart", True)
    assert (len(evaluation.records), evaluation.total) == (QUESTIONS, QUESTIONS)
    figures = compute_metrics(evaluation.records)
    right = [record.value("crops_only") for record in evaluation.records]
    assert figures["crops_only/accuracy"] == sum(right) / QUESTIONS
    assert figures["crops_only/accuracy"] + figures["direct/accuracy"] <= 1.0
    assert {len(call.requests) for call in asked.calls} == {4, 2}, "batches of four, and what is left"
    assert [run.layout.run_id for run in list_evaluations(tmp_path / "runs")] == [layout.run_id]
    assert not [text for text in warnings(layout) if "trained only on" in text], "the scenes are drawn ones"


def warnings(layout: RunLayout) -> list[str]:
    return [event.payload.message for event in read_events(layout).events if isinstance(event.payload, Warned)]


def test_a_built_in_model_on_other_images_is_warned_of(
    config: EvaluationConfig, needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted((needle_folder / "images").iterdir())[-1]  # one of them is enough
    with Image.open(path) as image:
        image.save(path, quality=50)  # encoded again: no evidence is left, only names
    layout = prepare_run(tmp_path / "runs", config)
    assert run_evaluation(layout, lambda _: model(), progress=ProgressReporter("question"))
    text = "hart-tiny was trained only on synthetic needle scenes; its answers on these images are not meaningful."
    (reported,) = [found for found in warnings(layout) if "trained only on" in found]
    assert reported.startswith(text)
    assert f"warning: {text}" in capsys.readouterr().err
    other = prepare_run(tmp_path / "runs", config.model_copy(update={"model": "org/general"}))
    assert run_evaluation(other, lambda _: model())
    assert not [found for found in warnings(other) if "trained only on" in found]


def test_scenes_that_are_drawn_for_an_evaluation_are_what_the_model_was_made_for(tmp_path: Path) -> None:
    drawn = EvaluationConfig(benchmark="needle", limit=1, device="cpu")
    layout = prepare_run(tmp_path / "runs", drawn)
    assert run_evaluation(layout, lambda _: model())
    assert not [found for found in warnings(layout) if "trained only on" in found]


def test_many_processes_find_what_one_finds(config: EvaluationConfig, tmp_path: Path) -> None:
    alone = prepare_run(tmp_path / "alone", config)
    run_evaluation(alone, lambda _: model())
    shared = prepare_run(tmp_path / "shared", config)
    others = [
        threading.Thread(target=run_evaluation, args=(shared, lambda _: model(), Shard(rank, 3, 9))) for rank in (1, 2)
    ]
    for other in others:
        other.start()
    assert run_evaluation(shared, lambda _: model(), Shard(0, 3, 9)), "the first one waits for the others"
    for other in others:
        other.join()
    assert answers_of(shared) == answers_of(alone)
    assert len(list((shared.folder / "records").iterdir())) == 3


def test_one_that_was_interrupted_goes_on_with_other_processes_and_asks_nothing_twice(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    alone = prepare_run(tmp_path / "alone", config)
    run_evaluation(alone, lambda _: model())
    layout = prepare_run(tmp_path / "runs", config)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(layout, lambda _: failing(calls=4))  # three calls a batch: one is done, one has begun
    assert get_state(layout)[0] == "stopped"
    assert len(load_evaluation(layout).records) == 4 and not load_evaluation(layout).is_complete
    rest = model()
    other = threading.Thread(target=run_evaluation, args=(layout, lambda _: rest, Shard(1, 2, 9)))
    other.start()
    assert run_evaluation(layout, lambda _: rest, Shard(0, 2, 9))
    other.join()
    assert answers_of(layout) == answers_of(alone)
    assert sum(len(call.requests) for call in rest.calls) == 3 * (QUESTIONS - 4)
    with pytest.raises(InputError, match="completed"):
        run_evaluation(layout, lambda _: model())


def test_a_question_that_fails_is_unscored_and_takes_no_other_along(config: EvaluationConfig, tmp_path: Path) -> None:
    layout = prepare_run(tmp_path / "runs", config)
    first = json.loads((Path(config.path) / "samples.jsonl").read_text().splitlines()[0])
    assert not run_evaluation(layout, lambda _: failing(word=first["question"]))
    records = load_evaluation(layout).records
    failed = [record for record in records if record.error]
    assert failed and all(record.question == first["question"] for record in failed)
    assert "RuntimeError: no such operator" in failed[0].error
    assert compute_metrics(records)["crops_only/unscored"] == len(failed)
    warnings = [event.payload for event in read_events(layout).events if event.payload.type == "warning"]
    assert len(warnings) == len(failed)
    state, status = get_state(layout)
    assert state == "stopped" and f"failed on {len(failed)} questions" in status.error, "so that it can be resumed"
    before = {record.sample_id: record for record in records}
    assert run_evaluation(layout, lambda _: model())
    assert get_state(layout)[0] == "completed"
    after = load_evaluation(layout).records
    assert not any(record.error for record in after)
    assert all(record == before[record.sample_id] for record in after if not before[record.sample_id].error)


def test_a_resume_that_fails_takes_no_answer_away(config: EvaluationConfig, tmp_path: Path) -> None:
    layout = prepare_run(tmp_path / "runs", config)
    first = json.loads((Path(config.path) / "samples.jsonl").read_text().splitlines()[0])
    assert not run_evaluation(layout, lambda _: failing(word=first["question"]))
    good = [record for record in load_evaluation(layout).records if not record.error]
    assert not run_evaluation(layout, lambda _: failing(word="Output the coordinates"))
    assert [record for record in load_evaluation(layout).records if not record.error] == good


def test_other_questions_are_not_mixed_into_an_evaluation(config: EvaluationConfig, tmp_path: Path) -> None:
    layout = prepare_run(tmp_path / "runs", config)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(layout, lambda _: failing(calls=4))
    path = Path(config.path) / "samples.jsonl"
    path.write_text(path.read_text().replace('"question": "', '"question": "Now: '))
    with pytest.raises(DataError, match=r"differ from those that .* started with"):
        run_evaluation(layout, lambda _: model())


def test_the_first_process_does_not_wait_for_one_that_has_ended(config: EvaluationConfig, tmp_path: Path) -> None:
    layout = prepare_run(tmp_path / "runs", config)

    def no_model(_: EvaluationConfig) -> ScriptedModel:
        raise ModelError("no memory left")

    with pytest.raises(ModelError, match="no memory left"):
        run_evaluation(layout, no_model, Shard(1, 2, attempt=7))
    with pytest.raises(ModelError, match=r"has ended: process 1: no memory left"):
        run_evaluation(layout, lambda _: model(), Shard(0, 2, attempt=7))
    assert get_state(layout)[0] == "failed"


def test_a_server_that_never_answers_is_given_up_in_time(
    config: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**9, 300))  # every call of the model takes five minutes
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    layout = prepare_run(tmp_path / "runs", config)
    with pytest.raises(ModelError, match="The model failed on the last"):
        run_evaluation(layout, lambda _: failing(word="Output the coordinates"))
    assert load_evaluation(layout).records == (), "long before sixteen questions"


def test_a_model_that_never_answers_ends_the_evaluation_and_wastes_no_question(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    layout = prepare_run(tmp_path / "runs", config)
    broken = failing(word="Output the coordinates")
    with pytest.raises(ModelError, match=f"last {MAX_CONSECUTIVE_FAILURES} questions:"):
        run_evaluation(layout, lambda _: broken)
    assert get_state(layout)[0] == "failed"
    assert len(load_evaluation(layout).records) < MAX_CONSECUTIVE_FAILURES, "the last ones are still to do"
    assert run_evaluation(layout, lambda _: model()), "and what failed before is tried again"
    assert not any(record.error for record in load_evaluation(layout).records)


def test_a_stop_is_heard_between_batches(config: EvaluationConfig, tmp_path: Path) -> None:
    layout = prepare_run(tmp_path / "runs", config)

    class Stopping(ScriptedModel):
        def generate(
            self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
        ) -> list[list[Completion]]:
            layout.stop.touch()
            return super().generate(requests, sampling, group_size)

    stopping = Stopping(grounding=model().grounding, crops_only="\\boxed{A}", direct="\\boxed{B}")
    assert not run_evaluation(layout, lambda _: stopping)
    assert get_state(layout)[0] == "stopped"
    assert len(load_evaluation(layout).records) == config.batch


def test_rows_that_are_no_question_are_counted_and_named(config: EvaluationConfig, tmp_path: Path) -> None:
    path = Path(config.path) / "samples.jsonl"
    path.write_text(path.read_text() + '{"id": "broken"}\n')
    layout = prepare_run(tmp_path / "runs", config)
    run_evaluation(layout, lambda _: model())
    asked = json.loads((layout.folder / "dataset_info.json").read_text())
    assert (asked["samples"], asked["invalid_count"]) == (QUESTIONS, 1)
    assert asked["invalid_rows"][0][0] == f"line {QUESTIONS + 1}"


def test_sampled_answers_do_not_depend_on_who_asks(config: EvaluationConfig, tmp_path: Path) -> None:
    loop = config.loop.model_copy(update={"seed": 100, "temperature": 1.0})
    layout = prepare_run(tmp_path / "runs", config.model_copy(update={"loop": loop}))
    asked = model()
    run_evaluation(layout, lambda _: asked)
    seeds = [call.sampling.seed for call in asked.calls]
    answer_seeds = sorted({seed for seed in seeds if seed is not None and seed < 2**32})
    assert answer_seeds == [100, 104, 108, 112, 116], "one per batch, by the number of its first question"


def test_an_unknown_benchmark_makes_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needle"):
        prepare_run(tmp_path / "runs", EvaluationConfig(benchmark="gone"))
    assert not (tmp_path / "runs").exists()


def test_phases_before_the_first_answer_are_reported(
    config: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = prepare_run(tmp_path / "runs", config)
    seen = []

    def see() -> None:
        seen.append(get_state(layout)[1].phase)

    def read(*given: object) -> object:
        see()
        return load(*given)

    def open_model(_: EvaluationConfig) -> ScriptedModel:
        see()
        return Seeing(grounding=model().grounding, crops_only="\\boxed{A}", direct="\\boxed{B}")

    class Seeing(ScriptedModel):
        def generate(
            self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
        ) -> list[list[Completion]]:
            see()
            return super().generate(requests, sampling, group_size)

    load = job.load_questions
    monkeypatch.setattr(job, "load_questions", read)
    assert run_evaluation(layout, open_model)
    assert list(dict.fromkeys(seen))[:3] == ["reading the questions", "loading the model", "asking the first questions"]
    assert seen[-1] == get_state(layout)[1].phase == "", "no phase once there are figures"
