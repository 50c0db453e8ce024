"""What ``benchmarks.step_time`` measures besides whole steps: peak memory, and the cost of the grounding turn."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import transformers

from benchmarks.step_time_model import QUESTION, Setup
from benchmarks.step_time_variants import Variant
from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ImageInput
from hart_studio.pipeline.grounding import grounding_request, make_overview
from hart_studio.training.micro_batches import MicroBatch, WeightedSequence
from hart_studio.training.rollouts import loop_settings
from hart_studio.training.sequences import turn_sequence

STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")


def measure_memory(names: Sequence[str], setup: Setup, small: Setup) -> dict[str, dict[str, float]]:
    """Peak memory of one step of each variant, each in a process of its own.

    Each process makes a step of the small model first, so that libraries are loaded, then loads the model and has the
    kernel begin again with its record of the most resident memory (VmHWM); what a step adds is that record afterwards
    minus the resident memory before.

    Args:
        names: Variants.
        setup: What is measured.
        small: For the first step.

    Returns:
        MiB for each variant: ``loaded`` before the step, ``step`` on top of it at the peak.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # libraries are read once, the heap of every process is its own
    found = {}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found[name] = pool.submit(_measure_own_memory, name, setup, small).result()
    return found


def warm_up(name: str, setup: Setup, small: Setup) -> None:
    """Make a step of the small model, unless that is what is measured."""
    if setup != small:
        Variant(name, small).step()


def silence_libraries() -> None:
    """Keep progress bars and notes of the libraries out of the report."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)


def _measure_own_memory(name: str, setup: Setup, small: Setup) -> dict[str, float]:
    silence_libraries()
    warm_up(name, setup, small)
    variant = Variant(name, setup)
    gc.collect()
    PEAK_RESET.write_text("5")
    loaded = _read_status("VmRSS")
    variant.step()
    return {"loaded": loaded, "step": _read_status("VmHWM") - loaded}


def _read_status(field: str) -> float:
    """MiB of a field of this process's status, which is in kB."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return float(line.split()[1]) / 1024


def time_turn_one(variant: Variant, setup: Setup, group_size: int) -> float:
    """Seconds for the grounding turn of one prompt: sampling, the reference, and the update's passes.

    Args:
        variant: A method with a grounding turn; it has made a step already.
        setup: The image.
        group_size: Rollouts, G; need not be the variant's own.
    """
    trainer, policy = variant.trainer, variant.trainer.policy
    settings = loop_settings(variant.config, setup.sizes.turn_tokens, seed=0)
    overview: ImageInput = make_overview(SourceImage(setup.image), policy, settings)  # a new one: not yet encoded
    request = grounding_request(overview, QUESTION)
    trainer.model.train()
    began = time.perf_counter()
    ((group),) = policy.generate([request], settings.grounding_sampling, group_size)
    policy.take_generations()
    prompt = policy.read(request)
    weight = 1 / (group_size * setup.sizes.turn_tokens)
    batch = MicroBatch([WeightedSequence(turn_sequence(prompt, said.token_ids), weight) for said in group])
    batch.ref_logps = trainer._reference_logps(batch)
    trainer.compute_loss(trainer.model, batch).backward()
    seconds = time.perf_counter() - began
    trainer.model.zero_grad(set_to_none=True)
    return seconds
