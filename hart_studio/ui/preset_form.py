"""Fill the training form from a preset and keep some of the entered values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import read_config
from hart_studio.runs.presets import PRESETS
from hart_studio.ui.train_form import FIELDS, name_labels, normalize_values, write_values

KEPT_SETTINGS: Final = ("name", "trackers")
"""Settings that are kept with every preset."""

_PRESET_PATHS: Final = frozenset(preset.config.data.path for preset in PRESETS.values())


@dataclass(frozen=True)
class FilledForm:
    """The form after a preset was chosen.

    Attributes:
        base: Settings that later entries are compared with; also has those that the form does not show.
        values: One per row of ``FIELDS``.
        notes: Kept and replaced entries, for the report.
    """

    base: RunConfig
    values: list[Any]
    notes: tuple[str, ...] = ()


def fill_from_preset(values: Sequence[Any], base: RunConfig, preset: RunConfig) -> FilledForm:
    """Fill the form from a preset.

    A preset replaces all settings, including the data. Kept are ``KEPT_SETTINGS``, and the user's dataset if the preset
    needs one. All other entries are replaced and listed in the notes.

    Args:
        values: Current form values, from the browser.
        base: Settings that the form was last filled from.
        preset: Settings of the chosen preset.
    """
    names = [field.name for field in FIELDS]
    current = dict(zip(names, normalize_values(values), strict=True))
    before = dict(zip(names, normalize_values(write_values(base)), strict=True))
    filled = dict(zip(names, write_values(preset), strict=True))
    entered = [name for name in names if current[name] != before[name]]
    kept: list[str] = [name for name in KEPT_SETTINGS if name in entered]
    notes = [f"Kept from your entries: {_join(kept)}."] if kept else []
    new_base = preset
    has_own_data = current["data.source"] != "needle" and current["data.path"] not in _PRESET_PATHS
    data = [name for name in names if name.startswith("data.")] if has_own_data else []
    if has_own_data and preset.data.source == "needle":
        notes.append(f"Your dataset {current['data.path']} is not used: this preset trains on generated needle scenes.")
    elif has_own_data:
        try:
            new_base = _with_data({name: current[name] for name in data}, base, preset)
        except InputError as error:
            notes.append(f"Your dataset was not kept: {name_labels(str(error))}")
        else:
            kept += data
            notes.append(f"Kept: your dataset {current['data.path']} with its sample counts.")
    written = dict(zip(names, normalize_values(list(filled.values())), strict=True))
    replaced = [name for name in entered if name not in {*kept, *data} and current[name] != written[name]]
    if replaced:
        notes.append(f"Replaced by the preset: {_join(replaced)}.")
    by_name = dict(zip(names, values, strict=True))
    return FilledForm(new_base, [by_name[name] if name in kept else filled[name] for name in names], tuple(notes))


def _with_data(data: dict[str, Any], base: RunConfig, preset: RunConfig) -> RunConfig:
    """Replace the data section of a preset; the column mapping, which is not on the form, stays with its dataset.

    Raises:
        InputError: If the section is not valid.
    """
    section: dict[str, Any] = {name.partition(".")[2]: value for name, value in data.items()}
    section["columns"] = dict(base.data.columns) if section["source"] == "hf" else {}
    return read_config({**preset.model_dump(), "data": section})


def _join(names: Iterable[str]) -> str:
    return ", ".join(name_labels(name) if "." in name else f"“{_LABELS[name]}”" for name in names)


_LABELS: Final = {field.name: field.label for field in FIELDS}
