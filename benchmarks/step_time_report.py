"""Tables and verdicts of ``benchmarks.step_time``, from its measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

VANILLA = "vanilla"
COLUMNS = {"grpo": "GRPO", "mgpo": "MGPO", "ap_grpo": "HART"}
PUBLISHED = {"grpo": (21.0, 17422), "mgpo": (30.7, 19130), "ap_grpo": (46.0, 18770)}
"""Seconds per step and MiB in Table 8 of the paper: Qwen2.5-VL-7B on an unnamed GPU."""
KINDS = ("plain", "shared")
PHASES = ("rollout", "reference", "update")


@dataclass
class Results:
    """Measurements of one benchmark run.

    Attributes:
        seconds: Seconds of each step of each variant, by round; not every variant is in every round.
        memory: MiB of each variant: ``loaded``, and additional ``step``.
        turn_one: Seconds of the grounding turn by group size, by pair.
        steps: Last step of each variant: ``phases``, ``tokens``, ``visual_tokens``.
        weights: ``text`` and ``patch``, weights that a token and a patch are multiplied with.
        about: Versions, sizes, threads.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    turn_one: dict[int, list[float]] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """Ratios of consecutive measurements: median and range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Target:
    """Upper limit of a ratio."""

    name: str
    limit: float
    ratio: Ratio

    @property
    def is_held(self) -> bool:
        """Whether the median is within the limit."""
        return self.ratio.median <= self.limit


def pair_ratio(values: Sequence[float], bases: Sequence[float]) -> Ratio:
    """Ratio of each value to the base of the same round; rounds with only one of them are skipped."""
    ratios = [value / base for value, base in zip(values, bases, strict=False)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def find_targets(results: Results) -> list[Target]:
    """Compare the targets with the measurements."""
    vanilla = results.seconds[VANILLA]
    few, many = sorted(results.turn_one)
    hart, grpo = "ap_grpo shared", "grpo shared"
    return [
        Target("HART shared / TRL GRPO, step time", 0.35, pair_ratio(results.seconds[hart], vanilla)),
        Target("GRPO shared / TRL GRPO, step time", 0.15, pair_ratio(results.seconds[grpo], vanilla)),
        Target("HART shared / TRL GRPO, peak memory of a step", 0.50, _memory_ratio(results, hart)),
        Target("GRPO shared / TRL GRPO, peak memory of a step", 0.50, _memory_ratio(results, grpo)),
        Target(
            f"grounding turn of G = {many} / G = {few}, time",
            1.60,
            pair_ratio(results.turn_one[many], results.turn_one[few]),
        ),
    ]


def count_operations(tokens: dict[str, int], weights: dict[str, float]) -> float:
    """Count the operations of weight matrix products of a step: a lower bound, without attention scores and output.

    A product takes two operations per weight. In a pass with gradient, a token passes each matrix three times: forward,
    recomputation, and backward, which for a frozen matrix is one product.

    Args:
        tokens: ``sampled``, ``trained`` and ``patches`` of ``TokenCounter``.
        weights: ``text`` and ``patch``.
    """
    return 2.0 * (
        weights["text"] * (tokens["sampled"] + 3.0 * tokens["trained"]) + weights["patch"] * tokens["patches"]
    )


def write_report(results: Results, with_profile: bool) -> str:
    """Format all tables."""
    parts = [_about(results), _table(results), _ratios(results), _targets(results)]
    if with_profile:
        parts.insert(3, _profile(results))
    return "\n\n".join("\n".join(part) for part in parts)


def _memory_ratio(results: Results, name: str) -> Ratio:
    return pair_ratio([results.memory[name]["step"]], [results.memory[VANILLA]["step"]])


def _about(results: Results) -> Iterator[str]:
    yield "One optimizer step of one prompt: sampling, reference, loss, backward, optimizer"
    for name, value in results.about.items():
        yield f"  {name:32s} {value}"
    for name, step in results.steps.items():
        seen = ", ".join(
            f"{turn} {min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{turn} {counts[0]}"
            for turn, counts in step["visual_tokens"].items()
            if counts
        )
        yield f"  {'visual tokens, ' + name:32s} {seen}"


def _table(results: Results) -> Iterator[str]:
    yield f"{'':36s}" + "".join(f"{title:>12s}" for title in COLUMNS.values())
    for unit, (digits, index) in {"step time, s": (1, 0), "memory, MiB": (0, 1)}.items():
        yield _row(f"{unit}: published (7B, GPU)", [f"{PUBLISHED[name][index]:.{digits}f}" for name in COLUMNS])
        figures = (
            {name: statistics.median(values) for name, values in results.seconds.items()}
            if index == 0
            else {name: values["step"] for name, values in results.memory.items()}
        )
        digits = 2 if index == 0 else 0
        yield _row(f"{unit}: TRL", [f"{figures[VANILLA]:.{digits}f}", "-", "-"])
        for kind in KINDS:
            cells = [figures.get(f"{name} {kind}") for name in COLUMNS]
            yield _row(
                f"{unit}: HART Studio, {kind}", ["-" if value is None else f"{value:.{digits}f}" for value in cells]
            )
    yield "Step times are medians. Memory is the peak of a step above the loaded model, which itself, with its"
    loaded = [values["loaded"] for values in results.memory.values()]
    yield f"libraries, is {min(loaded):.0f} to {max(loaded):.0f} MiB; the published values are those of a whole GPU."


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:36s}" + "".join(f"{cell:>12s}" for cell in cells)


def _ratios(results: Results) -> Iterator[str]:
    yield "Step time relative to TRL's GRPO step of the same round, median (range)"
    for name, values in results.seconds.items():
        if name != VANILLA:
            rounds = min(len(values), len(results.seconds[VANILLA]))
            yield f"  {name:16s} {pair_ratio(values, results.seconds[VANILLA])!s:28s} {rounds} pairs"
    for size, values in sorted(results.turn_one.items()):
        yield f"  grounding turn, sampled and scored, G = {size:2d}: {statistics.median(values):.2f} s"


def _profile(results: Results) -> Iterator[str]:
    yield "Last step by phase, s; tokens of the language model and patches of the tower; and the"
    yield "operations of weight matrix products: a step with proportional time would be at 'floor'"
    titles = (*PHASES, "sampled", "trained", "patches", "GFLOP", "floor")
    yield f"  {'':16s}" + "".join(f"{title:>11s}" for title in titles)
    base = count_operations(results.steps[VANILLA]["tokens"], results.weights)
    for name, step in results.steps.items():
        work = count_operations(step["tokens"], results.weights)
        cells = [f"{step['phases'][phase]:.2f}" for phase in PHASES]
        cells += [str(step["tokens"][key]) for key in ("sampled", "trained", "patches")]
        yield f"  {name:16s}" + "".join(f"{cell:>11s}" for cell in (*cells, f"{work / 1e9:.1f}", f"{work / base:.3f}"))


def _targets(results: Results) -> Iterator[str]:
    yield "Targets"
    for target in find_targets(results):
        verdict = "held" if target.is_held else "missed"
        yield f"  {target.name:46s} <= {target.limit:.2f}   {target.ratio!s:26s} {verdict}"
