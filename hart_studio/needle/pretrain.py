"""Make the built-in model: ``python -m hart_studio.needle.pretrain --out DIR``.

It stands for a pretrained multimodal model with imperfect grounding, so training stops while grounding is mediocre.
Progress goes to the terminal and to ``log.jsonl``; a checkpoint is written every few minutes and ``--resume``
continues from the newest.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration

from hart_studio.files import append_jsonl, write_json
from hart_studio.needle.curriculum import LEVELS, make_lesson
from hart_studio.needle.objective import Pupil, Result, compute_loss
from hart_studio.needle.packing import Batch, Packer
from hart_studio.needle.priors import set_patch_prior
from hart_studio.needle.tiny_model import build_model, build_processor, build_tokenizer, number_token_ids

LEARNING_RATE: Final = 1e-3
"""Step size of AdamW after 50 steps of warm-up."""
CELL_WEIGHT: Final = 0.5
"""Weight of the auxiliary loss of the visual tokens beside the token loss."""
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")
_SMOOTHING: Final = 0.97
_PRETRAIN_STREAM: Final = 0
"""First entry of the seed sequence; the data presets use others, so no test scene is ever trained on."""


@dataclass
class Progress:
    """Everything besides weights that a resumed run needs."""

    step: int = 0
    level: int = 0
    level_step: int = 0
    growth: float = 0.0
    coordinate_hit: float = 0.0
    overview_right: float = 0.0
    crop_right: float = 0.0
    word_right: float = 0.0
    seconds: float = 0.0

    def observe(self, overview: Result, crops: Result) -> None:
        """Fold one lesson into the running means, then move the curriculum on."""
        news = {
            "coordinate_hit": overview.coordinate_hit,
            "overview_right": overview.answer_right,
            "crop_right": crops.answer_right,
            "word_right": (overview + crops).word_right,
        }
        for name, value in news.items():
            if math.isfinite(value):
                setattr(self, name, _SMOOTHING * getattr(self, name) + (1 - _SMOOTHING) * value)
        self.step += 1
        self.level_step += 1
        level = LEVELS[self.level]
        if (self.word_right if level.is_looking else self.crop_right) > 0.7:
            self.growth = min(1.0, self.growth + 0.002)
        reached = self.word_right if level.is_looking else self.coordinate_hit
        if self.level_step >= 60 and (reached >= level.advance_at or self.level_step >= level.patience):
            self.level, self.level_step, self.coordinate_hit = self.level + 1, 0, 0.0


class _Lessons(IterableDataset[tuple[list[Batch], list[Batch], int]]):
    """Batches drawn by a worker process; the stage is shared memory, so lessons follow the pupil with a short lag."""

    def __init__(self, packer: Packer, seed: int, start: int, stage: Any) -> None:
        self._packer, self._seed, self._start, self._stage = packer, seed, start, stage

    def __iter__(self) -> Iterator[tuple[list[Batch], list[Batch], int]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        index = self._start + (worker.id if worker else 0)
        while True:
            rng = np.random.default_rng([_PRETRAIN_STREAM, self._seed, index])
            number = int(self._stage[0])
            overviews, crops = make_lesson(rng, LEVELS[number], float(self._stage[1]))
            yield self._packer.pack(overviews), self._packer.pack(crops), number
            index += worker.num_workers if worker else 1


def train(
    out: Path,
    *,
    seed: int = 0,
    hours: float = 3.0,
    steps: int | None = None,
    stop_hit: float = 0.5,
    resume: bool = False,
    workers: int = 1,
) -> Path:
    """Train until grounding is good enough to be called mediocre, or time is up.

    Args:
        out: Folder for checkpoints and the log.
        seed: Seeds weights and scenes.
        hours: Time limit, summed over resumed runs.
        steps: Step limit, summed over resumed runs; None = no limit.
        stop_hit: On the last level, stop when this share of coordinates is within 30 thousandths.
        resume: Continue from ``out/checkpoint``.
        workers: Processes that draw scenes; 0 draws in this process, and then a resumed run repeats exactly what the
            uninterrupted one does. Otherwise lessons in flight may lag a stage by a few steps.

    Returns:
        The folder of the finished model.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, seed)
    number_ids = torch.tensor(number_token_ids(tokenizer))
    pupil = Pupil(model)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress()
    packer = Packer(tokenizer, processor.image_processor)
    set_patch_prior(model, _draw_patches(packer, seed))
    if resume and (out / "checkpoint" / "progress.json").exists():
        progress = _load_checkpoint(out / "checkpoint", pupil, optimizer)
    stage = multiprocessing.get_context("spawn").Array("d", [progress.level, progress.growth], lock=False)
    lessons = _Lessons(packer, seed, progress.step, stage)
    batches = iter(_load(lessons, workers))
    saved_at = shown_at = time.monotonic()
    bar = tqdm(initial=progress.step, unit="step", desc="pretrain")
    pupil.train()
    while progress.seconds < hours * 3600 and (steps is None or progress.step < steps):
        start = time.monotonic()
        overviews, crops, number = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (progress.step + 1) / 50)
        results = [_backward(pupil, part, number_ids, LEVELS[number].sigma) for part in (overviews, crops)]
        norm = torch.nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.observe(*results)
        stage[0], stage[1] = progress.level, progress.growth
        progress.seconds += time.monotonic() - start
        bar.update()
        if time.monotonic() - shown_at > 10:
            shown_at = time.monotonic()
            line = {"grad_norm": float(norm)}
            line |= {"overview_loss": results[0].mean_loss, "crop_loss": results[1].mean_loss}
            line |= asdict(progress)
            append_jsonl(
                out / "log.jsonl", {key: round(value, 4) for key, value in line.items() if math.isfinite(value)}
            )
            bar.set_postfix(
                level=progress.level,
                word=f"{progress.word_right:.2f}",
                hit=f"{progress.coordinate_hit:.2f}",
                crop=f"{progress.crop_right:.2f}",
            )
        if time.monotonic() - saved_at > 180:
            saved_at = time.monotonic()
            _save_checkpoint(out, pupil, optimizer, progress)
            _save_model(out / "snapshots" / f"step_{progress.step:06d}", model, processor)
        if progress.level == len(LEVELS) - 1 and progress.level_step > 60 and progress.coordinate_hit >= stop_hit:
            break
    bar.close()
    _save_checkpoint(out, pupil, optimizer, progress)
    return _save_model(out / "model", model, processor)


