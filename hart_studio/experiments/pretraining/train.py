"""Train the built-in model: ``python -m hart_studio.experiments.pretraining.train --out DIR``.

It represents a pretrained multimodal model with imperfect grounding, so training stops while grounding is mediocre.
Progress is written to the terminal and to ``log.jsonl``; a checkpoint is saved every few minutes and ``--resume``
continues from the latest.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration

from hart_studio.errors import HartError
from hart_studio.experiments.pretraining.curriculum import FULL_VISION_LEVEL, LEVELS
from hart_studio.experiments.pretraining.objective import LossTotals, PretrainingModel, compute_loss
from hart_studio.experiments.pretraining.packing import Batch, Packer
from hart_studio.experiments.pretraining.tasks import make_step_rows
from hart_studio.experiments.pretraining.tiny_model import (
    build_model,
    build_processor,
    build_tokenizer,
    number_token_ids,
    set_patch_prior,
)
from hart_studio.files import append_jsonl, write_json
from hart_studio.needle.opencv import cv2
from hart_studio.outputs import check_output_folder
from hart_studio.subcommands import CommandParser

LEARNING_RATE: Final = 1e-3
"""Learning rate of AdamW after 50 warm-up steps."""
CELL_WEIGHT: Final = 0.5
"""Weight of the auxiliary loss of the visual tokens relative to the token loss."""
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")
_DISPLAYED: Final = ("level", "word_accuracy", "detail_accuracy", "coordinate_hit", "crop_accuracy")
_SMOOTHING: Final = 0.97
_PRETRAIN_STREAM: Final = 0
"""First entry of the seed sequence; the splits use others, so test scenes are never used in training."""


@dataclass
class TrainingState:
    """State of a run for resuming, in addition to the weights."""

    step: int = 0
    level: int = 0
    level_step: int = 0
    growth: float = 0.0
    coordinate_hit: float = 0.0
    overview_accuracy: float = 0.0
    crop_accuracy: float = 0.0
    word_accuracy: float = 0.0
    detail_accuracy: float = 0.0
    seconds: float = 0.0

    def observe(self, overview: LossTotals, crops: LossTotals) -> None:
        """Update the running means with one step, then advance the curriculum."""
        updates = {
            "coordinate_hit": overview.coordinate_hit,
            "overview_accuracy": overview.answer_right,
            "crop_accuracy": crops.answer_right,
            "word_accuracy": (overview + crops).word_accuracy,
            "detail_accuracy": (overview + crops).detail_accuracy,
        }
        for name, value in updates.items():
            if math.isfinite(value):
                setattr(self, name, _SMOOTHING * getattr(self, name) + (1 - _SMOOTHING) * value)
        self.step += 1
        self.level_step += 1
        level = LEVELS[self.level]
        if self.detail_accuracy > 0.7:
            self.growth = min(1.0, self.growth + 0.004)
        is_reached = getattr(self, level.goal) >= level.advance_at
        if (is_reached and self.level_step >= 60) or self.level_step >= level.patience:
            self.level, self.level_step, self.coordinate_hit = self.level + 1, 0, 0.0


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of a run.

    Attributes:
        out: Folder for checkpoints and the log.
        seed: Seeds weights and scenes.
        hours: Time limit, summed over resumed runs.
        steps: Step limit, summed over resumed runs; None = no limit.
        resume: Continue from ``out/checkpoint``.
        processes: Number of single-threaded data-parallel processes that share each step and average gradients. On a
            small machine this is faster than threads, which synchronize many times per step.
    """

    out: Path
    seed: int = 0
    hours: float = 3.0
    steps: int | None = None
    resume: bool = False
    processes: int = 1


