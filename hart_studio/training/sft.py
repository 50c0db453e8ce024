r"""The SFT stage: cross-entropy of the answer with the full image visible (paper, Eq. 8)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler, SequentialSampler
from transformers import ProcessorMixin, TrainerCallback, TrainingArguments

from hart_studio.algorithms.losses import sft_loss
from hart_studio.algorithms.weighting import row_weights
from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.loading import unwrap_model
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.training.checkpoints import RunCheckpoints, Stage
from hart_studio.training.hart_trainer import CHUNK_TOKENS, UNLIMITED_TOKENS
from hart_studio.training.metrics import MetricAccumulator, peak_memory_mib
from hart_studio.training.micro_batches import MicroBatch, WeightedSequence, filler_row, stack_rows
from hart_studio.training.packing import split_by_tokens
from hart_studio.training.rollouts import TrainingGroup
from hart_studio.training.sample_order import order_samples
from hart_studio.training.sequence_logps import compute_logps, prefix_sharing_blocker
from hart_studio.training.sequences import TrainingSequence
from hart_studio.training.sft_targets import SftTargetBuilder, check_sft_samples
from hart_studio.training.sharding import gather_full_weights, is_sharded
from hart_studio.training.trainable_model import TrainableModel

SFT_METRICS = ("failed_share", "answer_tokens", "entropy", "seconds_update", "memory_mib")
"""All metrics of an SFT step."""


class SftTrainer(RunCheckpoints):
    """Trains the SFT stage with the packing and scoring of the RL stages.

    Attributes:
        stage: The stage of the run.
        policy: The model, for the pipeline.
        last_groups: Always empty: there are no rollouts to record.
        prefix_sharing_blocker: Reason why sequences do not share rows; None if they do.
    """

    loss_is_scaled_for_ga = True  # row weights already cover the whole step

    def __init__(
        self,
        model: Any,
        processor: ProcessorMixin,
        args: TrainingArguments,
        *,
        config: RunConfig,
        stage: Stage,
        samples: Sequence[Sample],
        callbacks: Sequence[TrainerCallback] = (),
        open_image: ImageOpener = SourceImage,
    ) -> None:
        """Create the trainer.

        Args:
            model: A model of a supported family, or a PEFT model of one.
            processor: Its processor.
            args: From ``trl_args.sft_args``.
            config: Settings of the run.
            stage: The stage of the run.
            samples: D_SFT, without gold boxes.
            callbacks: Trainer callbacks.
            open_image: Opens an image by its path.

        Raises:
            DataError: If there is no sample, or none with a target.
        """
        check_sft_samples(samples, config)
        wanted = config.schedule.sft_batch_size * stage.steps
        rows = Dataset.from_dict({"sample": order_samples(len(samples), wanted, config.seed, stage.first_step)})
        super().__init__(
            model=model,
            args=args,
            data_collator=list,  # type: ignore[arg-type]  # micro-batches are made in get_batch_samples
            train_dataset=rows,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        self.stage = stage
        self.policy = TrainableModel(model, processor, name="policy")
        self.last_groups: list[TrainingGroup] = []
        self.prefix_sharing_blocker: str | None = None
        self._run_config = config
        self._samples = samples
        self._target_builder = SftTargetBuilder(self.policy, config, open_image)
        self._accumulator = MetricAccumulator(SFT_METRICS)
        self._end_id = int(processor.tokenizer.eos_token_id)
        self._chunk_tokens = CHUNK_TOKENS.get(self.accelerator.device.type, CHUNK_TOKENS["cuda"])
        if is_sharded(self):
            self._chunk_tokens = UNLIMITED_TOKENS

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Read and weight all micro-batches of a step together: a failed sample changes all weights."""
        rows = list(itertools.islice(epoch_iterator, num_batches))
        with gather_full_weights(self):
            parts = [self._read([self._samples[row["sample"]] for row in part]) for part in rows]
        local_count = torch.tensor(sum(map(len, parts)), device=self.accelerator.device)
        in_step = int(self.accelerator.reduce(local_count, reduction="sum"))
        batches = []
        for sequences in parts:
            weights = row_weights(
                [sequence.trained_count for sequence in sequences], range(len(sequences)), in_step, "row"
            )
            targets = [WeightedSequence(sequence, weight) for sequence, weight in zip(sequences, weights, strict=True)]
            batches.append(MicroBatch(targets or [filler_row(self._end_id)]))
        return batches, None

    def _read(self, samples: Sequence[Sample]) -> list[TrainingSequence]:
        """Build the sequences of samples, skipping those with an invalid image or text."""
        sequences: list[TrainingSequence] = []
        for sample in samples:
            try:
                targets = self._target_builder.read(sample)
            except (ImageError, InputError, ValueError):
                targets = ()
            self._accumulator.add("failed_share", float(not targets))
            for sequence in targets:
                self._accumulator.add("answer_tokens", sequence.trained_count)
            sequences += targets
        return sequences

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated, because rows are packed."""
        return 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Eq. 8 over a micro-batch; in chunks and scaled by the number of processes as in ``HartTrainer``."""
        inner = unwrap_model(model)
        self.prefix_sharing_blocker = prefix_sharing_blocker(inner) if self._run_config.rollout.prefix_sharing else None
        shares = self._run_config.rollout.prefix_sharing and self.prefix_sharing_blocker is None
        indices = split_by_tokens([row.sequence for row in inputs.rows], self._chunk_tokens, share=shares)
        *earlier, last = [inputs.take(part) for part in indices]
        done = torch.zeros((), device=self.accelerator.device)
        for chunk in earlier:
            with self.accelerator.no_sync(model):
                loss = self._chunk_loss(model, chunk, shares)
                self.accelerator.backward(loss)
            done += loss.detach()
        total: torch.Tensor = self._chunk_loss(model, last, shares) + done
        return total

    def _chunk_loss(self, model: Any, chunk: MicroBatch, shares: bool) -> torch.Tensor:
        with self.accelerator.autocast():
            scores = compute_logps(model, [row.sequence for row in chunk.rows], share=shares, with_entropies=True)
        for part in scores.entropies or ():
            self._accumulator.add("entropy", float(part.sum()), len(part))
        logps, mask = stack_rows(scores.logps)
        weights = torch.tensor([row.weight for row in chunk.rows], dtype=logps.dtype, device=logps.device)
        return sft_loss(logps, mask, row_weight=weights) * int(self.accelerator.num_processes)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one micro-batch and measure its time."""
        began = time.perf_counter()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._accumulator.add("seconds_update", time.perf_counter() - began, count=0.0)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics of the step."""
        self._accumulator.add("seconds_update", 0.0)
        self._accumulator.add("memory_mib", peak_memory_mib(self.accelerator.device))
        logs.update(self._accumulator.means(self.accelerator))
        self._accumulator = MetricAccumulator(SFT_METRICS)
        super().log(logs, start_time)
