from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from hart_studio.errors import DataError, InputError, ModelError
from hart_studio.evaluation import job
from hart_studio.evaluation.config import EvaluationConfig, read_config
from hart_studio.evaluation.job import MAX_CONSECUTIVE_FAILURES, compute_metrics, prepare_run, run_evaluation
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.results import (
    list_evaluations,
    load_evaluation,
    read_dataset_info,
    summarize_evaluation,
)
from hart_studio.evaluation.shards import Shard
from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.model_loading import load_chat_model
from hart_studio.progress import ProgressReporter
from hart_studio.prompts import GROUNDING_INSTRUCTION
from hart_studio.runs.events import Warned
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import read_events
from hart_studio.runs.status import get_state
from tests.evaluations import results_without_times
from tests.fake_endpoint import Answer, Seen, serving
from tests.fakes import ScriptedModel, text_of
from tests.unit.evaluation.conftest import QUESTIONS
from tests.unit.models.served import settings_of


def model() -> ScriptedModel:
    return ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', crops_only="\\boxed{A}", direct="\\boxed{B}"
    )


class WatchedModel(ScriptedModel):
    """Calls a function with the requests before it answers; the function may raise."""

    before: Callable[[Sequence[ChatRequest]], object]

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        self.before(requests)
        return super().generate(requests, sampling, group_size)


def watched(before: Callable[[Sequence[ChatRequest]], object]) -> WatchedModel:
    made = WatchedModel(grounding=model().grounding, crops_only="\\boxed{A}", direct="\\boxed{B}")
    made.before = before
    return made


def failing(word: str) -> WatchedModel:
    """Fails when a question contains the word."""

    def fail(requests: Sequence[ChatRequest]) -> None:
        if any(word in text_of(request) for request in requests):
            raise RuntimeError("no such operator")

    return watched(fail)


def interrupted(calls: int) -> WatchedModel:
    """Is interrupted after a number of calls."""
    left = iter(range(calls))

    def interrupt(_: Sequence[ChatRequest]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return watched(interrupt)


@pytest.fixture
def layout(config: EvaluationConfig, tmp_path: Path) -> RunLayout:
    return prepare_run(tmp_path / "runs", config)


def test_an_evaluation_from_start_to_end(tmp_path: Path, layout: RunLayout) -> None:
    asked = model()
    assert run_evaluation(layout, lambda _: asked)
    state, status = get_state(layout)
    assert (state, status.job, status.step, status.total) == ("completed", "evaluation", QUESTIONS, QUESTIONS)
    evaluation = load_evaluation(layout)
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
    config: EvaluationConfig, needle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: RunLayout
) -> None:
    path = sorted((needle_folder / "images").iterdir())[-1]  # one of them is enough
    with Image.open(path) as image:
        image.save(path, quality=50)  # encoded again: no evidence is left, only names
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
    assert results_without_times(shared) == results_without_times(alone)
    assert len(list((shared.folder / "records").iterdir())) == 3


def test_one_that_was_interrupted_goes_on_with_other_processes_and_asks_nothing_twice(
    config: EvaluationConfig, tmp_path: Path, layout: RunLayout
) -> None:
    alone = prepare_run(tmp_path / "alone", config)
    run_evaluation(alone, lambda _: model())
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(layout, lambda _: interrupted(4))  # three calls a batch: one is done, one has begun
    assert get_state(layout)[0] == "stopped"
    assert len(load_evaluation(layout).records) == 4 and not load_evaluation(layout).is_complete
    rest = model()
    other = threading.Thread(target=run_evaluation, args=(layout, lambda _: rest, Shard(1, 2, 9)))
    other.start()
    assert run_evaluation(layout, lambda _: rest, Shard(0, 2, 9))
    other.join()
    assert results_without_times(layout) == results_without_times(alone)
    assert sum(len(call.requests) for call in rest.calls) == 3 * (QUESTIONS - 4)
    with pytest.raises(InputError, match="completed"):
        run_evaluation(layout, lambda _: model())


def test_a_question_that_fails_is_unscored_and_takes_no_other_along(
    config: EvaluationConfig, layout: RunLayout
) -> None:
    first = json.loads((Path(config.path) / "samples.jsonl").read_text().splitlines()[0])
    assert not run_evaluation(layout, lambda _: failing(first["question"]))
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


def test_a_resume_that_fails_takes_no_answer_away(config: EvaluationConfig, layout: RunLayout) -> None:
    first = json.loads((Path(config.path) / "samples.jsonl").read_text().splitlines()[0])
    assert not run_evaluation(layout, lambda _: failing(first["question"]))
    good = [record for record in load_evaluation(layout).records if not record.error]
    assert not run_evaluation(layout, lambda _: failing("Output the coordinates"))
    assert [record for record in load_evaluation(layout).records if not record.error] == good