def train(config: PretrainingConfig) -> Path:
    """Train through all levels of the curriculum, or until the time limit.

    A resumed run gives exactly the same result as an uninterrupted one.

    Returns:
        The folder of the finished model.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    if config.processes == 1:
        _train_rank(0, config, None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rendezvous = (Path(folder) / "meeting").as_uri()
            spawn(_train_rank, args=(config, rendezvous), nprocs=config.processes)  # type: ignore[no-untyped-call]
    return config.out / "model"


def _train_rank(rank: int, config: PretrainingConfig, rendezvous: str | None) -> None:
    """Run one of the processes; rank 0 writes."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if rendezvous:
        distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.processes)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    packer = Packer(tokenizer, processor.image_processor)
    model = build_model(tokenizer, config.seed)
    set_patch_prior(model, _draw_patches(packer, config.seed))
    number_ids = torch.tensor(number_token_ids(tokenizer))
    trainable = PretrainingModel(model).train()
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = TrainingState()
    if config.resume and (config.out / "checkpoint" / "progress.json").exists():
        progress = _load_checkpoint(config.out / "checkpoint", trainable, optimizer)
    saved_at = shown_at = time.monotonic()
    parent = os.getppid()
    bar = tqdm(initial=progress.step, unit="step", desc="pretrain", disable=rank > 0)
    while not _is_finished(progress, config):
        if rendezvous and os.getppid() != parent:  # the parent was killed; stop instead of training as an orphan
            raise SystemExit(1)
        start = time.monotonic()
        level = LEVELS[progress.level]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * level.lr_scale * min(1.0, (progress.step + 1) / 50)
        rng = np.random.default_rng([_PRETRAIN_STREAM, config.seed, progress.step, rank])
        parts = make_step_rows(rng, level, progress.growth, share=1 / config.processes)
        overview, crops = (_backward(trainable, packer.pack(rows), number_ids, level.sigma) for rows in parts)
        if rendezvous:
            _average_gradients(trainable, config.processes)
        norm = torch.nn.utils.clip_grad_norm_(trainable.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        totals = torch.tensor([*overview.as_list(), *crops.as_list(), time.monotonic() - start], dtype=torch.float64)
        if rendezvous:
            distributed.all_reduce(totals)
        overview, crops = LossTotals.from_list(totals[:10].tolist()), LossTotals.from_list(totals[10:20].tolist())
        progress.seconds += float(totals[20]) / config.processes
        progress.observe(overview, crops)
        if rank > 0:
            continue
        bar.update()
        if time.monotonic() - shown_at > 10:
            shown_at = time.monotonic()
            figures = {"grad_norm": float(norm), "overview_loss": overview.mean_loss, "crop_loss": crops.mean_loss}
            figures |= asdict(progress)
            finite = {key: round(value, 4) for key, value in figures.items() if math.isfinite(value)}
            append_jsonl(config.out / "log.jsonl", finite)
            bar.set_postfix({key: round(finite[key], 2) for key in _DISPLAYED})
        if time.monotonic() - saved_at > 180:
            saved_at = time.monotonic()
            _save_checkpoint(config.out, trainable, optimizer, progress)
            _save_model(config.out / "snapshots" / f"step_{progress.step:06d}", model, processor)
    bar.close()
    if rank == 0:
        _save_checkpoint(config.out, trainable, optimizer, progress)
        _save_model(config.out / "model", model, processor)
    if rendezvous:
        distributed.destroy_process_group()


def _is_finished(progress: TrainingState, config: PretrainingConfig) -> bool:
    """Whether the curriculum, the time limit or the step limit is reached; equal in all processes."""
    return (
        progress.level == len(LEVELS)
        or progress.seconds >= config.hours * 3600
        or (config.steps is not None and progress.step >= config.steps)
    )


def _average_gradients(trainable: PretrainingModel, processes: int) -> None:
    """Average gradients over processes; weights without a gradient (vision-only levels) have none in any process."""
    gradients = [parameter.grad for parameter in trainable.parameters() if parameter.grad is not None]
    flat = parameters_to_vector(gradients)
    distributed.all_reduce(flat)
    vector_to_parameters(flat / processes, gradients)


def _draw_patches(packer: Packer, seed: int) -> torch.Tensor:
    """Patches ``[N, features]`` of one vision-only step that is not trained on."""
    rng = np.random.default_rng([_PRETRAIN_STREAM, seed, 2**31])
    overviews, crops = make_step_rows(rng, FULL_VISION_LEVEL, growth=0.5)
    return torch.cat([torch.from_numpy(batch.pixel_values) for batch in packer.pack([*overviews, *crops])])


def _backward(
    trainable: PretrainingModel, batches: Sequence[Batch], number_ids: torch.Tensor, sigma: float
) -> LossTotals:
    """Accumulate the gradient of the mean loss over all batches of one part of a step."""
    total = sum(float(batch.weights.sum()) for batch in batches)
    with_images = sum(len(batch.grids) > 0 for batch in batches)
    counts = LossTotals()
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, cells, result = compute_loss(trainable, batch, number_ids, sigma)
        (loss / max(total, 1.0) + CELL_WEIGHT * cells / max(1, with_images)).backward()  # type: ignore[no-untyped-call]
        counts += result
    return counts


def _save_model(folder: Path, model: Qwen3VLForConditionalGeneration, processor: Any) -> Path:
    """Save the model in bfloat16 with its processor, for ``from_pretrained``."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"dtype": "bfloat16"})
    processor.save_pretrained(folder)
    return folder


def _save_checkpoint(
    out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: TrainingState
) -> None:
    """Save weights, optimizer state and progress in a new folder that replaces the old one atomically."""
    fresh, current, old = out / "checkpoint.new", out / "checkpoint", out / "checkpoint.old"
    fresh.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()["state"]
    tensors = {f"weight.{name}": value.detach().contiguous() for name, value in model.named_parameters()}
    for index, moments in state.items():  # a weight without a gradient so far has no state
        tensors |= {f"{part}.{names[index]}": moments[part].contiguous() for part in _MOMENTS}
    save_file(tensors, fresh / "state.safetensors")
    write_json(fresh / "progress.json", asdict(progress))
    if current.exists():
        current.replace(old)
    fresh.replace(current)
    for path in (old / "state.safetensors", old / "progress.json"):
        path.unlink(missing_ok=True)
    if old.exists():
        old.rmdir()


def _load_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    tensors = load_file(folder / "state.safetensors")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        parameter.data.copy_(tensors[f"weight.{name}"])
        if f"step.{name}" in tensors:
            state[index] = {part: tensors[f"{part}.{name}"] for part in _MOMENTS}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return TrainingState(**json.loads((folder / "progress.json").read_text()))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = CommandParser(
        prog="python -m hart_studio.experiments.pretraining.train",
        description=__doc__,
        example="python -m hart_studio.experiments.pretraining.train --steps 10 --out runs/pretrain-try",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=3.0, help="time limit")
    parser.add_argument("--steps", type=int, default=None, help="step limit")
    parser.add_argument("--resume", action="store_true", help="resume from the latest checkpoint")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    config = PretrainingConfig(**vars(parser.parse_args(argv)))
    try:
        if not (config.resume and (config.out / "checkpoint" / "progress.json").exists()):
            check_output_folder(config.out, "a pretraining run")
    except HartError as error:
        parser.error(str(error))
    train(config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
