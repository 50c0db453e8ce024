"""Table of study variants: parents (paper, Table 7) and settings."""

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
"""Base settings of all variants."""


@dataclass(frozen=True)
class StudyVariant:
    """One trained model of the study.

    Attributes:
        name: Name in paths and on the command line.
        title: Display name.
        method: Method of the trained stage; None = the initial model.
        parent: Variant whose model is the initial model.
        k: Preference scale of Eq. 5 and 6 for the AP-GRPO stage, also that of the parent.
    """

    name: str
    title: str
    method: MethodName | None = None
    parent: str | None = None
    k: float | None = None

    @property
    def protocol(self) -> Protocol:
        """Protocol of the RL stage, otherwise ``direct``. Project default; the paper does not state it."""
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
    """Size of a study.

    Attributes:
        test_questions: Number of test questions of needle.
        changes: Section -> changes to the preset.
        test_arguments: Additional arguments of the command that draws the test questions, such as a smaller image.
    """

    test_questions: int = 500
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_arguments: tuple[str, ...] = ()


FULL: Final = StudySize()
"""The full study: the unmodified preset."""

QUICK: Final = StudySize(
    test_questions=150,
    changes={
        "data": {"needle_samples": 700, "rl_samples": 320, "sft_samples": 320, "eval_samples": 60},
        "schedule": {"rl_steps": 40, "sft_steps": 20, "eval_steps": 20, "save_steps": 20},
    },
)
"""The quick study: about 20 minutes on two cores."""


def select_variants(names: Iterable[str]) -> tuple[StudyVariant, ...]:
    """Select variants by name with all their parents, parents first.

    Raises:
        InputError: If a name is unknown.
    """
    wanted = set()
    for name in names:
        step: str | None = name
        while step is not None:
            if step not in VARIANTS:
                raise InputError(f"Unknown variant {step!r}: choose from {', '.join(VARIANTS)}")
            wanted.add(step)
            step = VARIANTS[step].parent
    return tuple(variant for variant in VARIANTS.values() if variant.name in wanted)


def base_config(size: StudySize, model: str, data: Path) -> RunConfig:
    """Common settings of all variants of a study.

    Args:
        size: Size of the study.
        model: Folder of the initial model; empty = the built-in one.
        data: Folder of the training questions.

    Raises:
        InputError: If the changes conflict with the preset.
    """
    values = get_preset(PRESET).config.model_dump()
    for name, section in size.changes.items():
        values[name] = {**values[name], **section}
    values["model"]["id"] = model
    values["data"]["path"] = str(data)
    return read_config(values)


def variant_config(variant: StudyVariant, base: RunConfig, seed: int, model: str) -> RunConfig:
    """Settings of the training run of a variant: the same steps, prompts and group size for all methods.

    Args:
        variant: A variant that is trained.
        base: From ``base_config``.
        seed: Seed of the split, of sampling and of the order of samples.
        model: Folder of the parent model.
    """
    values = base.model_dump()
    values["model"]["id"] = model
    values["method"]["stages"] = variant.method
    if variant.method == "ap_grpo" and variant.k is not None:
        values["method"]["preference_scale"] = variant.k
    values["seed"] = seed
    values["name"] = f"{variant.name} seed {seed}"
    return read_config(values)
