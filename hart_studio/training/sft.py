"""The SFT stage: cross-entropy of target texts (paper, Eq. 8).

The target is the answer with the full image visible, or label boxes and the answer from their crops.
"""

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
from hart_studio.geometry import from_original
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.chat import ChatRequest
from hart_studio.parsing import format_boxes
from hart_studio.pipeline.closed_loop import FailedSample, PreparedSample, prepare_samples
from hart_studio.pipeline.given_boxes import crop_given_boxes
from hart_studio.pipeline.turns import crops_only_request, direct_request, grounding_request
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.training.checkpoints import Stage
from hart_studio.training.metrics import MetricAccumulator, peak_memory_mib
from hart_studio.training.micro_batches import MicroBatch, WeightedSequence, filler_row, stack_rows
from hart_studio.training.parallelism import gather_full_weights, order_samples
from hart_studio.training.rollouts import loop_settings
from hart_studio.training.sequence_logps import SequenceLogps
from hart_studio.training.sequences import TrainingSequence, turn_sequence
from hart_studio.training.stage_trainer import StageTrainer
from hart_studio.training.trainable_model import TrainableModel

SFT_METRICS = ("failed_share", "answer_tokens", "entropy", "seconds_update", "memory_mib")
"""All metrics of an SFT step."""

SftAnswerFormat = Literal["boxed_letter", "option_text"]


class SftTrainer(StageTrainer):
    """Trains the SFT stage with the packing and scoring of the RL stages."""

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
        self._set_stage(stage, config, TrainableModel(model, processor, name="policy"))
        self._samples = samples
        self._target_builder = SftTargetBuilder(self.policy, config, open_image)
        self._accumulator = MetricAccumulator(SFT_METRICS)
        self._end_id = int(processor.tokenizer.eos_token_id)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Read and weight all micro-batches of a step together: a failed sample changes all weights."""
        self._check_prefix_sharing()
        rows = list(itertools.islice(epoch_iterator, num_batches))
        with gather_full_weights(self):
            parts = [self._read([self._samples[row["sample"]] for row in part]) for part in rows]
        local_count = torch.tensor(sum(map(len, parts)), device=self.accelerator.device)
        in_step = int(self.accelerator.reduce(local_count, reduction="sum"))
        batches = []
        for sequences in parts:
            weights = row_weights(
                [sequence.trained_count for sequence in sequences], range(len(sequences)), in_step, "turn"
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

    def _chunk_loss(self, chunk: MicroBatch, scores: SequenceLogps) -> torch.Tensor:
        logps, mask = stack_rows(scores.logps)
        weights = torch.tensor([row.weight for row in chunk.rows], dtype=logps.dtype, device=logps.device)
        return sft_loss(logps, mask, row_weight=weights)

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
        logs.update(self._accumulator.values(self.accelerator))
        self._accumulator = MetricAccumulator(SFT_METRICS)
        super().log(logs, start_time)


def target_text(sample: Sample, form: SftAnswerFormat = "boxed_letter") -> str:
    r"""Target text of SFT; the strict extractor reads it as the right answer. Project default.

    Args:
        sample: A question with its answer.
        form: With choices, ``boxed_letter`` is ``green \boxed{B}``: the text first makes the model describe
            what it sees before the letter; ``option_text`` is ``green``. Without choices both are ``\boxed{green}``.

    Raises:
        ValueError: If the answer is unknown.
    """
    if sample.answer is None:
        raise ValueError(f"The sample {sample.id} has no answer. Exclude it from the SFT part.")
    if not sample.choices:
        return f"\\boxed{{{sample.answer}}}"
    words = sample.choices[sample.letters.index(sample.answer)]
    return words if form == "option_text" else f"{words} \\boxed{{{sample.answer}}}"


def check_sft_samples(samples: Sequence[Sample], config: RunConfig) -> None:
    """Check that there are SFT targets, before a model is loaded.

    Raises:
        DataError: If there are no samples, or none has the required boxes.
    """
    if not samples:
        raise DataError("There are no samples for the SFT stage. Raise data.sft_samples.")
    if config.method.sft_target == "grounded" and not any(sample.label_boxes for sample in samples):
        raise DataError(
            "method.sft_target=grounded needs samples with label_boxes, got none. Train on the labels of a "
            "project, or set it to answer."
        )


class SftTargetBuilder:
    """Build training sequences of samples, with the requests of the pipeline."""

    def __init__(self, policy: TrainableModel, config: RunConfig, open_image: ImageOpener) -> None:
        """Create the builder.

        Args:
            policy: The model that is trained.
            config: Settings of the run.
            open_image: Opens an image by its path.
        """
        self._policy = policy
        self._config = config
        self._open_image = open_image
        self._end_id = int(policy.processor.tokenizer.eos_token_id)

    def read(self, sample: Sample) -> tuple[TrainingSequence, ...]:
        """Build the sequences of a sample: one, or one per turn.

        Raises:
            ImageError: If its image cannot be read.
            InputError: If a text of it cannot be encoded.
            ValueError: If its answer is unknown, or required boxes are missing.
        """
        config = self._config
        is_grounded = config.method.sft_target == "grounded"
        if is_grounded and not sample.label_boxes:
            raise ValueError(f"The sample {sample.id} has no label_boxes. Exclude it from the SFT part.")
        settings = loop_settings(config, config.rollout.max_answer_tokens, None)
        (view,) = prepare_samples(self._policy, [sample], settings, self._open_image, will_crop=is_grounded)
        if isinstance(view, FailedSample):
            raise ImageError(view.reason)
        answer = target_text(sample, config.answer_format)
        if not is_grounded:
            return (self._answer_sequence(direct_request(sample, view.overview), answer),)
        crops = crop_given_boxes(self._policy, view.image, view.image.wh, sample.label_boxes, settings)
        view.image.close()
        return (self._grounding_sequence(view), self._answer_sequence(crops_only_request(sample, crops), answer))

    def _grounding_sequence(self, view: PreparedSample) -> TrainingSequence:
        """Grounding turn with label boxes in the frame and format of the family."""
        prompt = self._policy.read(grounding_request(view.overview, view.sample.question))
        family, model_wh = self._policy.family, prompt.images[0].size_wh
        boxes = [
            (from_original(box.xyxy, family.box_frame, view.image.wh, model_wh), box.label)
            for box in view.sample.label_boxes
        ]
        return turn_sequence(prompt, self._encode(format_boxes(boxes, family.box_style)))

    def _answer_sequence(self, request: ChatRequest, text: str) -> TrainingSequence:
        return turn_sequence(self._policy.read(request), self._encode(text))

    def _encode(self, text: str) -> list[int]:
        return [*self._policy.processor.tokenizer.encode(text, add_special_tokens=False), self._end_id]
