from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.project_lifecycle import TRASH
from hart_studio.labeling.project_locks import hold_run_lock
from hart_studio.ui.api.label_imports import ImportState
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.projects import ProjectApi


@pytest.fixture
def label_api(tmp_path: Path) -> LabelApi:
    label_api = LabelApi(tmp_path / "labels")
    label_api.create({"name": "Signs"})
    return label_api


@pytest.fixture
def api(label_api: LabelApi) -> ProjectApi:
    return ProjectApi(label_api)


def shown(api: ProjectApi) -> list[tuple[str, str, bool]]:
    return [(entry["id"], entry["name"], entry["is_archived"]) for entry in api.label_api.projects({})]


def test_the_life_of_a_project(api: ProjectApi) -> None:
    signs = {"project": "signs"}
    assert api.rename({**signs, "name": "Street signs"}) == {"id": "signs"}
    assert api.duplicate({**signs, "name": "Copy"}) == {"id": "copy"}
    assert api.archive(signs) == {"id": "signs"}
    assert shown(api) == [("copy", "Copy", False), ("signs", "Street signs", True)]
    api.archive({**signs, "is_archived": False})
    assert shown(api)[1] == ("signs", "Street signs", False)
    with pytest.raises(InputError, match="does not match"):
        api.delete({**signs, "confirmation": "Signs"})
    entry = api.delete({**signs, "confirmation": "Street signs"})["entry"]
    assert shown(api) == [("copy", "Copy", False)]
    with pytest.raises(InputError, match="No project"):
        api.label_api.poll(signs)
    (deleted,) = api.trash({})
    assert (deleted["entry"], deleted["name"], deleted["days_left"]) == (entry, "Street signs", 7)
    assert api.restore({"entry": entry}) == {"id": "signs"}
    assert len(shown(api)) == 2


def test_a_deleted_project_leaves_no_state_of_its_import(api: ProjectApi) -> None:
    api.label_api._imports["signs"] = ImportState(message="3 added", is_over=True)
    api.delete({"project": "signs", "confirmation": "Signs"})
    api.label_api.create({"name": "Signs"})
    assert (api.label_api.poll({"project": "signs"}) or {})["import"] is None


def test_a_project_at_work_is_left_alone(api: ProjectApi) -> None:
    with hold_run_lock(api.label_api.open_project("signs"), "20260101-000000-labeling-abcdef"):
        for call, more in ((api.rename, {"name": "x"}), (api.archive, {}), (api.delete, {"confirmation": "Signs"})):
            with pytest.raises(InputError, match=r"20260101-000000-labeling-abcdef .* is already working"):
                call({"project": "signs", **more})
    assert shown(api) == [("signs", "Signs", False)]


@pytest.mark.parametrize("project", ["../labels", None, "gone", 5, ".trash"])
def test_only_projects_of_the_list(api: ProjectApi, project: Any) -> None:
    for call in (api.rename, api.duplicate, api.archive, api.delete):
        with pytest.raises(InputError):
            call({"project": project, "name": "x", "confirmation": "x"})
    with pytest.raises(InputError):
        api.restore({"entry": project})


def test_nothing_on_a_closed_page(api: ProjectApi) -> None:
    api.label_api.is_open = False
    for call in (api.rename, api.duplicate, api.archive, api.delete, api.trash, api.restore):
        with pytest.raises(InputError, match=r"disabled on (a|this) public page"):
            call({"project": "signs", "name": "x", "confirmation": "Signs", "entry": "x"})


def test_a_page_without_trash_removes_for_good(label_api: LabelApi) -> None:
    assert ProjectApi(label_api, is_kept=False).delete({"project": "signs", "confirmation": "Signs"}) == {"entry": ""}
    assert not any((label_api.root / TRASH).iterdir())


def test_a_copy_counts_against_the_bound_of_questions(api: ProjectApi) -> None:
    api.label_api.max_items = 0
    api.duplicate({"project": "signs", "name": "empty"})
    api.label_api.max_items = -1
    with pytest.raises(InputError, match="A copy would exceed"):
        api.duplicate({"project": "signs", "name": "more"})
