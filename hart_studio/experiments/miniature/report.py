"""The report of a study: Markdown and two charts, made from its files alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hart_studio.evaluation.charts import draw_lines, to_svg
from hart_studio.experiments.miniature.claims import claims_table
from hart_studio.experiments.miniature.curves import join_seeds
from hart_studio.experiments.miniature.results import StudyResults
from hart_studio.experiments.miniature.tables import table_1, table_6, table_7, table_8, table_information
from hart_studio.experiments.miniature.variants import StudyVariant
from hart_studio.files import write_atomically
from hart_studio.outputs import check_output
from hart_studio.runs.config import RunConfig

_NOT_COMPARABLE: Final = """\
**What this is not.** A model of a few million weights on drawn scenes, trained for minutes on a CPU, stands
here where the paper has Qwen2.5-VL-7B on photographs. The published figures are printed beside the measured
ones to show the direction and the size of an effect there; their levels are not comparable with those here.
Steps, prompts per step and learning rates are ours, and so is the answer protocol after SFT: the paper states
none of them."""

_HOW_TO_READ: Final = """\
`56.2 ± 1.3 [52.0, 60.4]`: mean over seeds, standard deviation over seeds (none with one seed), and the 95 %
percentile bootstrap interval over test questions. The interval says how far a figure depends on the questions,
not on the seed. Differences are paired by question. The base model is the same for all seeds and decoding is
greedy, so it has no deviation."""

_TABLE_1: Final = """\
Each model under its own protocol: `direct` for base, SFT and GRPO, `full_and_crops` for MGPO, `crops_only` for
AP-GRPO; a chain has the protocol of its RL stage. Counts are questions, means over seeds. A box is right when
every gold box of the question is found (IoG > 0.3)."""

_TABLE_6: Final = """\
Share of the gold boxes that one predicted box covers by more than 0.3, mean over questions. A box over the
whole image would score 100 %, hence IoU and area share beside it, the latter over questions with a usable box."""

_CURVES: Final = """\
Lines are means over seeds, bands reach from the least to the greatest seed. Rewards of methods are not
comparable in level: each answers under its own protocol."""


_HEAD: Final = "# The study in miniature"


def check_report(path: Path) -> None:
    """Check that the report may be written to a path.

    Raises:
        InputError: If anything but an earlier report is there.
    """
    check_output(path, "a report of the study", lambda head: head.startswith(_HEAD.encode()))


def write_report(path: Path, results: StudyResults, config: RunConfig, command: str, jobs: int) -> None:
    """Write the report and its charts ``<name>_reward.svg`` and ``<name>_grounding.svg`` beside it.

    Args:
        path: The Markdown file; its folder is made.
        results: The study.
        config: What all variants have in common.
        command: The command that made it.
        jobs: Variants that ran at a time.

    Raises:
        OSError: If a file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    charts = draw_charts(results)
    for name, text in charts.items():
        write_atomically(path.with_name(f"{path.stem}_{name}.svg"), text)
    write_atomically(path, compose_report(results, config, command, jobs, path.stem))


