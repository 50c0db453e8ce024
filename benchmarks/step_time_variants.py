"""Trainers compared by ``benchmarks.step_time``: one random model, one image, TRL's GRPO step and HART Studio.

Everything that affects time is equal: the model and its adapters, gradient checkpointing, the reference pass, the
number of completions and their tokens, the optimizer. Where they differ, TRL has the cheaper option: its dataset
contains the image at the size of the overview, while HART Studio opens the large original, cuts the crops from it and
resizes; reading TRL's rows from the dataset is not measured; and its completion is one turn with the length of each
turn of HART, so HART writes twice as many tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageColumn
from huggingface_hub import constants
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from benchmarks.step_time_model import CHOICES, QUESTION, TOKEN_SIDE, ScriptedModel, Setup
from hart_studio.algorithms.methods import METHODS
from hart_studio.imaging import SourceImage
from hart_studio.models.loading import unwrap_model
from hart_studio.prompts import question_with_choices
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import get_preset
from hart_studio.training.checkpoints import Stage
from hart_studio.training.hart_trainer import HartTrainer
from hart_studio.training.initial_model import load_initial_model
from hart_studio.training.trl_args import rl_args

CPU = torch.device("cpu")
PRESET = "qwen2.5-vl-7b-lora"
VANILLA = "vanilla"
METHOD_NAMES = ("grpo", "mgpo", "ap_grpo")
SHARED = tuple(f"{name} shared" for name in METHOD_NAMES)
PLAIN = tuple(f"{name} plain" for name in METHOD_NAMES)


class TokenCounter:
    """Count tokens in the first layer of the language model and patches in the tower.

    Attributes:
        sampled: Tokens in passes without gradient: sampling and reference.
        trained: Tokens in passes with gradient; recomputation is not counted.
        patches: Patches in the vision tower.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        core: Any = unwrap_model(model).model
        self.sampled = self.trained = self.patches = 0
        core.language_model.layers[0].register_forward_pre_hook(self._count_text)
        core.visual.blocks[0].register_forward_pre_hook(self._count_patches)

    def _count_text(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        tokens = inputs[0].shape[0] * inputs[0].shape[1]
        if torch.is_grad_enabled():
            self.trained += tokens
        else:
            self.sampled += tokens

    def _count_patches(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.patches += inputs[0].shape[0]

    def take(self) -> dict[str, int]:
        """Return and reset the counts."""
        counts = {"sampled": self.sampled, "trained": self.trained, "patches": self.patches}
        self.sampled = self.trained = self.patches = 0
        return counts


class StepClock(TrainerCallback):
    """Seconds from the start of a step to the end of its optimizer step, without reading the dataset."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._began


@dataclass(frozen=True)
class Step:
    """One measured step: seconds, seconds by phase, tokens of each pass, and visual tokens of each turn."""

    seconds: float
    phases: dict[str, float]
    tokens: dict[str, int]
    visual_tokens: dict[str, list[int]]


class Variant:
    """A trainer that runs one step at a time.

    Attributes:
        name: ``vanilla``, or a method with ``plain`` or ``shared``.
        trainer: The trainer.
        config: Settings of the run.
        weights: Result of ``count_weights``.
        weight_count: Number of weights without adapters.
    """

    def __init__(self, name: str, setup: Setup) -> None:
        """Load the model and create the trainer; computes nothing."""
        self.name = name
        self.config = run_config(name, setup)
        self._setup = setup
        self._clock = StepClock()
        config, output = self.config, setup.model.parent / "out"
        initial = load_initial_model(config, CPU, None)
        args = rl_args(
            config, output, CPU, processes=1, uses_gradient_checkpointing=initial.uses_gradient_checkpointing
        )
        self.weights = count_weights(initial.model)
        self.weight_count = sum(weight.numel() for weight in initial.model.parameters())
        self.trainer: Any
        if name == VANILLA:
            self._phases = {"rollout": 0.0, "reference": 0.0}
            self.trainer = self._build_vanilla(initial, args)
        else:
            sample = Sample(id="x", image=str(setup.image), question=QUESTION, choices=CHOICES, answer="A")
            self.trainer = HartTrainer(
                initial.model,
                initial.processor,
                args,
                method=METHODS[config.method.stage_names[0]],
                config=config,
                stage=Stage(name, 0, 1, None),
                samples=[sample],
                peft_config=initial.new_adapters,
                callbacks=[self._clock],
            )
            self.trainer.policy = ScriptedModel(self.trainer.model, initial.processor, setup.sizes)
        self.trainer.remove_callback(PrinterCallback)
        self._counter = TokenCounter(self.trainer.model)

    def step(self) -> Step:
        """Run one optimizer step.

        Raises:
            ValueError: If the step is not comparable: other lengths, or rollouts without a box.
        """
        sizes = self._setup.sizes
        self._counter.take()
        self.trainer.train()
        figures = self.trainer.state.log_history[0]
        if self.name == VANILLA:
            phases, self._phases = self._phases, {"rollout": 0.0, "reference": 0.0}
            phases["rollout"] -= phases["reference"]  # which TRL computes in the same phase
            phases["update"] = self._clock.seconds - sum(phases.values())
            lengths = [figures["completions/min_length"], figures["completions/max_length"]]
            visual = {"overview": [sizes.overview_side**2]}
        else:
            phases = {name: figures.get(f"seconds_{name}", 0.0) for name in ("rollout", "reference", "update")}
            rollouts = self.trainer.last_groups[0].group.rollouts
            lengths = [turn.completion_tokens for rollout in rollouts for turn in rollout.turns]
            visual = {
                kind: [turn.visual_tokens for rollout in rollouts for turn in rollout.turns if turn.kind == kind]
                for kind in ("grounding", "answer")
            }
            if figures.get("valid_box_rate", 1.0) < 1.0 or figures["failed_share"]:
                raise ValueError(f"expected every rollout of {self.name} to run and to have a box, got {figures}")
        if set(lengths) != {sizes.turn_tokens}:
            raise ValueError(f"expected {sizes.turn_tokens} tokens a turn of {self.name}, got {sorted(lengths)}")
        return Step(self._clock.seconds, phases, self._counter.take(), visual)

    def _build_vanilla(self, initial: Any, args: Any) -> GRPOTrainer:
        """Unmodified TRL trainer; two of its methods are timed."""
        constants.HF_HUB_DISABLE_TELEMETRY = True  # disable telemetry
        sizes, rows = self._setup.sizes, self._setup.vanilla_rows
        args.per_device_train_batch_size = rows
        args.gradient_accumulation_steps = args.steps_per_generation = sizes.group_size // rows
        args.generation_kwargs = {"min_new_tokens": args.max_completion_length}  # random weights may stop at any time
        overview = SourceImage(self._setup.image).overview(max_pixels=sizes.overview_max_pixels)
        columns = {"prompt": [{"role": Value("string"), "content": Value("string")}], "image": ImageColumn()}
        prompt = [{"role": "user", "content": question_with_choices(QUESTION, CHOICES)}]
        trainer = GRPOTrainer(
            model=initial.model,
            reward_funcs=alternate_rewards,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [prompt], "image": [overview]}, features=Features(columns)),
            processing_class=initial.processor,
            peft_config=initial.new_adapters,
            callbacks=[self._clock],
        )
        roll_out, score = trainer._generate_and_score_completions, trainer._get_per_token_logps_and_entropies

        def timed_roll_out(*inputs: Any) -> Any:
            with self._timed("rollout"):
                return roll_out(*inputs)

        def timed_score(*inputs: Any, **options: Any) -> Any:
            if torch.is_grad_enabled():
                return score(*inputs, **options)
            with self._timed("reference"):
                return score(*inputs, **options)

        trainer._generate_and_score_completions = timed_roll_out
        trainer._get_per_token_logps_and_entropies = timed_score
        return trainer

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._phases[phase] += time.perf_counter() - began


def alternate_rewards(completions: Sequence[Any], **_: Any) -> list[float]:
    """Alternate right and wrong, like the rollouts of ``ScriptedModel``."""
    return [float(index % 2 == 0) for index in range(len(completions))]


def count_weights(model: torch.nn.Module) -> dict[str, float]:
    """Weights of matrix products per text token, and per patch in the vision tower."""
    core: Any = unwrap_model(model).model
    tower = core.visual
    text, blocks, embed, merger = (
        sum(weight.numel() for name, weight in part.named_parameters() if weight.ndim > 1 and "lora_" not in name)
        for part in (core.language_model.layers, tower.blocks, tower.patch_embed, tower.merger)
    )
    return {"text": text, "patch": blocks + embed + merger / tower.spatial_merge_unit}


def run_config(name: str, setup: Setup) -> RunConfig:
    """Settings of the preset for a 7B model, with one prompt per step."""
    sizes = setup.sizes
    method = "grpo" if name == VANILLA else name.split()[0]
    values = get_preset(PRESET).config.model_dump()
    changes: dict[str, dict[str, Any]] = {
        "model": {"id": str(setup.model), "device": "cpu"},
        "data": {"eval_samples": 0},
        "rollout": {
            "group_size": sizes.group_size,
            "max_grounding_tokens": sizes.turn_tokens,
            "max_answer_tokens": sizes.turn_tokens,
            "overview_max_pixels": sizes.overview_max_pixels,
            "crop_max_pixels": sizes.crop_tokens[1] * TOKEN_SIDE**2,
            "prefix_sharing": not name.endswith("plain"),
        },
        "method": {"stages": method},
        "optim": {"warmup_steps": 0},
        "schedule": {"rl_steps": 1, "rl_batch_size": 1, "eval_steps": 0},
    }
    return RunConfig.model_validate({**values, **{key: {**values[key], **part} for key, part in changes.items()}})