def test_other_questions_are_not_mixed_into_an_evaluation(config: EvaluationConfig, layout: RunLayout) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(layout, lambda _: interrupted(4))
    path = Path(config.path) / "samples.jsonl"
    path.write_text(path.read_text().replace('"question": "', '"question": "Now: '))
    with pytest.raises(DataError, match=r"differ from those that .* started with"):
        run_evaluation(layout, lambda _: model())


def test_the_first_process_does_not_wait_for_one_that_has_ended(layout: RunLayout) -> None:

    def no_model(_: EvaluationConfig) -> ScriptedModel:
        raise ModelError("no memory left")

    with pytest.raises(ModelError, match="no memory left"):
        run_evaluation(layout, no_model, Shard(1, 2, attempt=7))
    with pytest.raises(ModelError, match=r"has ended: process 1: no memory left"):
        run_evaluation(layout, lambda _: model(), Shard(0, 2, attempt=7))
    assert get_state(layout)[0] == "failed"


def test_a_server_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, layout: RunLayout) -> None:
    clock = iter(range(0, 10**9, 300))  # every call of the model takes five minutes
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    with pytest.raises(ModelError, match="The model failed on the last"):
        run_evaluation(layout, lambda _: failing("Output the coordinates"))
    assert load_evaluation(layout).records == (), "long before sixteen questions"


def test_a_model_that_never_answers_ends_the_evaluation_and_wastes_no_question(layout: RunLayout) -> None:
    broken = failing("Output the coordinates")
    with pytest.raises(ModelError, match=f"last {MAX_CONSECUTIVE_FAILURES} questions:"):
        run_evaluation(layout, lambda _: broken)
    assert get_state(layout)[0] == "failed"
    assert len(load_evaluation(layout).records) < MAX_CONSECUTIVE_FAILURES, "the last ones are still to do"
    assert run_evaluation(layout, lambda _: model()), "and what failed before is tried again"
    assert not any(record.error for record in load_evaluation(layout).records)


def test_a_stop_is_heard_between_batches(config: EvaluationConfig, layout: RunLayout) -> None:

    stopping = watched(lambda _: layout.stop.touch())
    assert not run_evaluation(layout, lambda _: stopping)
    assert get_state(layout)[0] == "stopped"
    assert len(load_evaluation(layout).records) == config.batch


def test_rows_that_are_no_question_are_counted_and_named(config: EvaluationConfig, layout: RunLayout) -> None:
    path = Path(config.path) / "samples.jsonl"
    path.write_text(path.read_text() + '{"id": "broken"}\n')
    with pytest.raises(DataError, match=r"1 of \d+ rows .* are dropped: 1 x .*--allow-dropped"):
        run_evaluation(layout, lambda _: pytest.fail("the model was loaded"))
    layout = prepare_run(layout.folder.parent, config.model_copy(update={"allow_dropped": True}))
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


def test_phases_before_the_first_answer_are_reported(monkeypatch: pytest.MonkeyPatch, layout: RunLayout) -> None:
    seen = []

    def see() -> None:
        seen.append(get_state(layout)[1].phase)

    def read(*given: object) -> object:
        see()
        return load(*given)

    def open_model(_: EvaluationConfig) -> ScriptedModel:
        see()
        return watched(lambda _: see())

    load = job.load_questions
    monkeypatch.setattr(job, "load_questions", read)
    assert run_evaluation(layout, open_model)
    assert list(dict.fromkeys(seen))[:3] == ["reading the questions", "loading the model", "running the first batch"]
    assert seen[-1] == get_state(layout)[1].phase == "", "no phase once there are figures"


KEY = "sk-evaluation-0123456789abcdef"


