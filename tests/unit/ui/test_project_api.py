from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.project_creation import TRASH
from hart_studio.labeling.project_locks import hold_run_lock
from hart_studio.ui.label_desk import LabelDesk
from hart_studio.ui.label_imports import Import
from hart_studio.ui.project_api import ProjectApi


@pytest.fixture
def desk(tmp_path: Path) -> LabelDesk:
    desk = LabelDesk(tmp_path / "labels")
    desk.create({"name": "Signs"})
    return desk


@pytest.fixture
def api(desk: LabelDesk) -> ProjectApi:
    return ProjectApi(desk)


def shown(api: ProjectApi) -> list[tuple[str, str, bool]]:
    return [(entry["id"], entry["name"], entry["is_archived"]) for entry in api.desk.projects({})]


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
    with pytest.raises(InputError, match="which is not there"):
        api.desk.look(signs)
    (deleted,) = api.trash({})
    assert (deleted["entry"], deleted["name"], deleted["days_left"]) == (entry, "Street signs", 7)
    assert api.restore({"entry": entry}) == {"id": "signs"}
    assert len(shown(api)) == 2


def test_a_deleted_project_leaves_no_news_of_its_import(api: ProjectApi) -> None:
    api.desk._imports["signs"] = Import(told="3 added", is_over=True)
    api.delete({"project": "signs", "confirmation": "Signs"})
    api.desk.create({"name": "Signs"})
    assert (api.desk.look({"project": "signs"}) or {})["import"] is None


def test_a_project_at_work_is_left_alone(api: ProjectApi) -> None:
    with hold_run_lock(api.desk.open_project("signs"), "20260101-000000-labeling-abcdef"):
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
    api.desk.is_open = False
    for call in (api.rename, api.duplicate, api.archive, api.delete, api.trash, api.restore):
        with pytest.raises(InputError, match="switched off"):
            call({"project": "signs", "name": "x", "confirmation": "Signs", "entry": "x"})


def test_a_page_without_trash_removes_for_good(desk: LabelDesk) -> None:
    assert ProjectApi(desk, is_kept=False).delete({"project": "signs", "confirmation": "Signs"}) == {"entry": ""}
    assert not any((desk.root / TRASH).iterdir())


def test_a_copy_counts_against_the_bound_of_questions(api: ProjectApi) -> None:
    api.desk.max_items = 0
    api.duplicate({"project": "signs", "name": "empty"})
    api.desk.max_items = -1
    with pytest.raises(InputError, match="A copy would exceed"):
        api.duplicate({"project": "signs", "name": "more"})
