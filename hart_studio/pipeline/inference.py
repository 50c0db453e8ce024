"""Ask a question about an image under several protocols, verify the result, and return a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

import hart_studio
from hart_studio.errors import ImageError, InputError
from hart_studio.files import from_stored_path, open_regular_file
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.catalog import get_domain_warnings
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.closed_loop import FailedSample, GroundedSample
from hart_studio.pipeline.cropping import crop_budget
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.trace import Trace, TraceImage, TraceModel
from hart_studio.pipeline.turns import overview_budget
from hart_studio.pipeline.verification import Verification, answer_masked, check_rollout_count, verify_rollouts
from hart_studio.records import PROTOCOLS, Protocol, Rollout, RolloutGroup, Sample

ProgressCallback = Callable[[float, str], None]
"""Called with the completed share in [0, 1] and the current stage."""


def build_sample(image_path: str, question: str, choices: Sequence[str] = (), answer: str | None = None) -> Sample:
    """Build a sample from user input.

    Args:
        image_path: Path of the image.
        question: The question.
        choices: Option texts; empty for an open question. Surrounding whitespace is removed.
        answer: With choices, the letter of the right option (``B`` or ``(B)``) or its text, in any case; otherwise the
            expected text. None or blank = unknown.

    Returns:
        The sample; its id is the file name.

    Raises:
        InputError: If the question is empty, the choices are invalid, or the answer is not one of them.
    """
    options = tuple(choice.strip() for choice in choices)
    known = answer.strip() if answer and answer.strip() else None
    for text in (question, *options, known or ""):
        if text != _replace_invalid_unicode(text):
            raise InputError(f"expected Unicode text, got {text!r}; type it again")
    try:
        sample = Sample(
            id=_replace_invalid_unicode(Path(image_path).name),
            image=image_path,
            question=question.strip(),
            choices=options,
        )
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    if known is None:
        return sample
    return sample.model_copy(update={"answer": _resolve_letter(sample, known) if options else known})


def ask_question(
    model: ChatModel,
    image_path: str,
    question: str,
    choices: Sequence[str],
    answer: str | None,
    protocols: Collection[Protocol],
    settings: LoopSettings,
    rollouts: int = 1,
    progress: ProgressCallback | None = None,
    open_image: ImageOpener = SourceImage,
) -> Trace:
    """Run the loop for one question.

    The grounding turn runs once: ``crops_only``, ``full_and_crops`` and the self-check continue from the same boxes.
    With ``crops_only`` the self-check is made from its rollouts, and with ``direct`` too it includes the masked image.

    Args:
        model: The model.
        image_path: The image.
        question: The question.
        choices: Option texts without letters, or empty.
        answer: The known answer as ``build_sample`` takes it, or None.
        protocols: At least one.
        settings: Budgets, cropping, decoding, fallback.
        rollouts: K crops-only rollouts for consensus and agreement; the trace shows the first one as the answer.
        progress: Called at each stage.
        open_image: Opens the image by its path; lets a caller share an open image.

    Returns:
        The trace.

    Raises:
        InputError: If the question, choices, answer, protocols or number of rollouts are invalid.
        ImageError: If the image cannot be read.
    """
    sample = build_sample(image_path, question, choices, answer)
    if not protocols:
        raise InputError(f"expected at least one protocol of {', '.join(PROTOCOLS)}, got none")
    check_rollout_count(rollouts, settings)
    report = progress or _no_progress

    report(0.0, "Opening the image")
    will_crop = "crops_only" in protocols or "full_and_crops" in protocols
    views = closed_loop.prepare_samples(model, [sample], settings, open_image, will_crop)
    view = views[0]
    if isinstance(view, FailedSample):
        raise ImageError(view.reason)

    groups: dict[Protocol, RolloutGroup] = {}
    attempts: list[GroundedSample | FailedSample] = []
    if will_crop:
        report(0.1, "Predicting the region")
        (attempts,) = closed_loop.ground_and_crop(model, views, settings, rollouts)
        if isinstance(attempts[0], FailedSample):
            raise ImageError(attempts[0].reason)
    if "crops_only" in protocols:
        report(0.4, "Answering from the crops only")
        (groups["crops_only"],) = closed_loop.run_answering(model, [attempts], "crops_only", settings)
    if "direct" in protocols:
        report(0.55, "Answering from the full image")
        (groups["direct"],) = closed_loop.run_direct(model, views, settings)
    if "full_and_crops" in protocols:
        report(0.7, "Answering from the full image and the crops")
        (groups["full_and_crops"],) = closed_loop.run_answering(model, [attempts[:1]], "full_and_crops", settings)
    answers = {protocol: group.rollouts[0] for protocol, group in groups.items()}

    verification: Verification | None = None
    if "crops_only" in groups:
        masked: Rollout | None = None
        if "direct" in answers:
            report(0.85, "Answering with the region masked")
            (masked,) = answer_masked(model, [attempts], settings)
        verification = verify_rollouts(groups["crops_only"].rollouts, answers.get("direct"), masked, view.image.wh)
    report(1.0, "Done")
    return Trace(
        app_version=hart_studio.__version__,
        created_at=datetime.now(UTC),
        image=_describe_image(Path(image_path), view.image),
        question=sample.question,
        choices=sample.choices,
        answer=sample.answer,
        model=TraceModel(name=_replace_invalid_unicode(model.name), family=model.family.key),
        settings=settings.model_copy(
            update={
                "overview_max_pixels": overview_budget(model, settings).max_pixels,
                "crop_max_pixels": crop_budget(model, settings).max_pixels,
            }
        ),
        protocols=answers,
        verification=verification,
        warnings=get_domain_warnings(model.name, image_path),
    )


def _resolve_letter(sample: Sample, answer: str) -> str:
    """Resolve an answer to the letter of an option.

    Raises:
        InputError: If it matches no option, or the letter of one and the text of another.
    """
    normalized = answer.casefold()
    by_text = [
        letter for letter, text in zip(sample.letters, sample.choices, strict=True) if text.casefold() == normalized
    ]
    by_letter = [letter for letter in sample.letters if normalized in (letter.casefold(), f"({letter.casefold()})")]
    found = sorted({*by_text, *by_letter})
    if len(found) == 1:
        return found[0]
    options = ", ".join(f"({letter}) {text}" for letter, text in zip(sample.letters, sample.choices, strict=True))
    if not found:
        raise InputError(f"expected the answer to be one of {options}, got {answer!r}")
    raise InputError(
        f"expected the answer to name one of {options}, but {answer!r} matches {' and '.join(found)}; "
        "write the letter in parentheses"
    )


def _replace_invalid_unicode(text: str) -> str:
    """Replace bytes of an argument or a file name that are not UTF-8 with ``?``, because JSON cannot represent them."""
    return text.encode("utf-8", errors="replace").decode()


def _describe_image(path: Path, image: SourceImage) -> TraceImage:
    """Describe the image; the digest is of the file on disk."""
    with open_regular_file(from_stored_path(path), follow_symlinks=True) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TraceImage(
        name=_replace_invalid_unicode(path.name),
        width=image.width,
        height=image.height,
        format=image.format,
        sha256=digest,
    )


def _no_progress(share: float, stage: str) -> None:
    """Ignore progress."""
