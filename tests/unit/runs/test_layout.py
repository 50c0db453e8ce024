from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.runs.layout import RunLayout, find_run, is_run_id, make_run_id, read_step


def test_an_id_says_when_and_what_and_sorts_by_time() -> None:
    noon = datetime(2026, 8, 24, 12, 15, tzinfo=timezone(timedelta(hours=2)))
    run_id = make_run_id("ap_grpo+sft", noon)
    assert run_id.startswith("20260824-101500-ap_grpo-sft-")
    assert len(run_id) == len("20260824-101500-ap_grpo-sft-") + 6
    assert is_run_id(run_id)
    assert run_id < make_run_id("ap_grpo+sft", noon + timedelta(seconds=1))
    assert make_run_id("sft", noon) != make_run_id("sft", noon)


@pytest.mark.parametrize("method", ["", "a b", "../x", "AP", "a/b", "a;b", "ä"])
def test_a_method_that_cannot_be_part_of_a_name(method: str) -> None:
    with pytest.raises(InputError, match="expected a method"):
        make_run_id(method)


def test_every_file_has_a_place_of_its_own_in_the_folder_of_the_run(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "20260824-101500-sft-0123ab")
    assert layout.run_id == "20260824-101500-sft-0123ab"
    numbered = [place(step) for place in (layout.rollouts_of, layout.checkpoint_of, layout.log_of) for step in (9, 10)]
    files = [layout.config, layout.provenance, layout.status, layout.events, layout.stop, layout.lock, *numbered]
    assert len(set(files)) == len(files)
    assert all(layout.folder in path.parents for path in (*files, layout.images))
    for place in (layout.rollouts_of, layout.checkpoint_of):
        assert read_step(place(10).name) == 10
        assert place(9).name < place(10).name, "names sort as numbers do"


def test_a_run_is_found_by_its_id(tmp_path: Path) -> None:
    run_id = make_run_id("sft")
    (tmp_path / run_id).mkdir()
    assert find_run(tmp_path, run_id).folder == tmp_path.resolve() / run_id


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../20260824-101500-sft-0123ab", "/etc", "20260824-101500-sft-0123ab\n"]
)
def test_what_is_no_id_is_refused(run_id: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Invalid run id"):
        find_run(tmp_path, run_id)


def test_an_id_without_a_run_or_with_a_link_out_is_refused(tmp_path: Path) -> None:
    run_id = make_run_id("sft")
    root = tmp_path / "runs"
    with pytest.raises(InputError, match="There is no run"):
        find_run(root, run_id)
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / run_id).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="Invalid file name"):
        find_run(root, run_id)


def test_steps_are_read_from_names() -> None:
    assert (read_step("step_000010.jsonl"), read_step("step_1234567"), read_step("step_000000")) == (10, 1234567, 0)
    assert [read_step(name) for name in ("step_10", "step_000010.tmp", "xstep_000010", "step_-00010", "")] == [None] * 5
