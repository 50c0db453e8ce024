"""Base of the trainers: micro-batches are scored and back-propagated in chunks, whose losses are parts of one sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from hart_studio.runs.config import RunConfig
from hart_studio.training.checkpoints import RunCheckpoints, Stage
from hart_studio.training.metrics import MetricAccumulator
from hart_studio.training.micro_batches import MicroBatch, filler_row
from hart_studio.training.packing import split_by_tokens
from hart_studio.training.parallelism import accumulating_gradients, is_sharded, set_fsdp_precision
from hart_studio.training.rollouts import TrainingGroup
from hart_studio.training.sequence_logps import SequenceLogps, compute_logps, prefix_sharing_blocker
from hart_studio.training.trainable_model import TrainableModel

CHUNK_TOKENS: Final = {"cpu": 2048, "cuda": 16_384}
"""Maximum number of tokens of one scoring pass per device type; larger groups run in several passes. Project
default."""


@contextmanager
def keeping_float32(model: torch.nn.Module) -> Iterator[None]:
    """Keep the trained weights of a quantized model in float32 while TRL builds a trainer.

    TRL rounds adapters of quantized models to bfloat16, which loses most updates at the learning rates of RL: near
    0.02 its values are 1e-4 apart.

    Args:
        model: The model given to the trainer, which may already have adapters.
    """
    kept = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
    yield
    if not getattr(model, "is_quantized", False):
        return
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = kept[name] if name in kept else weight.data.float()


class StageTrainer(RunCheckpoints):
    """Trainer mixin for one stage of a run; list it before the trainer base class.

    Attributes:
        policy: The model, for the pipeline.
        last_groups: The first groups of the latest step on this process, for recording; empty without rollouts.
        prefix_sharing_blocker: Reason why prefix sharing is impossible although requested; None otherwise, and before
            the first step.
    """

    policy: TrainableModel
    last_groups: Sequence[TrainingGroup] = ()
    prefix_sharing_blocker: str | None = None
    _accumulator: MetricAccumulator
    temperature: float = 1.0
    _keeps_old_logps = False
    """Whether a micro-batch serves several optimizer steps."""

    def _set_stage(self, stage: Stage, config: RunConfig, policy: TrainableModel) -> None:
        """Call it once the base class has been initialized."""
        self.stage = stage
        self.policy = policy
        self._run_config = config
        self._shares = config.rollout.prefix_sharing
        self._chunk_tokens = CHUNK_TOKENS.get(self.accelerator.device.type, CHUNK_TOKENS["cuda"])
        self._filler = filler_row(policy.processor.tokenizer.eos_token_id)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, with the precision of sharding."""
        super().create_accelerator_and_postprocess()
        set_fsdp_precision(self.accelerator)

    def _check_prefix_sharing(self) -> None:
        """Check before a step whether prefix sharing is possible."""
        wanted = self._run_config.rollout.prefix_sharing
        self.prefix_sharing_blocker = prefix_sharing_blocker(self.policy.model) if wanted else None
        self._shares = wanted and self.prefix_sharing_blocker is None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Contribution of a micro-batch to the loss of the step.

        All chunks except the last are back-propagated before this returns, so only activations of one chunk are in
        memory at a time; the value is the whole sum. It is multiplied by the number of processes, because gradients of
        processes are averaged and row weights define a sum.
        """
        *earlier, last = self._split(inputs)
        done = torch.zeros((), device=self.accelerator.device)
        for part in earlier:
            with accumulating_gradients(self, model):
                loss = self._scaled_loss(model, inputs, *part)
                self.accelerator.backward(loss)
            done += loss.detach()
        total: torch.Tensor = self._scaled_loss(model, inputs, *last) + done
        return total

    def _scaled_loss(self, model: Any, batch: MicroBatch, indices: list[int], chunk: MicroBatch) -> torch.Tensor:
        scores = self._score(model, chunk, with_entropies=True)
        for part in scores.entropies or ():
            self._accumulator.add("entropy", float(part.detach().sum()), len(part))
        loss = self._chunk_loss(chunk, scores) * int(self.accelerator.num_processes)
        if self._keeps_old_logps:
            batch.keep_old_logps(indices, scores.logps)
        return loss

    def _chunk_loss(self, chunk: MicroBatch, scores: SequenceLogps) -> torch.Tensor:
        """Loss of some rows; losses of chunks add up."""
        raise NotImplementedError

    def _score(self, model: Any, batch: MicroBatch, with_entropies: bool = False) -> SequenceLogps:
        with self.accelerator.autocast():
            return compute_logps(
                model,
                [row.sequence for row in batch.rows],
                temperature=self.temperature,
                share=self._shares,
                with_entropies=with_entropies,
            )

    def _split(self, batch: MicroBatch) -> list[tuple[list[int], MicroBatch]]:
        """Indices of the rows of each scoring pass, and the rows.

        Sharded processes run equally many passes; those of a process with fewer rows are filled up without an effect.
        """
        parts = split_by_tokens([row.sequence for row in batch.rows], self._chunk_tokens, share=self._shares)
        passes = [(indices, batch.take(indices)) for indices in parts]
        if is_sharded(self):
            count = torch.tensor([len(passes)], device=self.accelerator.device)
            missing = int(self.accelerator.gather(count).max()) - len(passes)
            refs = None if batch.ref_logps is None else [torch.empty(0, device=self.accelerator.device)]
            passes += [([], MicroBatch([self._filler], refs))] * missing
        return passes
