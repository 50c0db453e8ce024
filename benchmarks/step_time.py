"""Training step time compared with TRL's GRPO step: ``python -m benchmarks.step_time``.

The same random Qwen2.5-VL of about 50 million weights, the same image, one prompt per step with G completions, LoRA,
gradient checkpointing and a reference as in the preset for a 7B model, on the CPU. Steps alternate: TRL's
unmodified ``GRPOTrainer``, and HART Studio for GRPO, MGPO and HART (AP-GRPO), shared (``rollout.prefix_sharing``) or
plain: every completion is then scored with its own prompt, while sampling prefills the prompt of a group once in both.
Every round starts with TRL's step, and ratios are computed within a round. Plain steps are the control and slow, so
they are in the first rounds only. Memory is measured separately, in one process per variant.

Completions have a fixed length, because random weights do not stop; boxes are written into the grounding
completions, because random weights do not write boxes (``step_time_model.ScriptedModel``). TRL's step has one turn,
those of MGPO and HART have two of the same length.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers
import trl

from benchmarks.step_time_measures import measure_memory, silence_libraries, time_turn_one, warm_up
from benchmarks.step_time_model import FULL, LIGHT, SMALL, Setup, make_setup
from benchmarks.step_time_report import Results, find_targets, write_report
from benchmarks.step_time_variants import PLAIN, SHARED, VANILLA, Variant

GROUP_SIZES = (4, 16)
"""Group sizes of the separately measured grounding turn."""


def measure(setup: Setup, small: Setup, pairs: int, plain_pairs: int) -> Results:
    """Run all measurements.

    Args:
        setup: The measured setup.
        small: Setup of the first step of each variant, which is not measured.
        pairs: Number of rounds.
        plain_pairs: Number of rounds with plain steps, at least 1.
    """
    results = Results()
    names = (VANILLA, *SHARED, *PLAIN)
    results.memory = measure_memory(names, setup, small)
    for name in names:
        warm_up(name, setup, small)
    variants = {name: Variant(name, setup) for name in names}
    for number in range(pairs):
        for name in names if number < plain_pairs else (VANILLA, *SHARED):
            step = variants[name].step()
            results.seconds.setdefault(name, []).append(step.seconds)
            results.steps[name] = asdict(step)
            say(f"round {number + 1} of {pairs}: {name} {step.seconds:.2f} s")
    hart = variants["ap_grpo shared"]
    for size in GROUP_SIZES * pairs:
        results.turn_one.setdefault(size, []).append(time_turn_one(hart, setup, size))
    results.weights = hart.weights
    sizes = setup.sizes
    results.about = {
        "weights, million": f"{hart.weight_count / 1e6:.1f}",
        "tower / text work, visual token": f"{4 * hart.weights['patch'] / hart.weights['text']:.2f} (7B: 0.39)",
        "completions of a prompt": sizes.group_size,
        "tokens of a turn": sizes.turn_tokens,
        "rows of TRL's micro-batches": setup.vanilla_rows,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": f"trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
    }
    return results


def say(text: str) -> None:
    """Print progress with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--plain-pairs", type=int, default=1, help="rounds with plain steps (1)")
    parser.add_argument("--group-size", type=int, help="completions per prompt, G (8)")
    parser.add_argument("--turn-tokens", type=int, help="tokens per completion of a turn (64)")
    parser.add_argument("--vanilla-rows", type=int, default=0, help="rows of TRL's micro-batches (G, as in the preset)")
    parser.add_argument(
        "--light-tower", action="store_true", help="use a vision tower with the relative cost of that of the 7B model"
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes for a smoke test; results are not meaningful")
    parser.add_argument("--profile", action="store_true", help="also print time by phase, and operation counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to FILE")
    options = parser.parse_args()
    sizes = SMALL if options.small else LIGHT if options.light_tower else FULL
    sizes = replace(
        sizes,
        group_size=options.group_size or sizes.group_size,
        turn_tokens=options.turn_tokens or sizes.turn_tokens,
    )
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder:
        setup = make_setup(sizes, Path(folder) / "measured", options.vanilla_rows)
        small = setup if options.small else make_setup(SMALL, Path(folder) / "small")
        results = measure(setup, small, options.pairs, options.plain_pairs)
    if options.small:
        results.about["note"] = "tiny sizes for a smoke test: results and verdicts are not meaningful"
    print(f"\n{write_report(results, options.profile)}")
    if options.json:
        targets = [{**asdict(target), "is_held": target.is_held} for target in find_targets(results)]
        options.json.write_text(json.dumps({**asdict(results), "targets": targets}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
