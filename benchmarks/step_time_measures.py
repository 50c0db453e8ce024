"""Further measurements of ``benchmarks.step_time``: peak memory, and time of the grounding turn."""

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
from hart_studio.pipeline.turns import grounding_request, make_overview
from hart_studio.training.micro_batches import MicroBatch, WeightedSequence
from hart_studio.training.rollouts import loop_settings
from hart_studio.training.sequences import turn_sequence

STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")


def measure_memory(names: Sequence[str], setup: Setup, small: Setup) -> dict[str, dict[str, float]]:
    """Measure the peak memory of one step of each variant, each in its own process.

    Each process first runs a step of the small model, so that libraries are loaded, then loads the model and resets the
    peak resident memory of the kernel (VmHWM); the step memory is the peak afterwards
    minus the resident memory before.

    Args:
        names: Variants.
        setup: The measured setup.
        small: Setup of the first step.

    Returns:
        MiB for each variant: ``loaded`` before the step, ``step`` = additional peak.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # libraries are loaded once; memory is allocated per process
    found = {}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found[name] = pool.submit(_measure_own_memory, name, setup, small).result()
    return found


def warm_up(name: str, setup: Setup, small: Setup) -> None:
    """Run a step of the small model, unless it is the measured setup."""
    if setup != small:
        Variant(name, small).step()


def silence_libraries() -> None:
    """Suppress progress bars and messages of libraries."""
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
    """Time of the grounding turn of one prompt in seconds: sampling, reference, and update passes.

    Args:
        variant: A method with a grounding turn; it has already run a step.
        setup: Contains the image.
        group_size: Rollouts, G; may differ from that of the variant.
    """
    trainer, policy = variant.trainer, variant.trainer.policy
    settings = loop_settings(variant.config, setup.sizes.turn_tokens, seed=0)
    overview: ImageInput = make_overview(SourceImage(setup.image), policy, settings)  # a new one: not yet encoded
    request = grounding_request(overview, QUESTION)
    trainer.model.train()
    began = time.perf_counter()
    ((group),) = policy.generate([request], settings.grounding_sampling, group_size)
    prompt = policy.read(request)
    weight = 1 / (group_size * setup.sizes.turn_tokens)
    batch = MicroBatch([WeightedSequence(turn_sequence(prompt, completion.token_ids), weight) for completion in group])
    batch.ref_logps = trainer._reference_logps(batch)
    trainer.compute_loss(trainer.model, batch).backward()
    seconds = time.perf_counter() - began
    trainer.model.zero_grad(set_to_none=True)
    return seconds
