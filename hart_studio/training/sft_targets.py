"""What SFT teaches: the answer from the full image (Eq. 8), or a label's boxes and the answer from their crops."""

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
    r"""What the model is taught to write; the strict extractor reads it back as the right answer (project default).

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


def check_sft_samples(samples: Sequence[Sample], config: RunConfig) -> None:
    """See that there is something to teach, before a model is loaded for it.

    Raises:
        DataError: If there is no sample, or none has the boxes that are to be taught.
    """
    if not samples:
        raise DataError("expected samples for the SFT stage, got none; raise data.sft_samples")
    if config.method.sft_target == "grounded" and not any(sample.label_boxes for sample in samples):
        raise DataError(
            "expected samples with label_boxes for method.sft_target=grounded, got none; train on the labels of a "
            "project, or set it to answer"
        )


class SftTargetBuilder:
    """Makes training sequences of samples, with the requests of the one pipeline."""

    def __init__(self, policy: TrainableModel, config: RunConfig, open_image: ImageOpener) -> None:
        """Prepare.

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
        """The sequences of a sample: one, or one per turn.

        Raises:
            ImageError: If its image cannot be read.
            InputError: If a text of it cannot be encoded.
            ValueError: If its answer is not known, or it has no boxes and is to teach some.
        """
        config = self._config
        is_grounded = config.method.sft_target == "grounded"
        if is_grounded and not sample.label_boxes:
            raise ValueError(f"expected label_boxes of {sample.id}, got none; leave it out of the SFT part")
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
        """The grounding turn with the label's boxes in the family's frame and words."""
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