def compose_report(results: StudyResults, config: RunConfig, command: str, jobs: int, stem: str) -> str:
    """The report as Markdown.

    Args:
        results: The study.
        config: What all variants have in common.
        command: The command that made it.
        jobs: Variants that ran at a time.
        stem: Beginning of the charts' file names.
    """
    kinds = ", ".join(f"{results.kinds.count(kind)} {kind}" for kind in sorted(set(results.kinds)))
    parts = [
        _HEAD,
        "Made by the command below from the records of its runs; nothing in it is written by hand.",
        f"```\n{command}\n```",
        _describe_machine(results, jobs),
        _describe_budget(results.variants, config, len(results.kinds), kinds, results.seeds),
        _NOT_COMPARABLE,
        _HOW_TO_READ,
        "## What the paper claims, and what was seen here",
        "*Seen* = the whole interval is above 0.",
        claims_table(results),
        "## Table 1: answer and box",
        _TABLE_1,
        table_1(results, None),
        "The same, `crops_only` for every model:",
        table_1(results, "crops_only"),
        "## Proposition 1: what the box says about the answer",
        "Mutual information I(L; R) of box right and answer right in bits, plug-in estimate (too high by about "
        f"{_information_bias(len(results.kinds))} bits, alike in all columns).",
        table_information(results),
        "## Table 6: grounding",
        _TABLE_6,
        table_6(results),
        "## Table 7: accuracy",
        table_7(results),
        "Detail questions, which need the crop:",
        table_7(results, "detail"),
        "Gist questions, which the overview answers:",
        table_7(results, "gist"),
        "## Table 8: cost of a training step",
        f"Seconds by phase, mean over steps but the first. {jobs} variants ran at a time and shared the machine, so "
        "rows are to be compared with each other only. Memory is the peak of the process.",
        table_8(results),
        "## Learning curves",
        f"![reward by step]({stem}_reward.svg)",
        f"![grounding of held-out questions by step]({stem}_grounding.svg)",
        _CURVES,
    ]
    return "\n\n".join(parts) + "\n"


def draw_charts(results: StudyResults) -> dict[str, str]:
    """Name -> SVG of the reward while training, and of grounding on held-out questions."""
    trained = [variant for variant in results.variants if variant.parent == "base"]
    longest = max((len(curve) for variant in trained for curve in results.curve(variant.name, "reward")), default=1)
    window = max(1, longest // 20) // 2 * 2 + 1
    rewards = [join_seeds(variant.title, results.curve(variant.name, "reward"), window) for variant in trained]
    found = [join_seeds(variant.title, results.curve(variant.name, "iog_above_0.3")) for variant in trained]
    smoothed = f", mean of {window} steps" if window > 1 else ""
    return {
        "reward": to_svg(draw_lines(f"Reward of the rollouts{smoothed}", "training step", "reward", rewards)),
        "grounding": to_svg(
            draw_lines(
                "Grounding of held-out questions, IoG > 0.3", "training step", "share of gold boxes found", found
            )
        ),
    }


def _describe_machine(results: StudyResults, jobs: int) -> str:
    """Where and when; versions come from the runs themselves."""
    origins = results.provenances()
    versions = sorted({f"torch {origin.versions.get('torch', 'unknown')}" for origin in origins})
    commits = sorted({(origin.git_commit or "unknown")[:12] for origin in origins})
    platforms = sorted({origin.platform for origin in origins})
    lines = [
        f"- Written {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {jobs} variants at a time",
        f"- Machine of the runs: {', '.join(platforms) or 'no run yet'}; {', '.join(versions) or 'no version known'}",
        f"- Code: {', '.join(commits) or 'no run yet'}"
        + (" with local changes" if any(origin.has_local_changes for origin in origins) else ""),
    ]
    return "\n".join(lines)


def _describe_budget(
    variants: Sequence[StudyVariant], config: RunConfig, questions: int, kinds: str, seeds: int
) -> str:
    schedule, data = config.schedule, config.data
    rollouts = schedule.rl_batch_size * config.rollout.group_size
    sft_samples = "the other" if data.sft_samples is None else f"{data.sft_samples}"
    return "\n".join(
        [
            f"- {seeds} seed(s), {len(variants)} models; {questions} test questions ({kinds or 'none measured'})",
            f"- Every RL stage: {schedule.rl_steps} steps of {schedule.rl_batch_size} prompts x "
            f"{config.rollout.group_size} rollouts = {schedule.rl_steps * rollouts} rollouts whatever the method, "
            f"from the same {data.rl_samples} questions in the same order",
            f"- Every SFT stage: {schedule.sft_steps} steps of {schedule.sft_batch_size} samples out of {sft_samples} "
            f"questions, none of them an RL question; {data.eval_samples} more are held out for the curves",
        ]
    )


def _information_bias(questions: int) -> str:
    return f"{1 / (2 * questions * 0.6931):.4f}" if questions else "?"
