"""The cells of the study, a table: what is trained from what (paper, Table 7), and with which settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hart_studio.algorithms.methods import METHODS, MethodName
from hart_studio.errors import InputError
from hart_studio.records import Protocol
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import read_config
from hart_studio.runs.presets import find_preset

PRESET: Final = "cpu-miniature"
"""Settings that every cell starts from."""


@dataclass(frozen=True)
class Cell:
    """One trained model of the study.

    Attributes:
        name: In paths and on the command line.
        title: For people.
        method: The stage that is trained in this cell; None = the model that the study begins with.
        parent: Cell whose model is trained further.
        k: Preference scale of Eq. 5 and 6 for the AP-GRPO stage, also of the parent's.
    """

    name: str
    title: str
    method: MethodName | None = None
    parent: str | None = None
    k: float | None = None

    @property
    def protocol(self) -> Protocol:
        """The model's own protocol: that of its RL stage, else ``direct`` (ours: the paper names none)."""
        stages = [cell.method for cell in (CELLS[self.parent] if self.parent else None, self) if cell and cell.method]
        found = [METHODS[name].protocol for name in stages if METHODS[name].is_rl]
        return found[0] if found else "direct"


def _make_cells() -> dict[str, Cell]:
    base = Cell("base", "base")
    sft = Cell("sft", "SFT", "sft", "base")
    trained = [Cell(name, METHODS[name].label, name, "base") for name in ("grpo", "mgpo")]
    for k in (0.15, 0.3, 0.6):
        trained.append(Cell(f"ap_grpo_{round(100 * k):03d}", f"AP-GRPO, k {k:g}", "ap_grpo", "base", k))
    both = [Cell(f"{cell.name}_sft", f"{cell.title} + SFT", "sft", cell.name, cell.k) for cell in trained]
    turned = Cell("sft_ap_grpo_060", "SFT + AP-GRPO, k 0.6", "ap_grpo", "sft", 0.6)
    return {cell.name: cell for cell in (base, *trained, sft, *both, turned)}


CELLS: Final[Mapping[str, Cell]] = _make_cells()
"""Every cell by name, parents before children."""

QUICK_CELLS: Final = ("base", "grpo", "mgpo", "ap_grpo_060", "sft", "grpo_sft", "ap_grpo_060_sft")
"""Cells of the quick study."""


@dataclass(frozen=True)
class StudySize:
    """How much is trained and asked.

    Attributes:
        test_questions: Questions of needle's test preset that every model is measured on.
        changes: Section -> settings on top of the preset.
        test_arguments: More arguments of the command that draws the test questions, such as a smaller picture.
    """

    test_questions: int = 500
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_arguments: tuple[str, ...] = ()


FULL: Final = StudySize()
"""The whole study: the preset as it is."""

QUICK: Final = StudySize(
    test_questions=150,
    changes={
        "data": {"needle_count": 700, "rl_count": 320, "sft_count": 320, "eval_count": 60},
        "schedule": {"rl_steps": 40, "sft_steps": 20, "evaluate_every": 20, "checkpoint_every": 20},
    },
)
"""The quick study: about 20 minutes on two cores."""


def choose_cells(names: Iterable[str]) -> tuple[Cell, ...]:
    """The named cells and all that they are trained from, parents first.

    Raises:
        InputError: If there is no cell of such a name.
    """
    wanted = set()
    for name in names:
        step: str | None = name
        while step is not None:
            if step not in CELLS:
                raise InputError(f"expected cells out of {', '.join(CELLS)}, got {step!r}")
            wanted.add(step)
            step = CELLS[step].parent
    return tuple(cell for cell in CELLS.values() if cell.name in wanted)


def base_config(size: StudySize, model: str, data: Path) -> RunConfig:
    """What all cells of a study have in common.

    Args:
        size: Size of the study.
        model: Folder of the model that it begins with; empty = the built-in one.
        data: Folder of the training questions.

    Raises:
        InputError: If the size's changes do not go with the preset.
    """
    values = find_preset(PRESET).config.model_dump()
    for name, section in size.changes.items():
        values[name] = {**values[name], **section}
    values["model"]["id"] = model
    values["data"]["path"] = str(data)
    return read_config(values)


def cell_config(cell: Cell, base: RunConfig, seed: int, model: str) -> RunConfig:
    """The settings of a cell's training run: the same steps, prompts and group size for all methods.

    Args:
        cell: A cell that is trained.
        base: From ``base_config``.
        seed: Seed of the split, of sampling and of the order of samples.
        model: Folder of the parent's model.
    """
    values = base.model_dump()
    values["model"]["id"] = model
    values["method"]["chain"] = cell.method
    if cell.method == "ap_grpo" and cell.k is not None:
        values["method"]["preference_scale"] = cell.k
    values["seed"] = seed
    values["name"] = f"{cell.name} seed {seed}"
    return read_config(values)
