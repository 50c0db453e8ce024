from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import InputError
from hart_studio.runs.layout import (
    MAX_NAME_CHARS,
    RunLayout,
    find_run,
    is_run_id,
    make_run_id,
    read_name,
    read_step,
    suggest_name,
)


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


@pytest.mark.parametrize(
    "name", ["", "a", "A run 2.5_x-y", "x" * MAX_NAME_CHARS, "Müller Versuch", "第2次実験", "पहला"]
)
def test_names_of_any_language_are_kept(name: str) -> None:
    assert read_name(name) == name


def test_a_letter_that_comes_in_parts_is_one_letter() -> None:
    assert read_name("Mu\u0308ller") == "Müller"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Versuch #3 (neu)", "Versuch 3 neu"),
        ("lr=1e-5, k=0.6", "lr 1e-5 k 0.6"),
        ("../up", "up"),
        ("-x", "x"),
        ("a/b\n", "a b"),
        ("<script>alert(1)</script>", "script alert 1 script"),
        ("x" * 61, "x" * 60),
        ("ﬁrst try!", "first try"),
        ("a\u202egnp.exe", "a gnp.exe"),
    ],
)
def test_another_text_is_refused_in_words_with_a_name_that_could_be_used(text: str, near: str) -> None:
    assert suggest_name(text) == near
    with pytest.raises(ValueError, match="letters, digits, spaces, dots, hyphens and underscores") as caught:
        read_name(text)
    assert repr(near) in str(caught.value) and "[A-Z" not in str(caught.value)


def test_a_text_without_a_letter_leaves_nothing_to_propose() -> None:
    with pytest.raises(ValueError, match="leave it empty"):
        read_name("??? --")


@given(st.text(max_size=90))
def test_what_is_proposed_can_be_used(text: str) -> None:
    assert read_name(suggest_name(text)) is not None
    assert len(suggest_name(text)) <= MAX_NAME_CHARS