def _load(lessons: _Lessons, workers: int) -> DataLoader[tuple[list[Batch], list[Batch], int]]:
    """Lessons from worker processes. Spawned, not forked: this process has threads by now, and a fork of them hangs."""
    if not workers:
        return DataLoader(lessons, batch_size=None)
    return DataLoader(lessons, batch_size=None, num_workers=workers, prefetch_factor=4, multiprocessing_context="spawn")


def _draw_patches(packer: Packer, seed: int) -> torch.Tensor:
    """Patches ``[N, features]`` of one looking lesson that is never taught."""
    rng = np.random.default_rng([_PRETRAIN_STREAM, seed, 2**31])
    overviews, crops = make_lesson(rng, LEVELS[3], growth=0.5)
    return torch.cat([torch.from_numpy(batch.pixel_values) for batch in packer.pack([*overviews, *crops])])


def _backward(pupil: Pupil, batches: Sequence[Batch], number_ids: torch.Tensor, sigma: float) -> Result:
    """Accumulate the gradient of the mean loss over all batches of one part of a lesson."""
    total = sum(float(batch.weights.sum()) for batch in batches)
    counts = Result()
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, cells, result = compute_loss(pupil, batch, number_ids, sigma)
        (loss / max(total, 1.0) + CELL_WEIGHT * cells / len(batches)).backward()  # type: ignore[no-untyped-call]
        counts += result
    return counts


def _save_model(folder: Path, model: Qwen3VLForConditionalGeneration, processor: Any) -> Path:
    """The model in bfloat16 with its processor, as ``from_pretrained`` reads it."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"dtype": "bfloat16"})
    processor.save_pretrained(folder)
    return folder


def _save_checkpoint(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Weights, optimizer state and progress in a new folder that replaces the old one in one step."""
    fresh, current, old = out / "checkpoint.new", out / "checkpoint", out / "checkpoint.old"
    fresh.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()["state"]
    tensors = {f"weight.{name}": value.detach().contiguous() for name, value in model.named_parameters()}
    for index, moments in state.items():  # a weight that has had no gradient yet has no state
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


def _load_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    tensors = load_file(folder / "state.safetensors")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        parameter.data.copy_(tensors[f"weight.{name}"])
        if f"step.{name}" in tensors:
            state[index] = {part: tensors[f"{part}.{name}"] for part in _MOMENTS}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads((folder / "progress.json").read_text()))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hart_studio.needle.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=3.0, help="time limit")
    parser.add_argument("--steps", type=int, default=None, help="step limit")
    parser.add_argument("--stop-hit", type=float, default=0.5, help="coordinate hit rate that ends the last level")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    train(
        options.out,
        seed=options.seed,
        hours=options.hours,
        steps=options.steps,
        stop_hit=options.stop_hit,
        resume=options.resume,
        workers=options.workers,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
