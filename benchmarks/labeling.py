"""Throughput of labeling, batched vs. single items, and memory with many items.

``python -m benchmarks.labeling [--items 48] [--batch 16] [--rollouts 8] [--rounds 3] [--many 5000]``. One by
one is a simple script: one item, one rollout and one model call at a time, with the same
stages. Both take the same items in alternating rounds of one process; ratios are printed with their range.
Memory is that of a whole labeling run over ``--many`` items of one small image.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, prepare_run, run_labeling
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.self_verify import ProposalSettings, propose
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.models.chat import ChatModel, ChatRequest, Completion, SamplingParams
from hart_studio.models.loading import load_model
from hart_studio.needle.dataset import iterate_items, write_image
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Sample


class OneAtATime:
    """A model that runs one request and one completion at a time, regardless of the batch."""

    def __init__(self, real: ChatModel) -> None:
        self.real = real
        self.name, self.family = real.name, real.family
        self.overview_budget, self.crop_budget = real.overview_budget, real.crop_budget

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Run requests one by one."""
        return [[self.real.generate([request], sampling)[0][0] for _ in range(group_size)] for request in requests]


def draw(folder: Path, count: int) -> list[Sample]:
    """Draw needle questions of the default size."""
    samples = []
    for item in iterate_items("val", count, seed=7):
        path = folder / f"{item.id}.jpg"
        write_image(item.scene, path)
        question = item.question
        samples.append(
            Sample(
                id=item.id, image=str(path), question=question.text, choices=question.choices, answer=question.letter
            )
        )
    return samples


def measure(model: ChatModel, samples: Sequence[Sample], settings: ProposalSettings, batch: int) -> float:
    """Items per minute."""
    started = time.perf_counter()
    for start in range(0, len(samples), batch):
        propose(model, samples[start : start + batch], settings)
    return 60 * len(samples) / (time.perf_counter() - started)


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def watch_memory(model: ChatModel, folder: Path, many: int) -> list[tuple[int, float]]:
    """Peak memory after each tenth of a labeling run over many items."""
    Image.effect_noise((640, 480), 60).convert("RGB").save(folder / "small.jpg")
    project = create_project(folder / "project")
    rows = [
        Sample(id=f"{n}", image=str(folder / "small.jpg"), question=f"What is {n}?", choices=("a", "b"), answer="A")
        for n in range(many)
    ]
    import_samples(project, LoadedSamples("many", tuple(rows)))
    settings = ProposalSettings(rollouts=2, loop=LoopSettings(temperature=1.0, max_new_tokens=16))
    config = LabelingConfig(batch=32, proposals=settings)
    layout = prepare_run(project, config)
    marks: list[tuple[int, float]] = []

    class Watched(OneAtATime):
        asked = 0

        def generate(
            self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
        ) -> list[list[Completion]]:
            found = self.real.generate(requests, sampling, group_size)
            Watched.asked += 1
            if Watched.asked % max(1, 5 * many // 32 // 10) == 0:  # five calls per batch of 32
                marks.append((Watched.asked * 32 // 5, peak_mb()))
            return found

    run_labeling(layout, lambda name, device: Watched(model))
    return marks


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labeling", description=__doc__)
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=5000)
    options = parser.parse_args()
    model = load_model(TRAINED_MODEL, device="cpu")
    loop = LoopSettings(temperature=1.0, max_new_tokens=96, seed=0)
    settings = ProposalSettings(rollouts=options.rollouts, loop=loop)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = draw(folder, options.items)
        measure(model, samples[: options.batch], settings, options.batch)  # warm
        batched, single = [], []
        for _ in range(options.rounds):
            batched.append(measure(model, samples, settings, options.batch))
            single.append(measure(OneAtATime(model), samples, settings, 1))
        ratios = [fast / slow for fast, slow in zip(batched, single, strict=True)]
        print(f"{options.items} items of 4096 x 3072, K {options.rollouts}, {torch.get_num_threads()} threads")
        print(f"batched ({options.batch}): {statistics.median(batched):.1f} items per minute")
        print(f"one by one:   {statistics.median(single):.1f} items per minute")
        print(f"ratio:        {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        if options.many:
            gc.collect()
            for done, peak in watch_memory(model, folder, options.many):
                print(f"peak memory after about {done:>5} of {options.many} items: {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
