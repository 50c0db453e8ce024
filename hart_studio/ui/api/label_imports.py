"""Background imports of the Label tab, with progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import HartError, InputError
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits
from hart_studio.labeling.importing import import_source
from hart_studio.labeling.project import Project
from hart_studio.labeling.sources import SourceSettings
from hart_studio.ui.error_reporting import describe

MAX_SHOWN_INVALID_ROWS: Final = 200


@dataclass
class ImportState:
    """Progress and result of a background import."""

    done: int = 0
    total: int = 0
    message: str = ""
    error: str = ""
    invalid_rows: list[tuple[str, str]] = field(default_factory=list)
    is_over: bool = False


def read_folder(value: Any) -> Path | None:
    """Validate a folder entered by a user; None if empty.

    Raises:
        InputError: If there is no such folder.
    """
    if not isinstance(value, str) or not value.strip():
        return None
    folder = Path(value.strip()).expanduser()
    if "\0" in value or not folder.is_dir():
        raise InputError(f"{value.strip()!r} is not a folder. Check the path of the image folder.")
    return folder


def run_import(
    project: Project,
    source: str,
    settings: SourceSettings,
    state: ImportState,
    max_items: int | None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> None:
    """Import a source and record progress and errors in ``state``."""

    def progress(done: int, total: int) -> None:
        state.done, state.total = done, total

    try:
        report = import_source(project, source, settings, progress, max_items=max_items, limits=limits)
        state.message = report.describe()
        state.invalid_rows = [(bad.row, bad.reason) for bad in report.invalid_rows[:MAX_SHOWN_INVALID_ROWS]]
    except HartError as error:
        state.error = str(error)
    except OSError as error:
        state.error = describe(error).message
    except Exception as error:  # the page waits for a result
        state.error = f"Import failed with an internal error: {type(error).__name__}. See the server log."
        raise
    finally:
        state.is_over = True
