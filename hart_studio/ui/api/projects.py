"""JSON API of the project menu of the Label tab: rename, duplicate, archive, delete, restore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hart_studio.labeling.project_lifecycle import archive_project, delete_project, list_trash
from hart_studio.ui.api.labels import LabelApi


class ProjectApi:
    """Handles the project menu.

    Attributes:
        label_api: Opens projects; knows whether changes are allowed.
        is_kept: Whether deleted projects go to the trash instead of being removed permanently.
    """

    def __init__(self, label_api: LabelApi, *, is_kept: bool = True) -> None:
        self.label_api = label_api
        self.is_kept = is_kept

    def rename(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Change the name of ``project`` to ``name``.

        Raises:
            InputError: If the name is invalid, or a labeling run or an import uses the project.
        """
        self.label_api.check_open()
        project = self.label_api.open_project(request.get("project"))
        self.label_api.store.rename_project(project, str(request.get("name") or ""))
        return {"id": project.folder.name}

    def duplicate(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Copy ``project`` under ``name``.

        Raises:
            InputError: If the name is invalid.
            DataError: If the copy cannot be written.
        """
        self.label_api.check_open()
        project = self.label_api.open_project(request.get("project"))
        self.label_api.check_duplicate(project)
        return {"id": self.label_api.store.duplicate_project(project, str(request.get("name") or "")).folder.name}

    def archive(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Archive ``project``, or with ``is_archived`` false take it out of the archive.

        Raises:
            InputError: If a labeling run or an import uses the project.
        """
        self.label_api.check_open()
        project = self.label_api.open_project(request.get("project"))
        archive_project(project, is_archived=request.get("is_archived") is not False)
        return {"id": project.folder.name}

    def delete(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Move ``project`` to the trash; ``confirmation`` is its name, typed by a person.

        Raises:
            InputError: If the name does not match, or a labeling run or an import uses the project.
        """
        self.label_api.require_editable()
        project = self.label_api.open_project(request.get("project"))
        entry = delete_project(project, str(request.get("confirmation") or ""), is_kept=self.is_kept)
        self.label_api.clear_import(project)
        return {"entry": entry}

    def trash(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The deleted projects that can be restored, the newest first."""
        self.label_api.require_editable()
        return [
            {
                "entry": each.id,
                "name": each.name,
                "deleted_at": each.deleted_at.isoformat(),
                "days_left": each.days_left,
            }
            for each in list_trash(self.label_api.root)
        ]

    def restore(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Take ``entry`` out of the trash.

        Raises:
            InputError: If there is no such entry.
        """
        self.label_api.check_open()
        return {"id": self.label_api.store.restore_project(str(request.get("entry") or "")).folder.name}
