"""Preflight checks of a run: each finding has a state, and advice if there is a problem.

Writes nothing and loads no weights. A ``bad`` finding means that the run would fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from hart_studio.algorithms.methods import parse_stages
from hart_studio.data.run_samples import SampleSource, load_samples, split_config
from hart_studio.data.splits import Split
from hart_studio.errors import HartError, InputError
from hart_studio.models.loading import detect_family
from hart_studio.models.machine_memory import free_memory
from hart_studio.models.quantization import make_quantization_config
from hart_studio.records import GoldSample, Sample
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import describe_device
from hart_studio.scoring import score_answer
from hart_studio.training.dry_run import MemoryEstimate, describe_batching, estimate_memory, find_model_folder
from hart_studio.training.rollouts import check_reward_range

_TRACKER_PACKAGES: Final = {"tensorboard": ("tensorboard", "tensorboardX")}
"""Alternative packages of a tracker, if they differ from its name."""

State = Literal["good", "check", "bad"]

IMAGES: Final = 8
"""Number of images to open, spread over the parts."""

REWARDS: Final = 2
"""Number of samples whose reward is tested."""

_GIB: Final = 2**30
_LARGE: Final = 1_000_000_000
"""Number of weights above which training on a CPU is impractical."""


@dataclass(frozen=True)
class Finding:
    """One line of the preflight report.

    Attributes:
        topic: The checked item.
        state: ``good``, ``check`` (a warning), or ``bad`` (the run would fail).
        text: Description of the finding.
        advice: Recommended action; empty if there is no problem.
    """

    topic: str
    state: State
    text: str
    advice: str = ""


def check_run(config: RunConfig, runs_root: Path, device: torch.device, processes: int) -> Iterator[Finding]:
    """Run all preflight checks, yielding one finding at a time.

    Args:
        config: Settings of the run.
        runs_root: Folder of the run; not created.
        device: Device of one process.
        processes: Number of processes per step.

    Yields:
        The findings, the fast ones first.
    """
    yield from _check_settings(config, device, processes)
    yield _check_folder(runs_root)
    plan = None
    for finding in _check_model(config, device):
        if isinstance(finding, MemoryEstimate):
            plan = finding
        else:
            yield finding
    if plan is not None:
        yield _check_memory(plan, device)
        yield _check_disk(plan, config, runs_root)
    with tempfile.TemporaryDirectory() as folder:
        yield from _check_samples(config, Path(folder))


def _check_settings(config: RunConfig, device: torch.device, processes: int) -> Iterator[Finding]:
    try:
        portions = [f"{stage}: {describe_batching(config, stage, processes)}" for stage in config.method.stage_names]
        for method in parse_stages(config.method.stages):
            check_reward_range(method, config.method, config.rollout.group_size)
        check_trackers(config.trackers)
    except HartError as error:
        yield Finding("Settings", "bad", str(error), "Change these settings.")
        return
    yield Finding("Settings", "good", f"{config.total_steps} steps; {'; '.join(portions)}")
    try:
        make_quantization_config(config.model.quantization, device, torch.float32)
    except HartError as error:
        yield Finding("Settings", "bad", str(error), "Change model.quantization.")
    for warning in config.warnings:
        yield Finding("Settings", "check", warning, "Continue if this is intended.")


def _check_folder(runs_root: Path) -> Finding:
    path = _existing_part(runs_root)
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return Finding("Folder of runs", "bad", f"{path} is not writable", "Choose another --runs-root.")
    made = "" if runs_root.exists() else " (will be created)"
    return Finding("Folder of runs", "good", f"{runs_root}{made}; the run gets a new subfolder")


def _check_model(config: RunConfig, device: torch.device) -> Iterator[Finding | MemoryEstimate]:
    name = config.model.id or "built-in"
    if config.model.device in ("cuda", "mps") and device.type != config.model.device:
        text = f"model.device is {config.model.device}, but no such GPU is available"
        yield Finding("Device", "bad", text, "Set model.device to auto.")
        return
    folder = find_model_folder(config)
    if folder is None:
        yield Finding(
            "Model",
            "check",
            f"{name} is not on this machine yet: its memory is unknown, and it must be downloaded first",
            "Check the name and the connection to the Hub.",
        )
        yield Finding("Device", "good" if device.type == "cuda" else "check", describe_device(device.type))
        return
    try:
        detect_family(name, folder)
        plan = estimate_memory(config, device)
    except (HartError, OSError, ValueError) as error:
        yield Finding("Model", "bad", f"{name}: {error}", "Choose a model of a supported family.")
        return
    if plan is None:
        return
    how = "adapters" if plan.is_lora else "full fine-tuning, no adapters"
    checkpointing = "on" if plan.uses_gradient_checkpointing else "off"
    yield Finding(
        "Model",
        "good",
        f"{name}: {plan.weight_count:,} weights, {plan.trained_count:,} trained ({how}), gradient checkpointing "
        f"{checkpointing}",
    )
    if device.type == "cpu" and plan.weight_count >= _LARGE:
        yield Finding(
            "Device",
            "check",
            "no GPU: a step of a model of this size takes minutes to hours",
            "Use a machine with a GPU.",
        )
    else:
        yield Finding("Device", "good", describe_device(device.type))
    yield plan


def _check_memory(plan: MemoryEstimate, device: torch.device) -> Finding:
    free = free_memory(device)
    text = f"{plan.total / _GIB:.2f} GiB per process before activations"
    if free is None:
        return Finding(
            "Memory", "check", f"{text}; the free memory is unknown", "Watch memory in the first steps (nvidia-smi)."
        )
    text += f", {free / _GIB:.1f} GiB free"
    if plan.total > free:
        return Finding(
            "Memory",
            "bad",
            text,
            "Set model.lora to on or model.quantization to 4bit, choose a smaller model, or shard it over several GPUs "
            "(ZeRO-3, FSDP).",
        )
    if plan.total > 0.6 * free:
        return Finding(
            "Memory",
            "check",
            f"{text}: little memory is left for activations",
            "If it runs out of memory, lower schedule.rl_micro_batch_size, rollout.group_size or the pixel budgets.",
        )
    return Finding("Memory", "good", text)


def _check_disk(plan: MemoryEstimate, config: RunConfig, runs_root: Path) -> Finding:
    """Check disk space: a checkpoint has the trained weights or the whole model, and two float32 moments per weight."""
    saved = plan.trained_count if plan.is_lora else plan.weight_count
    checkpoint = 4 * (saved + 2 * plan.trained_count)
    kept = (
        config.schedule.save_total_limit + len(config.method.stage_names) + 1
    )  # one more while the next one is written
    wanted = checkpoint * kept + config.schedule.rollout_image_mb * 1_000_000
    free = shutil.disk_usage(_existing_part(runs_root)).free
    text = f"up to {wanted / _GIB:.2f} GiB for {kept} checkpoints and images, {free / _GIB:.1f} GiB free"
    if wanted > free:
        advice = "Free some space, or lower schedule.save_total_limit and schedule.rollout_image_mb."
        return Finding("Disk", "bad", text, advice)
    return Finding("Disk", "good", text)


def _existing_part(path: Path) -> Path:
    """The path, or its nearest existing parent folder."""
    path = path.resolve()
    return next(part for part in (path, *path.parents) if part.exists())


def _check_samples(config: RunConfig, folder: Path) -> Iterator[Finding]:
    if config.data.source == "hf" and not Path(config.data.path).exists():
        yield Finding(
            "Samples",
            "check",
            f"{config.data.path} is on the Hub and would be downloaded",
            "Check the name and the columns.",
        )
        return
    try:
        source = load_samples(config.data, folder)
    except HartError as error:
        yield Finding("Samples", "bad", str(error), "Check data.source and data.path.")
        return
    if dropped := source.loaded.describe_dropped():
        yield Finding("Samples", "check", dropped, "Repair them, or continue without them.")
    try:
        split = split_config(config, source)
    except HartError as error:
        yield Finding("Samples", "bad", str(error), "Lower data.rl_samples, data.sft_samples or data.eval_samples.")
        return
    yield Finding(
        "Samples",
        "good",
        f"{len(split.rl):,} for RL, {len(split.sft):,} for SFT, {len(split.evaluation):,} held out; "
        "no question appears in more than one part",
    )
    yield _check_blindness(split)
    yield _check_images(split, source)
    yield _check_answers(split)
    yield _check_rewards(split)
    if "sft" in config.method.stage_names and config.method.sft_target == "grounded":
        yield _check_labels(split)


def _check_blindness(split: Split) -> Finding:
    exposed = sum(isinstance(sample, GoldSample) or hasattr(sample, "gold_boxes") for sample in (*split.rl, *split.sft))
    if exposed:
        return Finding(
            "Gold boxes", "bad", f"{exposed} training samples contain them", "Report this as a bug of HART Studio."
        )
    known = sum(bool(sample.gold_boxes) for sample in split.evaluation)
    return Finding(
        "Gold boxes", "good", f"hidden from training; {known:,} held-out questions have gold boxes for evaluation"
    )


def _check_images(split: Split, source: SampleSource) -> Finding:
    samples = _spread((*split.rl, *split.sft, *split.evaluation), IMAGES)
    broken = []
    for sample in samples:
        try:
            with source.open_image(sample.image) as image:
                image.overview(max_side=64)
        except (HartError, OSError) as error:
            broken.append(f"{Path(sample.image).name}: {error}")
    if len(broken) == len(samples):
        return Finding("Images", "bad", f"none of {len(samples)} can be opened; {broken[0]}", "Check data.image_root.")
    if broken:
        text = f"{len(broken)} of {len(samples)} cannot be opened; {broken[0]}"
        return Finding("Images", "check", text, "Such samples are skipped and counted. Repair them if there are many.")
    return Finding("Images", "good", f"{len(samples)} of {len(samples)} can be opened")


def _check_answers(split: Split) -> Finding:
    samples: tuple[Sample, ...] = (*split.rl, *split.sft)
    missing = sum(sample.answer is None for sample in samples)
    if missing:
        return Finding(
            "Answers", "bad", f"{missing:,} of {len(samples):,} are missing", "Add them, or remove the rows."
        )
    return Finding("Answers", "good", f"all {len(samples):,} samples have an answer")


def _check_rewards(split: Split) -> Finding:
    """Check the reward: the correct answer must get 1 and another one 0 with the strict extractor."""
    tried = _spread((*split.rl, *split.sft), REWARDS)
    for sample in tried:
        wrong = next((letter for letter in sample.letters if letter != sample.answer), "something else entirely")
        right_score = score_answer(f"\\boxed{{{sample.answer}}}", sample.choices, sample.answer).value
        wrong_score = score_answer(f"\\boxed{{{wrong}}}", sample.choices, sample.answer).value
        if (right_score, wrong_score) != (1.0, 0.0):
            text = f"question {sample.id}: the correct answer gets reward {right_score}, another one {wrong_score}"
            return Finding("Reward", "bad", text, "Rewrite the answer so that the extractor can read it.")
    return Finding(
        "Reward", "good", f"tested on {len(tried)} questions: the correct answer gets reward 1, another one 0"
    )


def _check_labels(split: Split) -> Finding:
    """Check that there are label boxes for SFT on grounded answers."""
    missing = sum(not sample.label_boxes for sample in split.sft)
    if missing == len(split.sft):
        text = "no SFT sample has label boxes"
        return Finding("Labels", "bad", text, "Train on the labels of a project, or set method.sft_target=answer.")
    if missing:
        text = f"{missing:,} of {len(split.sft):,} SFT samples have no label boxes"
        return Finding("Labels", "check", text, "They are skipped and counted.")
    return Finding("Labels", "good", f"all {len(split.sft):,} SFT samples have label boxes")


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Evenly spaced samples of the list."""
    every = max(1, len(samples) // max(1, count))
    return list(samples[::every][:count])


def check_trackers(names: Sequence[str]) -> None:
    """Check that tracker packages are installed, without importing them.

    Args:
        names: ``RunConfig.trackers``.

    Raises:
        InputError: If one is not installed.
    """
    for name in names:
        if all(importlib.util.find_spec(package) is None for package in _TRACKER_PACKAGES.get(name, (name,))):
            raise InputError(
                f"The tracker {name} is not installed. Run pip install {name}, or remove it from trackers."
            )
