"""AP-GRPO, MGPO and GRPO on top of TRL's trainer (paper, Eq. 2 and 4).

TRL keeps the sampler of groups, accelerate, PEFT, the reference model, the optimizer, logging and resuming. This module
adds the rollouts, which need two turns over different images, and the loss with a weight per row. Three TRL methods are
replaced for that: ``_prepare_inputs``, ``compute_loss`` and ``training_step`` (for its timing). A fourth, the
telemetry, is disabled. ``tests/contract/test_trl_api.py`` lists the private TRL API in use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import ProcessorMixin, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import use_adapter

from hart_studio.algorithms.methods import Method
from hart_studio.errors import DataError
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.training.checkpoints import Stage
from hart_studio.training.metrics import MetricAccumulator, add_group_metrics, peak_memory_mib
from hart_studio.training.micro_batches import (
    MicroBatch,
    build_rows,
    count_rollouts,
    count_tokens,
    filler_row,
    make_micro_batches,
    rows_loss,
    sum_row_kl,
)
from hart_studio.training.parallelism import gather_full_weights, order_samples, step_seed
from hart_studio.training.rollouts import TrainingGroup, check_reward_range, has_reward_differences, roll_out
from hart_studio.training.sequence_logps import SequenceLogps
from hart_studio.training.stage_trainer import StageTrainer, keeping_float32
from hart_studio.training.trainable_model import TrainableModel

logger = logging.getLogger(__name__)


class HartTrainer(StageTrainer, GRPOTrainer):
    """Trains one RL stage."""

    def __init__(
        self,
        model: Any,
        processor: ProcessorMixin,
        args: GRPOConfig,
        *,
        method: Method,
        config: RunConfig,
        stage: Stage,
        samples: Sequence[Sample],
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        open_image: ImageOpener = SourceImage,
    ) -> None:
        """Create the trainer; nothing is sampled.

        Args:
            model: A model of a supported family, or a PEFT model of one.
            processor: Its processor.
            args: From ``trl_args.rl_args``.
            method: A method that learns from rewards.
            config: Settings of the run.
            stage: The stage of the run.
            samples: D_RL, without gold boxes.
            peft_config: Adapters to add to the model; None = train all weights, or existing adapters.
            callbacks: Trainer callbacks.
            open_image: Opens an image by its path.

        Raises:
            DataError: If there is no sample.
            InputError: If the reward terms are too large for the preference weights.
        """
        check_reward_range(method, config.method, config.rollout.group_size)
        if not samples:
            raise DataError("There are no samples for the RL stage. Raise data.rl_samples.")
        prompts = config.schedule.rl_batch_size * -(-stage.steps // config.schedule.num_iterations)
        order = order_samples(len(samples), prompts, config.seed, stage.first_step)
        rows = Dataset.from_dict({"prompt": [""] * prompts, "sample": order})
        with keeping_float32(model):
            super().__init__(
                model=model,
                reward_funcs=[_no_reward_function],
                args=args,
                train_dataset=rows,
                processing_class=processor,
                peft_config=peft_config,
                callbacks=list(callbacks),
            )
        self._set_stage(stage, config, TrainableModel(_module(self.model), processor, name="policy"))
        self._method = method
        self._samples = samples
        self._open_image = open_image
        self._accumulator = MetricAccumulator()
        self._slices = args.gradient_accumulation_steps
        self._keeps_old_logps = config.schedule.num_iterations > 1
        self._micro_batches: list[MicroBatch] = []

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return the next micro-batch; the first one of a batch of rollouts samples all of them."""
        slices = self._slices
        if self._step % slices == 0:
            self.last_groups = ()
        if self._step % (slices * self._run_config.schedule.num_iterations) == 0:
            rows = generation_batch[:: self.num_generations]  # repeats of a prompt are adjacent on one process
            self._micro_batches = self._roll_out_step([self._samples[row["sample"]] for row in rows], slices)
        return self._micro_batches[self._step % slices]

    def _roll_out_step(self, samples: Sequence[Sample], micro_batches: int) -> list[MicroBatch]:
        """Sample, score and weight the rollouts of this process for one optimizer step."""
        was_possible = self.prefix_sharing_blocker is None
        self._check_prefix_sharing()
        if self.prefix_sharing_blocker is not None and was_possible:
            logger.warning("prefix sharing is disabled, which is slower: %s", self.prefix_sharing_blocker)
        began = time.perf_counter()
        with gather_full_weights(self):
            groups = self._roll_out(samples)
            add_group_metrics(self._accumulator, groups)
            groups = self._resample(groups)
        self._accumulator.add("seconds_rollout", time.perf_counter() - began)
        config = self._run_config
        self.last_groups = groups[: config.schedule.rollout_log_questions]
        counts = torch.tensor([count_rollouts(groups), count_tokens(groups)], device=self.accelerator.device)
        rollouts_in_step, tokens_in_step = self.accelerator.reduce(counts, reduction="sum").tolist()
        rows = build_rows(
            groups,
            rollouts_in_step,
            config.method.loss_aggregation,
            tokens_in_step=tokens_in_step,
            token_limit=config.rollout.max_grounding_tokens + config.rollout.max_answer_tokens,
        )
        batches = make_micro_batches(rows, micro_batches, filler_row(self._tokenizer.eos_token_id))
        if self.beta:
            began = time.perf_counter()
            for batch in batches:
                batch.ref_logps = self._reference_logps(batch)
            self._accumulator.add("seconds_reference", time.perf_counter() - began)
        return batches

    def _step_seed(self, resampling_round: int = 0) -> int:
        step = self.stage.first_step + self.state.global_step
        return step_seed(self._run_config.seed, step, self.accelerator.process_index, resampling_round)

    def _resample(self, groups: list[TrainingGroup]) -> list[TrainingGroup]:
        """Replace groups without reward differences by those of other questions, as far as these have differences.

        DAPO's dynamic sampling (arXiv 2503.14476), bounded by ``rollout.max_resampling_rounds``.
        """
        groups = list(groups)
        rounds = self._run_config.rollout.max_resampling_rounds
        replaced = 0
        for number in range(1, rounds + 1):
            flat = [place for place, group in enumerate(groups) if not has_reward_differences(group)]
            if not flat:
                break
            others = order_samples(len(self._samples), len(flat), self._step_seed(number), number)
            found = [
                group
                for group in self._roll_out([self._samples[index] for index in others], number)
                if has_reward_differences(group)
            ]
            for place, group in zip(flat, found, strict=False):
                groups[place] = group
            replaced += len(found)
        if rounds:
            self._accumulator.add("resampled_share", replaced, len(groups))
        return groups

    def _roll_out(self, samples: Sequence[Sample], resampling_round: int = 0) -> list[TrainingGroup]:
        seed = self._step_seed(resampling_round)
        with self.accelerator.autocast():
            return roll_out(self.policy, samples, self._method, self._run_config, seed, self._open_image)

    @torch.no_grad()
    def _reference_logps(self, batch: MicroBatch) -> list[torch.Tensor]:
        """Log-probabilities under the reference policy, the initial policy of the stage."""
        logps: list[torch.Tensor] = [torch.empty(0)] * len(batch.rows)
        with self._reference() as reference:
            for indices, chunk in self._split(batch):
                scores = self._score(reference, chunk)
                for index, part in zip(indices, scores.logps, strict=False):  # a filler has no index
                    logps[index] = part
        return logps

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference policy: TRL's copy, or the model with adapters disabled or as at the start of the stage."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            yield self.model

    def _chunk_loss(self, chunk: MicroBatch, scores: SequenceLogps) -> torch.Tensor:
        with torch.no_grad():
            for is_right, name in ((True, "kl_correct"), (False, "kl_wrong")):
                value, count = sum_row_kl(chunk, scores, is_right)
                self._accumulator.add(name, value, count)
                self._accumulator.add("kl", value, count)
        loss = rows_loss(chunk, scores, self._run_config.method)
        if not chunk.old_logps:
            self._add_sampling_gaps(chunk, scores)
        else:
            self._accumulator.add("clip_ratio", float(loss.clipped), sum(map(len, scores.logps)))
        return loss.loss

    def _add_sampling_gaps(self, chunk: MicroBatch, scores: SequenceLogps) -> None:
        """Compare log-probabilities of the sampler and of the scorer: equal but for rounding, unless one is wrong."""
        for row, logps in zip(chunk.rows, scores.logps, strict=True):
            if row.sequence.sampled_logps:
                gaps = (logps.detach().cpu() - torch.tensor(row.sequence.sampled_logps)).abs()
                self._accumulator.add("sampling_logp_gap", float(gaps.sum()), len(gaps))
                self._accumulator.add_maximum("sampling_logp_gap_max", float(gaps.max()))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one micro-batch; after the last one of a step, log metrics."""
        began = time.perf_counter()
        before = self._rollout_seconds()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        rolled = self._rollout_seconds() - before
        self._accumulator.add("seconds_update", time.perf_counter() - began - rolled, count=0.0)
        if self._step % self.current_gradient_accumulation_steps == 0:
            self._accumulator.add("seconds_update", 0.0)
            self._accumulator.add("memory_mib", peak_memory_mib(self.accelerator.device))
            for name, value in self._accumulator.values(self.accelerator).items():
                self._metrics["train"][name] = [value]
            self._accumulator = MetricAccumulator()
        return loss

    def _rollout_seconds(self) -> float:
        return sum(self._accumulator.total(name) for name in ("seconds_rollout", "seconds_reference"))

    def _send_telemetry(self) -> None:
        """Disable telemetry."""


def _module(model: Any) -> torch.nn.Module:
    """Return the model of the trainer; the annotation of the library allows None."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a model, got {type(model).__name__}")
    return model


def _no_reward_function(**_: Any) -> list[float | None]:
    """Placeholder for the reward function that TRL requires; rewards come from the pipeline."""
    raise AssertionError("expected rewards from the pipeline, got a call of TRL's own; edit training/hart_trainer.py")
