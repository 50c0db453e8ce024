from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import DataError
from hart_studio.evaluation.parts import PartsReader, Share, append_records, deal, part_path
from hart_studio.evaluation.records import Judged, Measured
from hart_studio.records import GoldSample, Score
from hart_studio.runs.layout import RunLayout

JUDGED = Judged(score=Score(value=1.0, extracted="A", expected="A", rule="boxed"), outcome="ok")


def question(name: str) -> GoldSample:
    return GoldSample(id=name, image="p.png", question="Which?", gold_boxes=())


def record(name: str, error: str = "") -> Measured:
    return Measured(sample_id=name, category="", answers={"direct": JUDGED}, error=error)


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


def test_what_failed_is_asked_again_by_a_new_attempt_and_the_newest_record_counts(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    parts = PartsReader(layout)
    append_records(part_path(layout, 0), [record("a", error="server gone"), record("b")])
    parts.look()
    assert parts.has_all([question("a"), question("b")])
    parts.forget_failures()
    assert parts.has_all([question("b")]) and not parts.has_all([question("a")])
    append_records(part_path(layout, 0), [record("a", error="gone again")])
    parts.look()
    assert parts.has_all([question("a")]), "an attempt asks once"
    append_records(part_path(layout, 0), [record("a")])
    parts.look()
    assert parts.found["a"].error == ""


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
