"""Count the items that an export excludes by status, and the images they are on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from hart_studio.labeling.export_plan import MAY_HAVE_REGION_SQL, describe_status
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Status


class Exclusions(NamedTuple):
    """Counts of excluded items."""

    statuses: Mapping[Status, int]
    """Status -> number of items."""
    open_questions: Mapping[str, int]
    """SHA-256 of an image -> number of excluded questions that may have a region, see ``may_have_region``."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> number of items, as shown in an export."""
        return {describe_status(status): count for status, count in self.statuses.items()}


NOTHING_EXCLUDED: Final = Exclusions({}, {})
"""No item is excluded."""


def read_exclusions(project: Project, statuses: tuple[Status, ...]) -> Exclusions:
    """Count the items that an export excludes by status, without reading the labels.

    Args:
        project: The project.
        statuses: Statuses to export.

    Raises:
        DataError: If the project cannot be read.
    """
    chosen = json.dumps(statuses)
    with project.database.reading() as connection:
        counts = connection.execute(
            """SELECT status, COUNT(*) FROM items WHERE status NOT IN (SELECT value FROM json_each(?))
            GROUP BY 1 ORDER BY 1""",
            (chosen,),
        ).fetchall()
        images = connection.execute(
            f"""SELECT images.sha256, COUNT(*) FROM items JOIN images ON images.id = items.image
            WHERE {MAY_HAVE_REGION_SQL} AND items.status NOT IN (SELECT value FROM json_each(?))
            GROUP BY items.image""",  # noqa: S608 - a constant and a placeholder
            (chosen,),
        ).fetchall()
    return Exclusions({row[0]: int(row[1]) for row in counts}, {str(row[0]): int(row[1]) for row in images})
