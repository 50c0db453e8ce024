"""Open images and ask models: the only interface from ``ui`` to the pipeline and the models.

torch is imported with the first model, so that the page starts within seconds.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image

from hart_studio.errors import ImageError, InputError
from hart_studio.files import from_stored_path, to_stored_path
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits, ImageOpener, SourceImage
from hart_studio.labeling.records import BoxCheck
from hart_studio.labeling.self_verify import verify_drawn_boxes
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART, get_domain_warnings, resolve_model_name
from hart_studio.models.chat import ChatModel, CountsTokens
from hart_studio.pipeline.closed_loop import FailedSample, prepare_samples, run_grounding
from hart_studio.pipeline.inference import ask_question, build_sample
from hart_studio.pipeline.settings import LoopSettings, read_settings
from hart_studio.pipeline.trace import Trace, load_trace, render_images, summarize_trace, zip_trace
from hart_studio.pipeline.verification import check_rollout_count
from hart_studio.records import MAX_QUESTION_CHARS, PROTOCOLS, Box, Protocol, Sample
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.layout import find_run
from hart_studio.runs.overrides import load_config
from hart_studio.ui.api.schemas import (
    LocateResponse,
    VerifyResponse,
    clip_boxes,
    to_locate_response,
    to_verify_response,
)
from hart_studio.ui.cache import renew
from hart_studio.ui.components.answer_cards import AnswersPanel
from hart_studio.ui.components.box_viewer import ImageCopy, ViewerImage
from hart_studio.ui.components.crop_strip import ModelInputs
from hart_studio.ui.model_queue import ModelQueue
from hart_studio.ui.progress_stream import Progress
from hart_studio.ui.security.model_allowlist import ModelAllowlist
from hart_studio.ui.spaces.zero_gpu import load_model_here
from hart_studio.ui.trace_view import build_answers_panel, build_model_inputs

PREVIEW_SIDE: Final = 2048
"""Greatest side of the first copy in the viewer, pixels."""

DETAIL_SIDE: Final = 4096
"""Greatest side of the copy for zooming, pixels; crops are shown at native resolution."""

MODEL_SLOTS: Final = 2
"""Models kept in memory: the two that can be compared."""

DECODING: Final = threading.BoundedSemaphore(2)
"""Limits how many originals are decoded at once for the pages, which limits memory."""

MIN_COUNTED_CHARS: Final = 500
"""Shorter questions fit into every context; their tokens are not counted."""

_LOADING_SHARE: Final = 0.3
"""Share of the progress bar for loading a model."""

LoadModel = Callable[[str], ChatModel]


@dataclass(frozen=True)
class AskForm:
    """A validated question."""

    image: Path
    question: str
    choices: tuple[str, ...]
    answer: str
    """A letter, a text, or empty if unknown."""
    protocols: tuple[Protocol, ...]
    settings: LoopSettings
    rollouts: int

    @property
    def sample(self) -> Sample:
        """The question as a ``Sample``."""
        return build_sample(str(self.image), self.question, self.choices, self.answer)


@dataclass(frozen=True)
class AskResult:
    """Answers of one model, ready for display."""

    scene: ViewerImage
    shown: ModelInputs
    board: AnswersPanel
    archive: Path
    """The trace as a zip."""
    summary: dict[str, Any]
    """The answer of the ``/ask`` endpoint."""


def read_form(
    image: str | Path | None,
    question: str | None,
    choices: str | Sequence[str] | None = None,
    answer: str | None = None,
    protocols: Sequence[str] | None = None,
    rollouts: float = 1,
    **settings: Any,
) -> AskForm:
    """Validate a request of a page or a script before a model is loaded.

    Args:
        image: Path of an uploaded image.
        question: The question.
        choices: Options as a list, or as text with one per line; blank ones are dropped.
        answer: The known answer: a letter, a text, or nothing.
        protocols: Names of protocols; None = all.
        rollouts: Samples for the self-check.
        **settings: Fields of ``LoopSettings``.

    Raises:
        InputError: If the image or the question is missing, the question is too long, the answer is none of the
            choices, or a setting is out of range.
    """
    if image is None:
        raise InputError("No image. Upload one or choose an example.")
    if not question or not question.strip():
        raise InputError("No question. Enter a question about the image.")
    size = len(question) + len(answer or "")
    size += len(choices) if isinstance(choices, str) else sum(len(str(choice)) for choice in choices or ())
    if size > MAX_QUESTION_CHARS:
        raise InputError(
            f"Question too long: {size:,} characters with choices and answer, at most {MAX_QUESTION_CHARS:,} are "
            "allowed. Shorten it."
        )
    options = choices.splitlines() if isinstance(choices, str) else [str(choice) for choice in choices or ()]
    names = PROTOCOLS if protocols is None else tuple(protocols)
    if not names or not set(names) <= set(PROTOCOLS):
        raise InputError(f"expected at least one of {', '.join(PROTOCOLS)}, got {', '.join(map(str, names)) or 'none'}")
    form = AskForm(
        image=Path(image),
        question=question,
        choices=tuple(option.strip() for option in options if option.strip()),
        answer=answer or "",
        protocols=tuple(name for name in PROTOCOLS if name in names),
        settings=read_settings(**settings),
        rollouts=int(rollouts),
    )
    _ = form.sample  # raises InputError if the sample is invalid
    renew(form.image)
    check_rollout_count(form.rollouts, form.settings)
    return form


def check_context(model: ChatModel, sample: Sample) -> None:
    """Raise if a question does not fit into the context of a model.

    Raises:
        InputError: If the text alone has more tokens than the context.
    """
    if not isinstance(model, CountsTokens) or model.context_tokens is None:
        return
    text = "\n".join([sample.question, *sample.choices])
    if len(text) <= MIN_COUNTED_CHARS:
        return
    tokens = model.count_tokens(text)
    if tokens > model.context_tokens:
        raise InputError(
            f"Question too long: {tokens:,} tokens with choices; the context of the model has "
            f"{model.context_tokens:,}. Shorten it or choose another model."
        )


def default_comparison_model(model: str) -> str:
    """Preselected comparison model: the HART-trained one for the built-in model, none for others."""
    return BUILT_IN_HART if model == BUILT_IN else ""


class AskService:
    """Opens images and asks models, one question at a time.

    Attributes:
        folder: Served folder for all files that the page shows, inside the cache folder of the server.
        allowed: Models that may be loaded; by default any.
        limits: Limits of image size and format.
    """

    def __init__(
        self,
        folder: Path,
        load: LoadModel = load_model_here,
        allowed: ModelAllowlist | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Make the folder; ``load`` loads a model by name and raises ``ModelError``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.allowed = allowed or ModelAllowlist()
        self.limits = limits
        self._load = load
        self._models: OrderedDict[str, ChatModel] = OrderedDict()
        self._model_queue = ModelQueue()

    def with_folder(self, folder: Path) -> AskService:
        """A copy with the same models and queue and another served folder, such as that of one visitor."""
        folder.mkdir(parents=True, exist_ok=True)
        clone = copy(self)
        clone.folder = folder
        return clone

    def open_image(self, path: Path) -> ViewerImage:
        """Prepare an image for the viewer, without regions. The file is not changed.

        Raises:
            ImageError: If it is no readable image of a supported format and size.
        """
        image = SourceImage(path, self.limits)
        status = from_stored_path(path).stat()
        key = hashlib.sha256(f"{to_stored_path(path)}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[
            :20
        ]
        folder = self.folder / "images" / key
        detail, preview = folder / "detail.jpg", folder / "preview.jpg"
        if not (detail.exists() and preview.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            with DECODING, image:
                large = image.overview(max_side=DETAIL_SIDE)
                large.save(detail, quality=88)
                small = large.copy()
                small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
                small.save(preview, quality=88)
        return ViewerImage(image.name, image.width, image.height, _copy(preview), _copy(detail))

    def find_warnings(self, image: Path, model_names: Sequence[str]) -> list[str]:
        """Warnings about models that do not support the domain of an image.

        Args:
            image: An uploaded image.
            model_names: From a page; models that are not allowed are skipped without reading them.
        """
        names = [name for name in dict.fromkeys(model_names) if self._is_allowed(name)]
        return list(dict.fromkeys(text for name in names for text in get_domain_warnings(name.strip(), image)))

    def _is_allowed(self, name: str) -> bool:
        try:
            self.allowed.check(name)
        except InputError:
            return False
        return True

    def ask(self, form: AskForm, model_name: str, progress: Progress, *, bypass_limit: bool = False) -> AskResult:
        """Ask one model; requests are answered one at a time, in order of arrival.

        Args:
            form: The question.
            model_name: The built-in model, a folder or a hub id; loaded when it is not in memory.
            progress: Called at each stage.
            bypass_limit: Whether to ignore the queue limit, for the second model of a comparison.

        Raises:
            BusyError: If the queue is full.
            HartError: If the image, the question or the model is not usable.
        """
        with self._take_turn(form, model_name, progress, bypass_limit=bypass_limit) as (name, image, progress):
            scene = self.open_image(form.image)
            trace = self._run_loop(form, name, image, progress)
            archive = self.folder / "traces" / uuid.uuid4().hex / "hart-trace.zip"
            archive.parent.mkdir(parents=True)
            archive.write_bytes(zip_trace(trace, render_images(trace, image)))
        with zipfile.ZipFile(archive) as files:
            files.extractall(archive.parent)  # written two lines above
        return AskResult(
            scene=replace(scene, boxes=trace.boxes, crops=trace.crops),
            shown=build_model_inputs(load_trace(archive.parent)),
            board=build_answers_panel(trace, name),
            archive=archive,
            summary={**summarize_trace(trace), "model": name},
        )

    def answer(self, form: AskForm, model_name: str, progress: Progress) -> dict[str, Any]:
        """Ask like ``ask`` without saving images; returns the response of ``/ask``.

        Raises:
            BusyError: If the queue is full.
            HartError: If the image, the question or the model is not usable.
        """
        with self._take_turn(form, model_name, progress) as (name, image, progress):
            return {**summarize_trace(self._run_loop(form, name, image, progress)), "model": name}

    def locate(self, form: AskForm, model_name: str, progress: Progress) -> LocateResponse:
        """Run the grounding turn only; the original is not decoded in full.

        Raises:
            BusyError: If the queue is full.
            HartError: If the image, the question or the model is not usable.
        """
        with self._take_turn(form, model_name, progress) as (name, image, progress):
            model = self._get_model(name, progress)
            check_context(model, form.sample)
            progress(_LOADING_SHARE, "Predicting the region")
            views = prepare_samples(model, [form.sample], form.settings, lambda _: image, will_crop=False)
            if isinstance(views[0], FailedSample):
                raise ImageError(views[0].reason)
            ((grounding,),) = run_grounding(model, views, form.settings)
            return to_locate_response(image, name, grounding, get_domain_warnings(name, form.image))

    def verify(self, form: AskForm, boxes: Sequence[Box], model_name: str, progress: Progress) -> VerifyResponse:
        """Verify given boxes.

        Args:
            form: The question.
            boxes: Original pixels; clipped to the image.
            model_name: As for ``ask``.
            progress: Called with the queue position and each stage.

        Raises:
            BusyError: If the queue is full.
            HartError: If the image, the question, a box or the model is not usable.
        """
        name, progress = self.allowed.check(model_name), _touching(form.image, progress)
        with SourceImage(form.image, self.limits) as image:
            inside = clip_boxes(boxes, image.wh)
            check, problem = self.check_boxes(name, form.sample, inside, None, lambda _: image, progress)
            if problem:
                raise ImageError(problem)
            return to_verify_response(image, name, inside, check, get_domain_warnings(name, form.image))

    def check_boxes(
        self,
        model_name: str,
        sample: Sample,
        boxes: Sequence[Box],
        before: BoxCheck | None,
        open_image: ImageOpener,
        progress: Progress = lambda fraction, stage: None,
    ) -> tuple[BoxCheck, str]:
        """Verify boxes drawn by a person or a program; see ``self_verify.verify_drawn_boxes``.

        Raises:
            HartError: If the model is not usable.
        """
        settings = LoopSettings()
        # Use all boxes, not just the first max_boxes.
        settings = settings.model_copy(update={"max_boxes": max(len(boxes), settings.max_boxes)})
        self._check_loaded(model_name, sample)
        with self._model_queue.turn(lambda text: progress(0.0, text)):
            model = self._get_model(model_name, progress)
            check_context(model, sample)
            progress(_LOADING_SHARE, "Verifying the boxes")
            return verify_drawn_boxes(model, sample, boxes, settings, before, open_image)

    @staticmethod
    def find_checkpoint_model(runs_root: Path, run_id: str, step: int | None) -> tuple[str, str]:
        """Names of the model of a checkpoint and of its base model, for the Ask tab.

        Args:
            runs_root: Folder of all runs.
            run_id: From a browser.
            step: Of the checkpoint; None = the newest.

        Raises:
            InputError: If there is no such run or no such checkpoint.
        """
        layout = find_run(runs_root, run_id)
        found = [mark for mark in list_checkpoints(layout) if step in (None, mark.manifest.step)]
        if not found:
            raise InputError(f"No complete checkpoint of {run_id} at step {step}. Choose another one.")
        return str(found[-1].folder), load_config(layout.config).model.id or BUILT_IN

    @contextmanager
    def _take_turn(
        self, form: AskForm, model_name: str, progress: Progress, *, bypass_limit: bool = False
    ) -> Iterator[tuple[str, SourceImage, Progress]]:
        """Check the model and the question, open the image, and wait for the model; arguments as for ``ask``.

        Yields:
            The name of the model, the image, and a callback that also keeps the image in the cache.
        """
        name, touching = self.allowed.check(model_name), _touching(form.image, progress)
        self._check_loaded(name, form.sample)
        with (
            SourceImage(form.image, self.limits) as image,
            self._model_queue.turn(lambda text: touching(0.0, text), bypass_limit=bypass_limit),
        ):
            yield name, image, touching

    def _run_loop(self, form: AskForm, name: str, image: SourceImage, progress: Progress) -> Trace:
        """Run all turns of a question; the caller holds the queue."""
        model = self._get_model(name, progress)
        check_context(model, form.sample)
        return ask_question(
            model,
            str(form.image),
            form.question,
            form.choices,
            form.answer,
            form.protocols,
            form.settings,
            form.rollouts,
            lambda fraction, stage: progress(_LOADING_SHARE + (1 - _LOADING_SHARE) * fraction, stage),
            lambda _: image,
        )

    def _check_loaded(self, name: str, sample: Sample) -> None:
        """Check the question length before queueing if the model is loaded; else this happens after loading."""
        model = self._models.get(name)
        if model is not None:
            check_context(model, sample)

    def _get_model(self, name: str, progress: Progress) -> ChatModel:
        """Return a loaded model, or load it and evict the least recently used one.

        Raises:
            InputError: If the model is not allowed.
        """
        name = self.allowed.check(name)
        if name not in self._models:
            progress(0.02, f"Loading {name}")
            while len(self._models) >= MODEL_SLOTS:
                self._models.popitem(last=False)
            self._models[name] = self._load(resolve_model_name(name))
        self._models.move_to_end(name)
        return self._models[name]


def _touching(path: Path, progress: Progress) -> Progress:
    """Wrap a callback so that each report also keeps the uploaded file from being evicted from the cache."""

    def report(fraction: float, stage: str) -> None:
        renew(path)
        progress(fraction, stage)

    return report


def _copy(path: Path) -> ImageCopy:
    with Image.open(path) as image:
        return ImageCopy(path, image.width)
