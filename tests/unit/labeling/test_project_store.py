from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import HartError, InputError
from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project_lifecycle import archive_project, delete_project, rename_project
from hart_studio.labeling.project_store import ProjectStore
from tests.unit.labeling.conftest import ask


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    return ProjectStore(tmp_path / "labels")


def test_a_project_that_cannot_be_opened_is_listed_with_its_problem(store: ProjectStore) -> None:
    assert store.list_projects() == []
    store.create_project("Good")
    broken = store.create_project("Broken")
    broken.database.close()
    (broken.folder / DATABASE).write_bytes(b"no database at all" * 100)
    found = {entry.id: entry for entry in store.list_projects()}
    assert found["good"].problem == ""
    assert "is no labeling project, or damaged" in found["broken"].problem
    with pytest.raises(HartError, match="is no labeling project, or damaged"):
        store.open_project("broken")


def test_requests_for_the_same_name_make_one_project(store: ProjectStore) -> None:
    barrier = threading.Barrier(6)

    def create(_: int) -> object:
        barrier.wait()
        try:
            return store.create_project("Signs")
        except Exception as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(create, range(6)))
    errors = [result for result in results if isinstance(result, Exception)]
    assert len(errors) == 5 and {type(error) for error in errors} == {InputError}
    assert [entry.name for entry in store.list_projects()] == ["Signs"]


def test_names_are_unique_and_a_renamed_project_frees_its_own(store: ProjectStore) -> None:
    first = store.create_project("Signs")
    store.rename_project(first, "Lights")
    with pytest.raises(InputError, match="already exists"):
        store.create_project("lights")
    second = store.create_project("Signs")
    assert (first.folder.name, second.folder.name) == ("signs", "signs-2")
    with pytest.raises(InputError, match="already exists"):
        store.rename_project(second, "LIGHTS")
    store.rename_project(second, "Signs!")
    copy = store.duplicate_project(second, "Signs again")
    assert copy.folder.name == "signs-again"
    with pytest.raises(InputError, match="already exists"):
        store.duplicate_project(second, "Signs!")


def test_the_list_is_up_to_date(store: ProjectStore, image: Path) -> None:
    project = store.create_project("Signs")
    CONNECTION_POOL.close_idle(store.root)
    assert [entry.items for entry in store.list_projects()] == [0]
    CONNECTION_POOL.close_idle(store.root)
    assert [entry.items for entry in store.list_projects()] == [0]
    import_samples(project, LoadedSamples("streets", (ask(image),)))
    assert [entry.items for entry in store.list_projects()] == [1], "with what only the log holds"
    CONNECTION_POOL.close_idle(store.root)
    store.list_projects()
    CONNECTION_POOL.close_idle(store.root)
    rename_project(store.open_project("signs"), "Other")
    CONNECTION_POOL.close_idle(store.root)
    assert [entry.name for entry in store.list_projects()] == ["Other"]
    assert store.list_projects() == ProjectStore(store.root).list_projects()


def test_archived_and_deleted_projects(store: ProjectStore) -> None:
    project = store.create_project("Signs")
    archive_project(project)
    assert [entry.is_archived for entry in store.list_projects()] == [True]
    entry = delete_project(project, "Signs")
    assert store.list_projects() == []
    assert store.restore_project(entry).folder == project.folder
