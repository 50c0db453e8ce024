"""SFT targets: the answer from the full image (Eq. 8), or label boxes and the answer from their crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hart_studio.errors import DataError, ImageError
from hart_studio.geometry import from_original
from hart_studio.imaging import ImageOpener
from hart_studio.models.chat import ChatRequest
from hart_studio.parsing import format_boxes
from hart_studio.pipeline.answering import crops_only_request, direct_request
from hart_studio.pipeline.closed_loop import FailedSample, PreparedSample, prepare_samples
from hart_studio.pipeline.given_boxes import crop_given_boxes
from hart_studio.pipeline.grounding import grounding_request
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.training.rollouts import loop_settings
from hart_studio.training.sequences import TrainingSequence, turn_sequence
from hart_studio.training.trainable_model import TrainableModel

AnswerFormat = Literal["letter", "words"]


def target_text(sample: Sample, form: AnswerFormat = "letter") -> str:
    r"""Target text of SFT; the strict extractor reads it as the right answer. Project default.

    Args:
        sample: A question with its answer.
        form: With choices, ``letter`` is ``green \boxed{B}``: the text of the option first makes the model describe
            what it sees before the letter; ``words`` is ``green``. Without choices both are ``\boxed{green}``.

    Raises:
        ValueError: If the answer is unknown.
    """
    if sample.answer is None:
        raise ValueError(f"The sample {sample.id} has no answer. Exclude it from the SFT part.")
    if not sample.choices:
        return f"\\boxed{{{sample.answer}}}"
    words = sample.choices[sample.letters.index(sample.answer)]
    return words if form == "words" else f"{words} \\boxed{{{sample.answer}}}"


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
