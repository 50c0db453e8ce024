"""The variants of the study, a table: what is trained from what (paper, Table 7), and with which settings."""

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
from hart_studio.runs.presets import get_preset

PRESET: Final = "cpu-miniature"
"""Settings that every variant starts from."""


@dataclass(frozen=True)
class StudyVariant:
    """One trained model of the study.

    Attributes:
        name: In paths and on the command line.
        title: For people.
        method: The stage that is trained in this variant; None = the model that the study begins with.
        parent: Variant whose model is trained further.
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
        stages = [
            variant.method
            for variant in (VARIANTS[self.parent] if self.parent else None, self)
            if variant and variant.method
        ]
        found = [METHODS[name].protocol for name in stages if METHODS[name].is_rl]
        return found[0] if found else "direct"


def _make_variants() -> dict[str, StudyVariant]:
    base = StudyVariant("base", "base")
    sft = StudyVariant("sft", "SFT", "sft", "base")
    trained = [StudyVariant(name, METHODS[name].label, name, "base") for name in ("grpo", "mgpo")]
    for k in (0.15, 0.3, 0.6):
        trained.append(StudyVariant(f"ap_grpo_{round(100 * k):03d}", f"AP-GRPO, k {k:g}", "ap_grpo", "base", k))
    both = [
        StudyVariant(f"{variant.name}_sft", f"{variant.title} + SFT", "sft", variant.name, variant.k)
        for variant in trained
    ]
    reversed_order = StudyVariant("sft_ap_grpo_060", "SFT + AP-GRPO, k 0.6", "ap_grpo", "sft", 0.6)
    return {variant.name: variant for variant in (base, *trained, sft, *both, reversed_order)}


VARIANTS: Final[Mapping[str, StudyVariant]] = _make_variants()
"""Every variant by name, parents before children."""

QUICK_VARIANTS: Final = ("base", "grpo", "mgpo", "ap_grpo_060", "sft", "grpo_sft", "ap_grpo_060_sft")
"""Variants of the quick study."""


@dataclass(frozen=True)
class StudySize:
    """How much is trained and asked.

    Attributes:
        test_questions: Questions of needle's test preset that every model is measured on.
        changes: Section -> settings on top of the preset.
        test_arguments: More arguments of the command that draws the test questions, such as a smaller image.
    """

    test_questions: int = 500
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_arguments: tuple[str, ...] = ()


FULL: Final = StudySize()
"""The whole study: the preset as it is."""

QUICK: Final = StudySize(
    test_questions=150,
    changes={
        "data": {"needle_samples": 700, "rl_samples": 320, "sft_samples": 320, "eval_samples": 60},
        "schedule": {"rl_steps": 40, "sft_steps": 20, "eval_steps": 20, "save_steps": 20},
    },
)
"""The quick study: about 20 minutes on two cores."""


def select_variants(names: Iterable[str]) -> tuple[StudyVariant, ...]:
    """The named variants and all that they are trained from, parents first.

    Raises:
        InputError: If there is no variant of such a name.
    """
    wanted = set()
    for name in names:
        step: str | None = name
        while step is not None:
            if step not in VARIANTS:
                raise InputError(f"expected variants out of {', '.join(VARIANTS)}, got {step!r}")
            wanted.add(step)
            step = VARIANTS[step].parent
    return tuple(variant for variant in VARIANTS.values() if variant.name in wanted)


def base_config(size: StudySize, model: str, data: Path) -> RunConfig:
    """What all variants of a study have in common.

    Args:
        size: Size of the study.
        model: Folder of the model that it begins with; empty = the built-in one.
        data: Folder of the training questions.

    Raises:
        InputError: If the size's changes do not go with the preset.
    """
    values = get_preset(PRESET).config.model_dump()
    for name, section in size.changes.items():
        values[name] = {**values[name], **section}
    values["model"]["id"] = model
    values["data"]["path"] = str(data)
    return read_config(values)


def variant_config(variant: StudyVariant, base: RunConfig, seed: int, model: str) -> RunConfig:
    """The settings of a variant's training run: the same steps, prompts and group size for all methods.

    Args:
        variant: A variant that is trained.
        base: From ``base_config``.
        seed: Seed of the split, of sampling and of the order of samples.
        model: Folder of the parent's model.
    """
    values = base.model_dump()
    values["model"]["id"] = model
    values["method"]["chain"] = variant.method
    if variant.method == "ap_grpo" and variant.k is not None:
        values["method"]["preference_scale"] = variant.k
    values["seed"] = seed
    values["name"] = f"{variant.name} seed {seed}"
    return read_config(values)