def test_a_served_model_is_measured_question_by_question(config: EvaluationConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lines = (Path(config.path) / "samples.jsonl").read_text().splitlines()
    bad = lines[3].split('"question": "')[1].split('"')[0]
    hit = sum(f'"question": "{bad}"' in line for line in lines)

    def script(seen: Seen) -> Answer:
        if bad in seen.text:
            return Answer(status=400, body=b'{"error": {"message": "this one is too long"}}')
        text = '[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]' if GROUNDING_INSTRUCTION in seen.text else "\\boxed{A}"
        return Answer((text,))

    with serving(script) as server:
        settings = settings_of(server, model="hart", concurrency=4)
        layout = prepare_run(tmp_path / "runs", config.model_copy(update={"served": settings, "title": ""}))
        assert not run_evaluation(layout, lambda given: load_chat_model(given.model_name, served=given.served))
        assert server.most_at_once <= 4
    evaluation = load_evaluation(layout)
    failed = [record for record in evaluation.records if record.error]
    assert (len(evaluation.records), len(failed)) == (QUESTIONS, hit)
    assert all("too long" in record.error and record.question == bad for record in failed)
    assert all(record.value("crops_only") in (0.0, 1.0) for record in evaluation.records if not record.error)
    assert (evaluation.title, evaluation.model) == ("hart", f"hart at {server.url}")
    assert read_config(layout).served == settings
    written = b"".join(path.read_bytes() for path in layout.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in written


def scripted(seen: Seen) -> str:
    return '[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]' if GROUNDING_INSTRUCTION in seen.text else "\\boxed{A}"


def test_no_question_waits_for_the_turns_of_another(config: EvaluationConfig, tmp_path: Path) -> None:
    """One grounding turn ends only when an answer turn of another question has arrived: a barrier would never end."""
    has_answered, lock, first = threading.Event(), threading.Lock(), []

    def script(seen: Seen) -> Answer:
        if GROUNDING_INSTRUCTION in seen.text:
            with lock:
                is_first = not first
                first.append(seen)
            if is_first and not has_answered.wait(timeout=20):
                return Answer(status=400, body=b"waited for others")
        else:
            has_answered.set()
        return Answer((scripted(seen),), delay_seconds=random.Random(seen.text).uniform(0, 0.02))

    asked = config.model_copy(update={"protocols": ("crops_only",), "batch": 64})
    with serving(script) as server:
        served = asked.model_copy(update={"served": settings_of(server, model="hart", concurrency=64)})
        layout = prepare_run(tmp_path / "runs", served)
        assert run_evaluation(layout, lambda given: load_chat_model(given.model_name, served=given.served))
        samples = job.load_questions(served, layout.folder / "images").loaded.samples
        barrier = load_chat_model("", served=settings_of(server, model="hart", concurrency=64))
        expected = job.measure_batch(barrier, samples, served.protocols, served.loop)
    records = load_evaluation(layout).records
    assert [record.sample_id for record in records] == [sample.id for sample in samples]
    written = (layout.folder / "records" / "shard_00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["sample_id"] for line in written] == [sample.id for sample in samples]
    assert [_without_times(record) for record in records] == [_without_times(record) for record in expected]


def _without_times(record: SampleResult) -> SampleResult:
    answers = {name: answer.model_copy(update={"seconds": 0.0}) for name, answer in record.answers.items()}
    return record.model_copy(update={"answers": answers, "attempt": 0})


def test_a_stopped_served_evaluation_resumes_with_what_is_left(config: EvaluationConfig, tmp_path: Path) -> None:
    started = 0

    def script(seen: Seen) -> Answer:
        nonlocal started
        started += 1
        if started == 4:
            layout.stop.touch()
        return Answer((scripted(seen),), delay_seconds=0.05)

    with serving(script) as server:
        served = config.model_copy(update={"served": settings_of(server, model="hart", concurrency=1)})
        layout = prepare_run(tmp_path / "runs", served)
        began = time.monotonic()
        assert not run_evaluation(layout, lambda given: load_chat_model(given.model_name, served=given.served))
        assert time.monotonic() - began < 15
        done = [record.sample_id for record in load_evaluation(layout).records]
        assert len(done) < QUESTIONS
        layout.stop.unlink()
        assert run_evaluation(layout, lambda given: load_chat_model(given.model_name, served=given.served), Shard())
    records = load_evaluation(layout).records
    assert len(records) == QUESTIONS
    assert [record.sample_id for record in records][: len(done)] == done


def test_replies_without_text_are_unscored_and_counted(config: EvaluationConfig, tmp_path: Path) -> None:
    lines = (Path(config.path) / "samples.jsonl").read_text().splitlines()
    mute = lines[1].split('"question": "')[1].split('"')[0]
    hit = sum(f'"question": "{mute}"' in line for line in lines)
    null = {"choices": [{"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}]}

    def script(seen: Seen) -> Answer:
        if mute in seen.text and GROUNDING_INSTRUCTION not in seen.text:
            return Answer(body=json.dumps(null).encode())
        return Answer((scripted(seen),))

    with serving(script) as server:
        served = config.model_copy(update={"served": settings_of(server, model="hart")})
        layout = prepare_run(tmp_path / "runs", served)
        assert run_evaluation(layout, lambda given: load_chat_model(given.model_name, served=given.served))
    evaluation = load_evaluation(layout)
    summary = summarize_evaluation(evaluation, read_dataset_info(layout))
    assert {found.unscored for found in summary.accuracy} == {hit}
    assert {found.scored for found in summary.accuracy} == {QUESTIONS - hit}
    assert f"  {hit * len(served.protocols)} answers unscored: The server returned a refusal" in "\n".join(
        summary.lines()
    )
    assert not summary.failures
