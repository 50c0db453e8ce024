from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.files import write_json
from hart_studio.runs import checkpoints
from hart_studio.runs.checkpoints import (
    MANIFEST_FILE,
    begin_checkpoint,
    complete_checkpoint,
    find_resume_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
)
from hart_studio.runs.layout import RunLayout


def save(layout: RunLayout, step: int, *, is_kept: bool = False, is_complete: bool = True) -> Path:
    folder = begin_checkpoint(layout, step)
    (folder / "model.safetensors").write_bytes(b"x" * step)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "config.json").write_text("{}")
    if is_complete:
        complete_checkpoint(layout, step, "ap_grpo", is_kept)
    return folder


def steps_of(layout: RunLayout) -> list[int]:
    return [found.manifest.step for found in list_checkpoints(layout)]


def test_nothing_saved_yet(layout: RunLayout, tmp_path: Path) -> None:
    assert newest_checkpoint(layout) is None
    assert list_checkpoints(RunLayout(tmp_path / "none")) == []
    assert prune_checkpoints(layout, 1) == []


def test_a_checkpoint_counts_from_its_marker_on(layout: RunLayout) -> None:
    save(layout, 100)
    folder = save(layout, 200, is_complete=False)
    newest = newest_checkpoint(layout)
    assert newest
    assert newest.manifest.step == 100
    complete_checkpoint(layout, 200, "sft", is_kept=True)
    newest = newest_checkpoint(layout)
    assert newest
    assert (newest.folder, newest.manifest.stage, newest.manifest.is_kept) == (folder, "sft", True)
    assert newest.manifest.files == {"adapter/config.json": 2, "model.safetensors": 200}
    assert steps_of(layout) == [100, 200]


def test_a_damaged_checkpoint_is_named_and_an_unfinished_one_is_not(layout: RunLayout) -> None:
    save(layout, 100)
    (save(layout, 200) / "model.safetensors").write_bytes(b"x")
    save(layout, 300, is_complete=False)
    (save(layout, 400) / MANIFEST_FILE).write_text("{")
    found, damaged = find_resume_checkpoint(layout)
    assert found
    assert (found.manifest.step, damaged) == (100, ["step_000200", "step_000400"])


def test_changed_weights_of_the_same_size_are_damage(layout: RunLayout) -> None:
    for step in (100, 200, 300):
        save(layout, step)
    changed = layout.checkpoint_of(300) / "model.safetensors"
    changed.write_bytes(b"y" + changed.read_bytes()[1:])
    assert steps_of(layout) == [100, 200, 300], "the size is the same"
    found, damaged = find_resume_checkpoint(layout)
    assert found and (found.manifest.step, damaged) == (200, ["step_000300"])
    save(layout, 250)
    assert prune_checkpoints(layout, 1) == [100, 200], "the damaged one takes no place of a good one"
    assert steps_of(layout) == [250] and changed.exists()


def test_changed_weights_in_every_checkpoint_are_left_alone(layout: RunLayout) -> None:
    (save(layout, 100) / "model.safetensors").write_bytes(b"y" * 100)
    with pytest.raises(InputError, match=r"Every checkpoint of .* is damaged \(step_000100"):
        find_resume_checkpoint(layout)
    assert steps_of(layout) == [100]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(layout: RunLayout) -> None:
    assert find_resume_checkpoint(layout) == (None, [])
    save(layout, 100, is_complete=False)
    assert find_resume_checkpoint(layout) == (None, [])
    (save(layout, 200) / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"Every checkpoint of .* is damaged \(step_000200"):
        find_resume_checkpoint(layout)


def test_steps_are_ordered_as_numbers(layout: RunLayout) -> None:
    for step in (1_000_000, 999_999, 20):
        save(layout, step, is_complete=False)
        (layout.checkpoint_of(step) / "model.safetensors").write_bytes(b"")
        complete_checkpoint(layout, step, "ap_grpo")
    assert steps_of(layout) == [20, 999_999, 1_000_000]


@pytest.mark.parametrize("harm", ["missing", "shorter", "other step", "no json", "leads out", "link"])
def test_a_damaged_checkpoint_is_none(layout: RunLayout, harm: str, tmp_path: Path) -> None:
    save(layout, 100)
    folder = save(layout, 200)
    if harm == "missing":
        (folder / "adapter" / "config.json").unlink()
    elif harm == "shorter":
        (folder / "model.safetensors").write_bytes(b"x")
    elif harm == "other step":
        folder.rename(layout.checkpoint_of(300))
    elif harm == "no json":
        (folder / MANIFEST_FILE).write_text("{")
    elif harm == "leads out":
        mark = list_checkpoints(layout)[-1].manifest.model_dump(mode="json")
        (tmp_path / "outside").write_bytes(b"")
        write_json(folder / MANIFEST_FILE, mark | {"files": {"../../../../outside": 0}})
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    assert steps_of(layout) == [100]


def test_saving_a_step_again_begins_with_an_empty_folder(layout: RunLayout) -> None:
    save(layout, 100, is_complete=False)
    folder = begin_checkpoint(layout, 100)
    assert list(folder.iterdir()) == []


def test_pruning_keeps_the_newest_and_what_is_marked(layout: RunLayout) -> None:
    save(layout, 50, is_kept=True)
    for step in (100, 200, 300):
        save(layout, step)
    assert prune_checkpoints(layout, keep=2) == [100]
    assert steps_of(layout) == [50, 200, 300]
    assert prune_checkpoints(layout, keep=0) == [200], "the newest complete one always stays"
    assert steps_of(layout) == [50, 300]


def test_pruning_never_trades_a_complete_one_for_a_broken_one(layout: RunLayout) -> None:
    save(layout, 50, is_complete=False)
    save(layout, 100)
    save(layout, 150, is_complete=False)
    save(layout, 200)
    newer = save(layout, 300, is_complete=False)
    assert prune_checkpoints(layout, keep=1) == [50, 100, 150]
    assert steps_of(layout) == [200]
    assert newer.is_dir(), "it may be the one that is being written"


def test_what_is_not_supported_is_left_alone(layout: RunLayout, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    layout.checkpoint_of(10).symlink_to(tmp_path / "precious")
    (layout.checkpoints / "notes").mkdir()
    (layout.checkpoints / "step_20").mkdir()
    save(layout, 100)
    assert prune_checkpoints(layout, keep=1) == []
    assert (tmp_path / "precious").is_dir()
    assert len(list(layout.checkpoints.iterdir())) == 4


def test_a_checkpoint_that_is_being_removed_is_not_complete(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    save(layout, 100)
    save(layout, 200)
    seen: list[list[int]] = []
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda folder: seen.append(steps_of(layout)))
    prune_checkpoints(layout, keep=1)
    assert seen == [[200]]
