"""Content of the report on the Train tab: summary of the settings, findings of the preflight check, sample preview."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hart_studio.algorithms.methods import STAGE_SEQUENCE_TITLES
from hart_studio.data.benchmarks.published_files import is_hub_id
from hart_studio.data.sources import find_missing_path
from hart_studio.errors import HartError, InputError
from hart_studio.files import from_stored_path
from hart_studio.formatting import list_reasons
from hart_studio.imaging import ImageOpener
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import PRESETS
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.pages.train_form import (
    SOURCE_TITLES,
    LaunchState,
    Preview,
    PreviewCard,
    label_problems,
    name_labels,
)

SAMPLES: Final = 5
"""Samples of a preview."""

THUMBNAIL_SIDE: Final = 480
"""Greatest side of a preview image, pixels."""


def summarize_launch(launch_request: LaunchRequest) -> LaunchState:
    """Summarize the settings."""
    config = launch_request.config
    schedule, has_rl = config.schedule, any(stage != "sft" for stage in config.method.stage_names)
    rollouts = schedule.rl_batch_size * config.rollout.group_size
    facts = [
        ("Model", config.model.id or "built-in (hart-tiny-base)"),
        ("Data", _describe_data(config)),
        ("Samples", _describe_parts(config)),
        ("Steps", f"{config.total_steps:,}"),
        *(
            [
                (
                    "Rollouts per step",
                    f"{schedule.rl_batch_size} questions × {config.rollout.group_size} = {rollouts}",
                )
            ]
            * has_rl
        ),
        (
            "Device",
            f"{len(launch_request.gpus)} GPU{'s' * (len(launch_request.gpus) > 1)}" if launch_request.gpus else "CPU",
        ),
    ]
    notes = tuple(map(name_labels, config.warnings))
    if config.data.source == "needle" and is_hub_id(config.model.id) and not os.path.exists(config.model.id):  # noqa: PTH110
        notes += ("Needle scenes are made for the built-in model. Choose your own dataset for this model.",)
    return LaunchState(STAGE_SEQUENCE_TITLES[config.method.stages], tuple(facts), notes=notes)


def find_data_problem(config: RunConfig) -> str:
    """Find a missing data path; empty if there is none.

    Reads the file system, so call it only for users who may start a run.
    """
    missing = find_missing_path(config.data)
    if not missing:
        return ""
    if missing in {preset.config.data.path for preset in PRESETS.values()}:
        return f"This preset needs your own dataset: {missing} does not exist. Choose a dataset under Data."
    return f"{missing} does not exist. Correct the path under Data."


def sample_key(config: RunConfig) -> str:
    """Key of the settings that determine the samples of a run; a preview with another key is stale."""
    return json.dumps([config.data.model_dump(mode="json"), config.method.stage_names, config.seed])


def stream_preflight(launcher: RunLauncher, launch_request: LaunchRequest) -> Iterator[LaunchState]:
    """Run the preflight check and yield the report after each finding."""
    state = replace(summarize_launch(launch_request), notes=(), is_checking=True)
    yield state
    for found in launcher.check(launch_request):
        finding = {**found, "text": name_labels(found["text"]), "advice": name_labels(found["advice"])}
        state = replace(state, findings=(*state.findings, finding))
        yield state


def has_bad_finding(state: LaunchState) -> bool:
    """Whether the check found an error."""
    return any(finding["state"] == "bad" for finding in state.findings)


def summarize_findings(state: LaunchState) -> str:
    """Summarize the findings in one sentence."""
    unsure = sum(finding["state"] == "check" for finding in state.findings)
    if has_bad_finding(state):
        return "Preflight failed. Fix the errors above and run preflight again."
    return "Ready to start" + (f" with {unsure} warning{'s' * (unsure > 1)}." if unsure else ".")


def describe_launch_error(error: Exception) -> LaunchState:
    """Report of a run that cannot be started."""
    if not isinstance(error, HartError):
        failed = describe(error)
        return LaunchState(failed.title, outcome=failed.message, is_refused=True)
    text = str(error)
    problems = tuple(label_problems(text)) if isinstance(error, InputError) else (("Samples", text),)
    return LaunchState("Cannot start the run", problems=problems, is_refused=True)


def _describe_data(config: RunConfig) -> str:
    data = config.data
    if data.source == "needle" and not data.path:
        return f"needle scenes, {data.needle_samples:,} generated for the run"
    return f"{SOURCE_TITLES[data.source].partition(' (')[0]}: {data.path}"


def _describe_parts(config: RunConfig) -> str:
    data, stages = config.data, config.method.stage_names
    parts: list[Any] = []
    if any(stage != "sft" for stage in stages):
        parts.append(f"{data.rl_samples:,} RL")
    if "sft" in stages:
        parts.append("all other samples for SFT" if data.sft_samples is None else f"{data.sft_samples:,} SFT")
    parts.append(f"{data.eval_samples:,} held out")
    return ", ".join(parts)


def preview_samples(config: RunConfig, folder: Path) -> Preview:
    """Read the source, split it, and render the first samples of each split.

    Args:
        config: Source and sizes.
        folder: Served folder for the images.

    Raises:
        DataError: If the source cannot be read.
        InputError: If it has too few samples.
    """
    # Reading a dataset of the hub imports its library, which takes seconds.
    from hart_studio.data.run_samples import load_samples, split_config  # noqa: PLC0415

    source = load_samples(config.data, folder / "drawn")
    split = split_config(config, source)
    parts = {"RL": split.rl, "SFT": split.sft, "held out": [sample.without_gold_boxes() for sample in split.evaluation]}
    headline = ", ".join(
        f"{len(samples):,} {name if name == 'held out' else 'for ' + name}" for name, samples in parts.items()
    )
    filled = {name: samples for name, samples in parts.items() if samples}
    shares = _share(SAMPLES, len(filled))
    cards = [
        _make_card(sample, name, source.open_image, folder)
        for (name, samples), count in zip(filled.items(), shares, strict=True)
        for sample in samples[:count]
    ]
    reasons = list_reasons(
        source.loaded.reasons, 3, lambda reason, count: f"{count:,} row{'s' * (count != 1)} skipped: {reason}"
    )
    return Preview(headline, tuple(cards), tuple(reasons))


def _share(total: int, parts: int) -> Sequence[int]:
    """Split a total into integers that differ by at most 1, larger ones first."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def _make_card(sample: Sample, part: str, open_image: ImageOpener, folder: Path) -> PreviewCard:
    source = from_stored_path(sample.image)
    version = source.stat().st_mtime_ns if source.exists() else 0  # the file may have changed
    name = f"preview-{hashlib.sha256(f'{source} {version}'.encode()).hexdigest()[:20]}.jpg"
    thumbnail: Path | None = folder / name
    problem = ""
    try:
        if not (folder / name).exists():
            with open_image(sample.image) as image:
                image.overview(max_side=THUMBNAIL_SIDE).save(folder / name, quality=85)
    except (HartError, OSError) as error:
        thumbnail, problem = None, str(error)
    return PreviewCard(sample.question, sample.choices, sample.answer or "", part, thumbnail, problem)
