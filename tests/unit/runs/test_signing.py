from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.errors import DataError
from hart_studio.runs.signing import KEY_FILE, is_signed, sign_plan

PLAN = {"argv": ["python", "-m", "x"], "gpus": [0, 1]}


def test_a_signature_is_for_one_plan_one_run_and_one_root(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for root in (first, second):
        root.mkdir()
    signature = sign_plan(first, "run-1", PLAN)
    sign_plan(second, "run-1", PLAN)
    assert is_signed(first, "run-1", dict(reversed(PLAN.items())), signature)
    assert not is_signed(first, "run-2", PLAN, signature)
    assert not is_signed(first, "run-1", {**PLAN, "argv": ["sh"]}, signature)
    assert not is_signed(second, "run-1", PLAN, signature)
    assert not any(is_signed(first, "run-1", PLAN, other) for other in (None, 7, "", "é", "\ud800", signature[:-1]))


def test_only_the_owner_reads_the_key_and_nothing_else_is_left(tmp_path: Path) -> None:
    assert not is_signed(tmp_path, "run", PLAN, "x") and not list(tmp_path.iterdir()), "checking creates no key"
    with ThreadPoolExecutor(8) as pool:
        signatures = set(pool.map(lambda _: sign_plan(tmp_path, "run", PLAN), range(32)))
    assert len(signatures) == 1, "the first one created the key of all"
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0


def test_a_key_that_is_none_is_reported(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(DataError, match="Remove the file"):
        sign_plan(tmp_path, "run", PLAN)
    assert not is_signed(tmp_path, "run", PLAN, "0" * 64)


@pytest.mark.parametrize("target", ["known", "missing", "."])
def test_a_key_that_is_a_link_or_a_folder_signs_nothing(tmp_path: Path, target: str) -> None:
    """Such as one that leads to a file in a run that was copied here."""
    (tmp_path / "known").write_bytes(b"k" * 32)
    (tmp_path / KEY_FILE).symlink_to(tmp_path / target)
    with pytest.raises(DataError, match="not a regular file"):
        sign_plan(tmp_path, "run", PLAN)
    assert not is_signed(tmp_path, "run", PLAN, "0" * 64)


def test_where_there_are_no_hard_links_the_key_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("hart_studio.runs.signing.os.link", refuse)
    with ThreadPoolExecutor(8) as pool:
        signatures = set(pool.map(lambda _: sign_plan(tmp_path, "run", PLAN), range(32)))
    assert len(signatures) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
