"""Training form: table of the settings, their widgets, filling from a preset, and the report on them.

Help texts, choices and limits come from ``RunConfig``, so that the form agrees with files and the command line.
Settings without a row here must be in ``HIDDEN``; a test compares both with ``RunConfig``.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from hart_studio.algorithms.methods import STAGE_SEQUENCE_TITLES
from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import SETTINGS, read_config
from hart_studio.runs.presets import PRESETS

Kind = Literal["choice", "number", "text", "switch", "several", "number or nothing"]
GROUPS: Final = ("Method", "Model", "Data", "Rollouts", "Optimizer", "Schedule", "Logging")


@dataclass(frozen=True)
class FormField:
    """A setting on the form.

    Attributes:
        name: Full name, such as ``optim.learning_rate``.
        label: Display name.
        group: One of ``GROUPS``; the first group is always open.
        titles: Value -> display name, for values that need one.
        stage: The stage, or kind of stages, that uses the setting; empty = all.
        data: ``drawn`` if it is only used with generated needle scenes, ``files`` if only with other sources; empty =
            all.
    """

    name: str
    label: str
    group: str
    titles: Mapping[str, str] | None = None
    stage: Literal["", "rl", "sft", "ap_grpo"] = ""
    data: Literal["", "drawn", "files"] = ""

    def is_used(self, stages: str, source: str) -> bool:
        """Whether a run uses the setting.

        Args:
            stages: Stages of the run, joined by ``+``.
            source: ``data.source`` of the run.
        """
        if self.data and (self.data == "drawn") != (source == "needle"):
            return False
        names = stages.split("+")
        if self.stage == "rl":
            return any(name != "sft" for name in names)
        return not self.stage or self.stage in names


SHORT_TITLES: Final = {name: title.split(" (", 1)[0] for name, title in STAGE_SEQUENCE_TITLES.items()}
"""Short titles, without the note in parentheses."""

SOURCE_TITLES: Final = {
    "needle": "Needle (synthetic, built in)",
    "jsonl": "JSONL file",
    "mme_realworld": "MME-RealWorld folder",
    "zwz_rl_vqa": "ZwZ-RL-VQA folder",
    "hf": "Hugging Face dataset",
}

FIELDS: Final = (
    FormField("method.stages", "Method", "Method", STAGE_SEQUENCE_TITLES),
    FormField("method.preference_scale", "Preference scale k", "Method", stage="ap_grpo"),
    FormField("method.beta", "KL coefficient beta", "Method", stage="rl"),
    FormField("rollout.group_size", "Group size G", "Method", stage="rl"),
    FormField("schedule.rl_steps", "RL steps", "Method", stage="rl"),
    FormField("schedule.sft_steps", "SFT steps", "Method", stage="sft"),
    FormField("name", "Run name", "Method"),
    FormField("model.id", "Base model", "Model"),
    FormField("model.device", "Device", "Model"),
    FormField("model.lora", "LoRA", "Model"),
    FormField("model.lora_r", "LoRA rank", "Model"),
    FormField("model.lora_alpha", "LoRA alpha", "Model"),
    FormField("model.lora_target_modules", "LoRA target modules", "Model"),
    FormField("model.freeze_vision_tower", "Freeze vision tower", "Model"),
    FormField("model.dtype", "Precision (dtype)", "Model"),
    FormField("model.quantization", "Quantization", "Model"),
    FormField("model.attn_implementation", "Attention implementation", "Model"),
    FormField("model.gradient_checkpointing", "Gradient checkpointing", "Model"),
    FormField("data.source", "Source", "Data", SOURCE_TITLES),
    FormField("data.path", "Dataset path", "Data"),
    FormField("data.image_root", "Image folder", "Data", data="files"),
    FormField("data.rl_samples", "RL samples", "Data", stage="rl"),
    FormField("data.sft_samples", "SFT samples", "Data", stage="sft"),
    FormField("data.eval_samples", "Held-out samples", "Data"),
    FormField("data.split_by_image", "Split by image", "Data"),
    FormField("data.needle_samples", "Needle samples", "Data", data="drawn"),
    FormField("data.needle_seed", "Scene seed", "Data", data="drawn"),
    FormField("rollout.temperature", "Temperature", "Rollouts", stage="rl"),
    FormField("rollout.overview_max_pixels", "Overview max pixels", "Rollouts"),
    FormField("rollout.crop_max_pixels", "Crop max pixels", "Rollouts"),
    FormField("rollout.padding", "Box padding", "Rollouts"),
    FormField("rollout.max_boxes", "Max boxes", "Rollouts"),
    FormField("rollout.max_grounding_tokens", "Max grounding tokens", "Rollouts"),
    FormField("rollout.max_answer_tokens", "Max answer tokens", "Rollouts"),
    FormField("rollout.prefix_sharing", "Prefix sharing", "Rollouts"),
    FormField("method.trained_turns", "Trained turns", "Rollouts", stage="rl"),
    FormField("method.answer_format", "SFT answer format", "Rollouts", stage="sft"),
    FormField(
        "method.sft_target",
        "SFT target",
        "Rollouts",
        {"answer": "answers", "grounded": "boxes and answers"},
        stage="sft",
    ),
    FormField(
        "method.loss_aggregation",
        "Loss aggregation",
        "Rollouts",
        {
            "turn": "mean per turn",
            "rollout": "mean per rollout",
            "step": "mean per step (DAPO)",
            "token_limit": "sum by token limit (Dr. GRPO)",
            "sum": "sum (Eq. 4)",
        },
        stage="rl",
    ),
    FormField("method.scale_rewards", "Scale rewards", "Rollouts", {"group": "by group", "none": "no"}, stage="rl"),
    FormField("rollout.max_resampling_rounds", "Resampling rounds", "Rollouts", stage="rl"),
    FormField("method.format_reward_weight", "Format reward", "Rollouts", stage="rl"),
    FormField("method.area_penalty_weight", "Area penalty", "Rollouts", stage="rl"),
    FormField("optim.learning_rate", "RL learning rate", "Optimizer", stage="rl"),
    FormField("optim.sft_learning_rate", "SFT learning rate", "Optimizer", stage="sft"),
    FormField("optim.lr_scheduler_type", "LR schedule", "Optimizer"),
    FormField("optim.warmup_steps", "Warm-up steps", "Optimizer"),
    FormField("optim.weight_decay", "Weight decay", "Optimizer"),
    FormField("optim.max_grad_norm", "Max grad norm", "Optimizer"),
    FormField("optim.max_nonfinite_steps", "Max non-finite steps", "Optimizer"),
    FormField("schedule.num_iterations", "Steps per rollout batch", "Optimizer", stage="rl"),
    FormField("method.clip_epsilon", "Clip range", "Optimizer", stage="rl"),
    FormField("method.clip_epsilon_high", "Upper clip range", "Optimizer", stage="rl"),
    FormField("method.kl_estimator", "KL estimator", "Optimizer", stage="rl"),
    FormField("schedule.rl_batch_size", "RL batch size", "Schedule", stage="rl"),
    FormField("schedule.rl_micro_batch_size", "RL micro-batch size", "Schedule", stage="rl"),
    FormField("schedule.sft_batch_size", "SFT batch size", "Schedule", stage="sft"),
    FormField("schedule.sft_micro_batch_size", "SFT micro-batch size", "Schedule", stage="sft"),
    FormField("seed", "Seed", "Schedule"),
    FormField("schedule.eval_steps", "Eval steps", "Logging"),
    FormField("schedule.save_steps", "Save steps", "Logging"),
    FormField("schedule.save_total_limit", "Max checkpoints", "Logging"),
    FormField("schedule.rollout_log_steps", "Rollout log steps", "Logging", stage="rl"),
    FormField("schedule.rollout_log_questions", "Logged questions", "Logging"),
    FormField("schedule.rollout_image_mb", "Image storage (MB)", "Logging"),
    FormField("trackers", "Trackers", "Logging"),
)
"""The form, in order."""

_LABELS: Final = {field.name: field.label for field in FIELDS}

_SECTION_TITLES: Final = {
    "model": "Model",
    "data": "Data",
    "rollout": "Rollouts",
    "method": "Method",
    "optim": "Optimizer",
    "schedule": "Schedule",
    "settings": "Settings",
}
_NAME: Final = re.compile(r"(?<![\w./-])(?:[a-z]+\.[a-z_]+|[a-z]+(?:_[a-z]+)+)(?![\w/-]|\.\w)")
"""Matches possible names of settings: words with a dot or an underscore that are not part of a path."""

HIDDEN: Final = {
    "data.columns": "mapping of names; only in a file or on the command line",
    "optim.betas": "pair of numbers, rarely changed; only in a file or on the command line",
}
"""Settings that are not on the form -> reason."""


KEPT_SETTINGS: Final = ("name", "trackers")
"""Settings that are kept with every preset."""

_PRESET_PATHS: Final = frozenset(preset.config.data.path for preset in PRESETS.values())


@dataclass(frozen=True)
class LaunchState:
    """Content of the report on a run before it starts."""

    headline: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    """(name, value) pairs that summarize the settings."""
    problems: tuple[tuple[str, str], ...] = ()
    """(label, text) of invalid settings."""
    notes: tuple[str, ...] = ()
    """Valid but unusual settings."""
    findings: tuple[dict[str, str], ...] = ()
    """Findings of the preflight check so far."""
    is_checking: bool = False
    outcome: str = ""
    """Result of the last start or check."""
    is_refused: bool = False
    """Whether no run can be started."""


@dataclass(frozen=True)
class PreviewCard:
    """One sample without gold boxes, which training does not get either."""

    question: str
    choices: tuple[str, ...]
    answer: str
    part: str
    """Stage that uses the sample."""
    image: Path | None
    """Scaled copy; None if the image cannot be opened."""
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """Preview of a data source."""

    headline: str
    cards: tuple[PreviewCard, ...]
    left_out: tuple[str, ...]
    """Reasons for skipped rows, with counts."""


@dataclass(frozen=True)
class Widget:
    """Widget of a setting.

    Attributes:
        field: Its row in the table.
        kind: Kind of widget.
        info: Help text.
        choices: (title, value) pairs of a choice.
        is_whole: Whether the number is an integer.
    """

    field: FormField
    kind: Kind
    info: str
    choices: tuple[tuple[str, str], ...] = ()
    is_whole: bool = False


def read_values(values: Sequence[Any], base: RunConfig) -> RunConfig:
    """Read the settings from form values.

    Args:
        values: One per row of ``FIELDS``, from the browser.
        base: Settings that the form does not show.

    Raises:
        InputError: If a value is invalid; one line per problem, with the name of the setting.
    """
    nested = base.model_dump()
    for widget, value in zip(WIDGETS, values, strict=True):
        *sections, last = widget.field.name.split(".")
        place: dict[str, Any] = nested
        for section in sections:
            place = place[section]
        place[last] = _read_value(widget, value)
    return read_config(nested)


def write_values(config: RunConfig) -> list[Any]:
    """Form values of settings, in the order of ``FIELDS``."""
    found = []
    for widget in WIDGETS:
        value: Any = config
        for part in widget.field.name.split("."):
            value = getattr(value, part)
        if widget.kind == "number or nothing":
            value = "" if value is None else str(value)
        found.append(list(value) if isinstance(value, tuple) else value)
    return found


def normalize_values(values: Sequence[Any]) -> list[Any]:
    """Convert form values to the types of the settings for comparison; invalid values are unchanged."""

    def normalize(widget: Widget, value: Any) -> Any:
        try:
            found = _read_value(widget, value)
        except InputError:
            return value
        return str(found) if widget.kind == "number or nothing" and found is not None else found

    return [normalize(widget, value) for widget, value in zip(WIDGETS, values, strict=True)]


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


def label_problems(text: str) -> list[tuple[str, str]]:
    """Convert the lines of an ``InputError`` to (form label, problem) pairs."""
    problems = []
    for line in text.splitlines():
        name, sign, rest = line.partition(": ")
        if sign and " " not in name:
            problems.append((_LABELS.get(name) or _SECTION_TITLES.get(name, name), name_labels(rest, name)))
        else:
            problems.append(("Settings", name_labels(line)))
    return problems


def name_labels(text: str, section: str = "") -> str:
    """Replace names of settings in a message by their form labels.

    Args:
        text: Contains full names such as ``data.path``, or last parts with an underscore for settings of ``section``.
        section: Section of the message, or a setting in it.
    """
    inside = section.split(".")[0]

    def put(found: re.Match[str]) -> str:
        name = found[0]
        label = _LABELS.get(name if "." in name else f"{inside}.{name}")
        return f"“{label.split(': ')[0]}”" if label else name

    return _NAME.sub(put, text)


def _make_widget(field: FormField) -> Widget:
    info = SETTINGS[field.name]
    text = " ".join((info.description or "").split())
    kinds = [kind for kind in _members(info.annotation) if kind is not type(None)]
    kind = kinds[0]
    if get_origin(kind) is Literal:
        return Widget(field, "choice", text, _titles(field, get_args(kind)))
    if get_origin(kind) is tuple:
        return Widget(field, "several", text, _titles(field, get_args(get_args(kind)[0])))
    if kind is bool:
        return Widget(field, "switch", text)
    if kind is str:
        return Widget(field, "text", text)
    number: Kind = "number or nothing" if type(None) in _members(info.annotation) else "number"
    return Widget(field, number, text, is_whole=kind is int)


def _members(annotation: Any) -> tuple[Any, ...]:
    """Members of a union, without annotations."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in _members(part))
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    return (annotation,)


def _titles(field: FormField, values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    titles = field.titles or {}
    ordered = [value for value in titles if value in values] + [value for value in values if value not in titles]
    return tuple((titles.get(value, value), value) for value in ordered)


def _read_value(widget: Widget, value: Any) -> Any:
    """Convert a value from the browser: numbers arrive as floats, empty fields as None."""
    if widget.kind == "number or nothing":
        # A text field, because a number field turns an empty value into 0.
        return value.strip() or None if isinstance(value, str) else value
    if widget.kind == "number":
        if value is None or value == "":
            raise InputError(f"{widget.field.name}: expected a number, got an empty field")
        if widget.is_whole and isinstance(value, float) and value.is_integer():
            return int(value)
        return value
    if widget.kind == "text":
        return value.strip() if isinstance(value, str) else value or ""
    if widget.kind == "several":
        return tuple(value) if isinstance(value, list) else value or ()
    return value


WIDGETS: Final = tuple(_make_widget(field) for field in FIELDS)
"""Widgets of all rows, in order."""
