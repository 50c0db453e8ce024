r"""The SFT stage: cross-entropy of the given answer with the full image visible (paper, Eq. 8)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from datasets import Dataset
from torch.utils.data import Sampler, SequentialSampler
from transformers import ProcessorMixin, TrainerCallback, TrainingArguments

from hart_studio.algorithms.losses import sft_loss
from hart_studio.algorithms.weighting import row_weights
from hart_studio.errors import DataError, ImageError, InputError
from hart_studio.imaging import OpenImage, SourceImage
from hart_studio.models.loading import unwrap_model
from hart_studio.pipeline.answering import direct_request
from hart_studio.pipeline.closed_loop import View, open_views
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.training.checkpoints import RunCheckpoints, Stage
from hart_studio.training.figures import Tally, peak_memory_mib
from hart_studio.training.hart_trainer import CHUNK_TOKENS, WHOLE_PASS
from hart_studio.training.items import Item, turn_item
from hart_studio.training.order import order_samples
from hart_studio.training.packing import split_items
from hart_studio.training.policy import PolicyModel
from hart_studio.training.rollouts import RolledGroup, loop_settings
from hart_studio.training.scoring import find_obstacle, score
from hart_studio.training.sharding import is_sharded, whole_weights
from hart_studio.training.steps import MicroBatch, Row, filler_row, stack_rows

AnswerForm = Literal["letter", "words"]

SFT_FIGURES = ("failed_share", "answer_tokens", "entropy", "seconds_update", "memory_mib")
"""Every figure that an SFT step can have."""


def target_text(sample: Sample, form: AnswerForm = "letter") -> str:
    r"""What the model is taught to write; the strict extractor reads it back as the right answer (ours).

    Args:
        sample: A question with its answer.
        form: With choices, ``letter`` is ``green \boxed{B}``: the option's words in front make the model say what it
            saw before it names a letter; ``words`` is ``green``. Without choices both are ``\boxed{green}``.

    Raises:
        ValueError: If the answer is not known.
    """
    if sample.answer is None:
        raise ValueError(f"expected a known answer of {sample.id}, got none; leave it out of the SFT part")
    if not sample.choices:
        return f"\\boxed{{{sample.answer}}}"
    words = sample.choices[sample.letters.index(sample.answer)]
    return words if form == "words" else f"{words} \\boxed{{{sample.answer}}}"


class SftTrainer(RunCheckpoints):
    """Trains the SFT stage with the packing and scoring of the RL stages.

    Attributes:
        stage: Its place in the run.
        policy: The model as the pipeline sees it.
        last_groups: Always empty: there are no rollouts to record.
        obstacle: Why items do not share rows; None when they do.
    """

    loss_is_scaled_for_ga = True  # the weights of the rows already cover the whole step

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
        open_image: OpenImage = SourceImage,
    ) -> None:
        """Prepare.

        Args:
            model: A model of a supported family, or a PEFT model of one.
            processor: Its processor.
            args: From ``trl_args.sft_args``.
            config: Settings of the run.
            stage: Place of the stage in the run.
            samples: D_SFT, blind.
            callbacks: Told about every step.
            open_image: Opens a picture by its path.

        Raises:
            DataError: If there is no sample.
        """
        if not samples:
            raise DataError("expected samples for the SFT stage, got none; raise data.sft_count")
        wanted = config.schedule.sft_batch * stage.steps
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
        self.policy = PolicyModel(model, processor, name="policy")
        self.last_groups: list[RolledGroup] = []
        self.obstacle: str | None = None
        self._run_config = config
        self._samples = samples
        self._open_image = open_image
        self._tally = Tally(SFT_FIGURES)
        self._end_id = int(processor.tokenizer.eos_token_id)
        self._chunk_tokens = CHUNK_TOKENS.get(self.accelerator.device.type, CHUNK_TOKENS["cuda"])
        if is_sharded(self):
            self._chunk_tokens = WHOLE_PASS

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """All micro-batches of a step, read and weighed together: a sample that fails changes everyone's weight."""
        rows = list(itertools.islice(epoch_iterator, num_batches))
        with whole_weights(self):
            parts = [self._read([self._samples[row["sample"]] for row in part]) for part in rows]
        mine = torch.tensor(sum(map(len, parts)), device=self.accelerator.device)
        in_step = int(self.accelerator.reduce(mine, reduction="sum"))
        batches = []
        for items in parts:
            weights = row_weights([item.trained_count for item in items], range(len(items)), in_step, "row")
            taught = [Row(item, weight) for item, weight in zip(items, weights, strict=True)]
            batches.append(MicroBatch(taught or [filler_row(self._end_id)]))
        return batches, None

    def _read(self, samples: Sequence[Sample]) -> list[Item]:
        """The items of some samples, without those whose picture or text cannot be used."""
        items = []
        settings = loop_settings(self._run_config, self._run_config.rollout.max_answer_tokens, None)
        for sample in samples:
            (view,) = open_views(self.policy, [sample], settings, self._open_image, will_crop=False)
            try:
                item = self._teach(view) if isinstance(view, View) else None
            except (ImageError, InputError, ValueError):
                item = None
            self._tally.add("failed_share", float(item is None))
            if item is not None:
                self._tally.add("answer_tokens", item.trained_count)
                items.append(item)
        return items

    def _teach(self, view: View) -> Item:
        prompt = self.policy.read(direct_request(view.sample, view.overview))
        ids = self.policy.processor.tokenizer.encode(
            target_text(view.sample, self._run_config.answer_form), add_special_tokens=False
        )
        return turn_item(prompt, [*ids, self._end_id])

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: rows are packed, so their number of tokens says little."""
        return 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Eq. 8 over a micro-batch; in chunks and scaled by the number of processes as in ``HartTrainer``."""
        inner = unwrap_model(model)
        self.obstacle = find_obstacle(inner) if self._run_config.rollout.prefix_sharing else None
        shares = self._run_config.rollout.prefix_sharing and self.obstacle is None
        indices = split_items([row.item for row in inputs.rows], self._chunk_tokens, share=shares)
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
            scores = score(model, [row.item for row in chunk.rows], share=shares, with_entropies=True)
        for part in scores.entropies or ():
            self._tally.add("entropy", float(part.sum()), len(part))
        logps, mask = stack_rows(scores.logps)
        weights = torch.tensor([row.weight for row in chunk.rows], dtype=logps.dtype, device=logps.device)
        return sft_loss(logps, mask, row_weight=weights) * int(self.accelerator.num_processes)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch, timed."""
        began = time.perf_counter()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._tally.add("seconds_update", time.perf_counter() - began, count=0.0)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the step."""
        self._tally.add("seconds_update", 0.0)
        self._tally.add("memory_mib", peak_memory_mib(self.accelerator.device))
        logs.update(self._tally.means(self.accelerator))
        self._tally = Tally(SFT_FIGURES)
        super().log(logs, start_time)
