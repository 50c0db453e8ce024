from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import DataError
from hart_studio.evaluation.records import AnswerResult, SampleResult
from hart_studio.evaluation.shards import (
    Shard,
    ShardReader,
    append_records,
    iterate_batches,
    read_worker_error,
    shard_path,
    write_worker_error,
)
from hart_studio.records import GoldSample, Score
from hart_studio.runs.layout import RunLayout

JUDGED = AnswerResult(score=Score(value=1.0, extracted="A", expected="A", rule="boxed"), outcome="ok")


def question(name: str) -> GoldSample:
    return GoldSample(id=name, image="p.png", question="Which?", gold_boxes=())


def record(name: str, error: str = "") -> SampleResult:
    return SampleResult(sample_id=name, category="", answers={"direct": JUDGED}, error=error)


def fault(name: str, attempt: int) -> SampleResult:
    return record(name, "server gone").model_copy(update={"is_model_error": True, "attempt": attempt})


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_every_question_is_dealt_out_once_and_batches_do_not_depend_on_the_processes(
    count: int, batch: int, processes: int
) -> None:
    samples = [question(str(index)) for index in range(count)]
    alone = [[sample.id for sample in part] for part in iterate_batches(samples, batch, Shard())]
    shared = [
        [sample.id for sample in part]
        for rank in range(processes)
        for part in iterate_batches(samples, batch, Shard(rank, processes))
    ]
    assert sorted(shared) == sorted(alone)
    assert sorted(name for part in alone for name in part) == sorted(sample.id for sample in samples)


def test_parts_of_all_processes_are_read_as_they_grow(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    shards = ShardReader(layout)
    assert shards.poll() == []
    append_records(shard_path(layout, 0), [record("a"), record("b")])
    append_records(shard_path(layout, 3), [record("c")])
    assert [found.sample_id for found in shards.poll()] == ["a", "b", "c"]
    assert shards.poll() == [], "a poll returns only new records"
    append_records(shard_path(layout, 3), [record("d")])
    assert [found.sample_id for found in shards.poll()] == ["d"]
    assert shards.has_all([question("a"), question("d")]) and not shards.has_all([question("x")])


def test_a_fault_is_asked_again_by_a_later_attempt_and_a_broken_image_is_not(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    append_records(shard_path(layout, 0), [fault("a", 1), record("b"), record("c", error="no image")])
    shards = ShardReader(layout, attempt=2)
    shards.poll()
    assert not shards.is_done("a") and shards.has_all([question("b"), question("c")])
    append_records(shard_path(layout, 0), [fault("a", 2)])
    shards.poll()
    assert shards.is_done("a"), "an attempt asks once"
    assert (shards.done, shards.model_errors) == (3, 1)


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_an_answer_is_never_replaced_by_a_fault_whatever_file_is_read_last(
    tmp_path: Path, ranks: tuple[int, int]
) -> None:
    layout = RunLayout(tmp_path)
    append_records(shard_path(layout, ranks[0]), [fault("a", 1)])
    append_records(shard_path(layout, ranks[1]), [record("a"), fault("b", 2)])
    append_records(shard_path(layout, ranks[0]), [fault("b", 1)])
    shards = ShardReader(layout, attempt=2)
    shards.poll()
    assert shards.found["a"].error == ""
    assert shards.found["b"].attempt == 2, "that of this attempt counts"
    append_records(shard_path(layout, 0), [fault("a", 3)])
    shards.poll()
    assert shards.found["a"].error == ""


def test_a_process_that_ends_early_says_so_to_its_own_attempt(tmp_path: Path) -> None:
    layout, shard = RunLayout(tmp_path), Shard(1, 2, attempt=5)
    assert read_worker_error(layout, shard) == ""
    write_worker_error(layout, shard, "the disk is full")
    assert read_worker_error(layout, Shard(0, 2, attempt=5)) == "the disk is full"
    assert read_worker_error(layout, Shard(0, 2, attempt=6)) == ""


def test_a_torn_line_is_left_out_and_cut_off_by_the_next_write(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    path = shard_path(layout, 0)
    append_records(path, [record("a")])
    with path.open("ab") as file:
        file.write(b'{"sample_id": "b", "cat')
    shards = ShardReader(layout)
    assert [found.sample_id for found in shards.poll()] == ["a"]
    append_records(path, [record("c")])
    assert [found.sample_id for found in shards.poll()] == ["c"]
    assert [found.sample_id for found in ShardReader(layout).poll()] == ["a", "c"]


def test_a_line_that_is_no_record_is_an_error_and_other_files_are_not_read(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    path = shard_path(layout, 0)
    append_records(path, [record("a")])
    (path.parent / "shard_x.jsonl").write_text("no record\n")
    secret = tmp_path / "secret.jsonl"
    secret.write_text("no record\n")
    (path.parent / "shard_00009.jsonl").symlink_to(secret)
    assert [found.sample_id for found in ShardReader(layout).poll()] == ["a"]
    path.write_text('{"sample_id": 1}\n')
    with pytest.raises(DataError, match=r"shard_00000\.jsonl"):
        ShardReader(layout).poll()
