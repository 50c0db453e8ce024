from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import DataError
from hart_studio.evaluation.parts import PartsReader, Share, append_records, deal, find_end, part_path, write_end
from hart_studio.evaluation.records import Judged, Measured
from hart_studio.records import GoldSample, Score
from hart_studio.runs.layout import RunLayout

JUDGED = Judged(score=Score(value=1.0, extracted="A", expected="A", rule="boxed"), outcome="ok")


def question(name: str) -> GoldSample:
    return GoldSample(id=name, image="p.png", question="Which?", gold_boxes=())


def record(name: str, error: str = "") -> Measured:
    return Measured(sample_id=name, category="", answers={"direct": JUDGED}, error=error)


def fault(name: str, attempt: int) -> Measured:
    return record(name, "server gone").model_copy(update={"is_fault": True, "attempt": attempt})


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_every_question_is_dealt_out_once_and_batches_do_not_depend_on_the_processes(
    count: int, batch: int, processes: int
) -> None:
    samples = [question(str(index)) for index in range(count)]
    alone = [[sample.id for sample in part] for part in deal(samples, batch, Share())]
    shared = [
        [sample.id for sample in part]
        for rank in range(processes)
        for part in deal(samples, batch, Share(rank, processes))
    ]
    assert sorted(shared) == sorted(alone)
    assert sorted(name for part in alone for name in part) == sorted(sample.id for sample in samples)


def test_parts_of_all_processes_are_read_as_they_grow(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    parts = PartsReader(layout)
    assert parts.look() == []
    append_records(part_path(layout, 0), [record("a"), record("b")])
    append_records(part_path(layout, 3), [record("c")])
    assert [found.sample_id for found in parts.look()] == ["a", "b", "c"]
    assert parts.look() == [], "a look costs what is new"
    append_records(part_path(layout, 3), [record("d")])
    assert [found.sample_id for found in parts.look()] == ["d"]
    assert parts.has_all([question("a"), question("d")]) and not parts.has_all([question("x")])


def test_a_fault_is_asked_again_by_a_later_attempt_and_a_broken_picture_is_not(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    append_records(part_path(layout, 0), [fault("a", 1), record("b"), record("c", error="no picture")])
    parts = PartsReader(layout, attempt=2)
    parts.look()
    assert not parts.is_done("a") and parts.has_all([question("b"), question("c")])
    append_records(part_path(layout, 0), [fault("a", 2)])
    parts.look()
    assert parts.is_done("a"), "an attempt asks once"
    assert (parts.done, parts.faults) == (3, 1)


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_an_answer_is_never_replaced_by_a_fault_whatever_file_is_read_last(
    tmp_path: Path, ranks: tuple[int, int]
) -> None:
    layout = RunLayout(tmp_path)
    append_records(part_path(layout, ranks[0]), [fault("a", 1)])
    append_records(part_path(layout, ranks[1]), [record("a"), fault("b", 2)])
    append_records(part_path(layout, ranks[0]), [fault("b", 1)])
    parts = PartsReader(layout, attempt=2)
    parts.look()
    assert parts.found["a"].error == ""
    assert parts.found["b"].attempt == 2, "that of this attempt counts"
    append_records(part_path(layout, 0), [fault("a", 3)])
    parts.look()
    assert parts.found["a"].error == ""


def test_a_process_that_ends_early_says_so_to_its_own_attempt(tmp_path: Path) -> None:
    layout, share = RunLayout(tmp_path), Share(1, 2, attempt=5)
    assert find_end(layout, share) == ""
    write_end(layout, share, "the disk is full")
    assert find_end(layout, Share(0, 2, attempt=5)) == "the disk is full"
    assert find_end(layout, Share(0, 2, attempt=6)) == ""


def test_a_torn_line_is_left_out_and_cut_off_by_the_next_write(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    path = part_path(layout, 0)
    append_records(path, [record("a")])
    with path.open("ab") as file:
        file.write(b'{"sample_id": "b", "cat')
    parts = PartsReader(layout)
    assert [found.sample_id for found in parts.look()] == ["a"]
    append_records(path, [record("c")])
    assert [found.sample_id for found in parts.look()] == ["c"]
    assert [found.sample_id for found in PartsReader(layout).look()] == ["a", "c"]


def test_a_line_that_is_no_record_is_an_error_and_other_files_are_not_read(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    path = part_path(layout, 0)
    append_records(path, [record("a")])
    (path.parent / "part_x.jsonl").write_text("no record\n")
    secret = tmp_path / "secret.jsonl"
    secret.write_text("no record\n")
    (path.parent / "part_00009.jsonl").symlink_to(secret)
    assert [found.sample_id for found in PartsReader(layout).look()] == ["a"]
    path.write_text('{"sample_id": 1}\n')
    with pytest.raises(DataError, match=r"part_00000\.jsonl"):
        PartsReader(layout).look()
