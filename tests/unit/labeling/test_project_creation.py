from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.labeling import project_creation
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_creation import create_project


def create_together(folder: Path, count: int = 8) -> list[object]:
    barrier = threading.Barrier(count)

    def create(number: int) -> object:
        barrier.wait()
        try:
            return create_project(folder, f"by {number}").name
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(create, range(count)))


@pytest.mark.parametrize("place", ["p", "root/that/is/missing/p"])
def test_of_many_that_make_one_project_one_succeeds(tmp_path: Path, place: str) -> None:
    results = create_together(tmp_path / place)
    names = [result for result in results if isinstance(result, str)]
    errors = [result for result in results if not isinstance(result, str)]
    assert len(names) == 1
    assert {type(error) for error in errors} == {InputError}
    assert all("is in" in str(error) and "already" in str(error) for error in errors)
    assert Project(tmp_path / place).name == names[0]
    assert [path.name for path in (tmp_path / place).parent.iterdir()] == ["p"], "no draft is left"


def test_of_two_processes_that_make_one_project_one_succeeds(tmp_path: Path) -> None:
    code = "import sys; from hart_studio.labeling.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "create", str(tmp_path / "root" / "p")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    reported = [process.communicate(timeout=60) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2]
    assert sum("is in" in error for _, error in reported) == 1
    assert Project(tmp_path / "root" / "p").count() == 0


def test_a_folder_with_other_files_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("mine")
    create_project(tmp_path / "p", "Signs")
    assert (tmp_path / "p" / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="already"):
        create_project(tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(draft: Path, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(project_creation, "publish_draft", fail)
    with pytest.raises(DataError, match="No space left"):
        create_project(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "name"), [(".trash", "p"), (".draft-0", "p"), ("x\udcff", "p"), ("p", "x\udcff")])
def test_invalid_folders_and_names_are_rejected(tmp_path: Path, place: str, name: str) -> None:
    with pytest.raises(InputError, match="Choose another"):
        create_project(tmp_path / place, name)
    assert list(tmp_path.iterdir()) == []


def test_a_project_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    assert create_project(tmp_path / "x\udcff" / "p").count() == 0
