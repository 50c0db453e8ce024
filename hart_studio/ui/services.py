"""What the pages may ask for: open a picture, ask a model. The only door from ``ui`` to the pipeline and the models.

Nothing here imports torch before a model is asked for, so the page is up in seconds.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image

from hart_studio.errors import InputError
from hart_studio.imaging import OpenImage, SourceImage
from hart_studio.labeling.records import Check
from hart_studio.labeling.self_verify import check_boxes
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART, BUILT_INS, find_built_in
from hart_studio.models.chat import ChatModel
from hart_studio.models.families import FAMILIES
from hart_studio.pipeline.asking import ask_question, build_sample
from hart_studio.pipeline.settings import LoopSettings, read_settings
from hart_studio.pipeline.trace import draw_pictures, load_trace, summarize_trace, zip_trace
from hart_studio.pipeline.verification import check_rollout_count
from hart_studio.records import PROTOCOLS, Box, Protocol, Sample
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.layout import find_run
from hart_studio.runs.overrides import load_config
from hart_studio.ui.background import Progress
from hart_studio.ui.components.answer_cards import AnswerBoard
from hart_studio.ui.components.box_viewer import Copy, Scene
from hart_studio.ui.components.crop_strip import Shown
from hart_studio.ui.views import show_answers, show_pictures

PREVIEW_SIDE: Final = 2048
"""Greatest side of the copy that the viewer shows first, pixels."""

DETAIL_SIDE: Final = 4096
"""Greatest side of the copy that the viewer zooms into, pixels; crops are shown at native resolution beside it."""

_TITLES: Final = {BUILT_IN: "Built-in (hart-tiny-base)", BUILT_IN_HART: "Built-in, trained with HART (hart-tiny)"}

MODEL_SLOTS: Final = 2
"""Models kept in memory: the two that the page can compare."""

_LOADING_SHARE: Final = 0.3
"""Part of the progress bar that loading a model takes."""

LoadModel = Callable[[str], ChatModel]


@dataclass(frozen=True)
class AskForm:
    """A checked question."""

    image: Path
    question: str
    choices: tuple[str, ...]
    answer: str
    """A letter, a text, or empty when unknown."""
    protocols: tuple[Protocol, ...]
    settings: LoopSettings
    rollouts: int


@dataclass(frozen=True)
class Reply:
    """One model's answers, ready to be shown."""

    scene: Scene
    shown: Shown
    board: AnswerBoard
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
    """Check what came from a page or a script, before a model is loaded for it.

    Args:
        image: Path of an uploaded picture.
        question: The question.
        choices: Options as a list, or as text with one per line; blank ones are dropped.
        answer: The known answer: a letter, a text, or nothing.
        protocols: Names of protocols; None = all.
        rollouts: Samples for the self-check.
        **settings: Fields of ``LoopSettings``.

    Raises:
        InputError: If the picture or the question is missing, the answer is none of the choices, or a setting is out
            of range.
    """
    if image is None:
        raise InputError("there is no picture yet; upload one or pick an example")
    if not question or not question.strip():
        raise InputError("there is no question yet; type what you want to know about the picture")
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
    build_sample(str(form.image), form.question, form.choices, form.answer)
    check_rollout_count(form.rollouts, form.settings)
    return form


def offered_models(default: str = BUILT_IN) -> list[tuple[str, str]]:
    """(title, name) of the models in the lists: the default, the built-in ones, one checkpoint of each family."""
    names = dict.fromkeys([default, *BUILT_INS, *(family.checkpoint for family in FAMILIES.values())])
    return [(_TITLES.get(name, name), name) for name in names]


def find_rival(model: str) -> str:
    """What a model is compared with at first: the built-in one with what HART made of it, others with nothing."""
    return BUILT_IN_HART if model == BUILT_IN else ""


def load_local_model(name: str) -> ChatModel:
    """Load a model in this process; the first call imports torch, which takes seconds."""
    from hart_studio.models.loading import load_model  # noqa: PLC0415 - see the module's docstring

    return load_model(name)


class AskService:
    """Opens pictures and asks models, one question at a time.

    Attributes:
        folder: Where everything that the page shows is written; the server serves it.
    """

    def __init__(self, folder: Path, load: LoadModel = load_local_model) -> None:
        """Make the folder.

        Args:
            folder: Inside the server's cache folder, so that its files are served in place.
            load: From a name to a model; raises ``ModelError``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._load = load
        self._models: OrderedDict[str, ChatModel] = OrderedDict()
        self._turn = threading.Lock()

    def open_picture(self, path: Path) -> Scene:
        """A picture as the viewer shows it, without regions. The file itself is left as it is.

        Raises:
            ImageError: If it is no readable picture of a supported format and size.
        """
        image = SourceImage(path)
        status = path.stat()
        key = hashlib.sha256(f"{path}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:20]
        folder = self.folder / "pictures" / key
        detail, preview = folder / "detail.jpg", folder / "preview.jpg"
        if not (detail.exists() and preview.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            large = image.overview(max_side=DETAIL_SIDE)
            large.save(detail, quality=88)
            small = large.copy()
            small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
            small.save(preview, quality=88)
        return Scene(image.name, image.width, image.height, _copy(preview), _copy(detail))

    def ask(self, form: AskForm, model_name: str, progress: Progress) -> Reply:
        """Ask one model; a second caller waits until the first has its answer.

        Args:
            form: The question.
            model_name: The built-in model, a folder or a hub id; loaded when it is not in memory.
            progress: Told about each stage.

        Raises:
            HartError: If the picture, the question or the model is not usable.
        """
        if self._turn.locked():
            progress(0.0, "Waiting for another question to finish")
        with self._turn:
            scene = self.open_picture(form.image)
            name = model_name.strip()
            model = self._get_model(name, progress)
            with SourceImage(form.image) as image:
                trace = ask_question(
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
                archive = self.folder / "traces" / uuid.uuid4().hex / "hart-trace.zip"
                archive.parent.mkdir(parents=True)
                archive.write_bytes(zip_trace(trace, draw_pictures(trace, image)))
        with zipfile.ZipFile(archive) as files:
            files.extractall(archive.parent)  # our own archive, written two lines above
        return Reply(
            scene=replace(scene, boxes=trace.boxes, crops=trace.crops),
            shown=show_pictures(load_trace(archive.parent)),
            board=show_answers(trace, name),
            archive=archive,
            summary={**summarize_trace(trace), "model": name},
        )

    def check_boxes(
        self, model_name: str, sample: Sample, boxes: Sequence[Box], before: Check | None, open_image: OpenImage
    ) -> tuple[Check, str]:
        """What a model says of boxes that a person has drawn; see ``labeling.self_verify.check_boxes``.

        Raises:
            HartError: If the model is not usable.
        """
        with self._turn:
            model = self._get_model(model_name, lambda fraction, stage: None)
            return check_boxes(model, sample, boxes, LoopSettings(), before, open_image)

    @staticmethod
    def find_trained(runs_root: Path, run_id: str, step: int | None) -> tuple[str, str]:
        """Names of a checkpoint's model and of the model that its run began with, for the lists of the Ask tab.

        Args:
            runs_root: Folder of all runs.
            run_id: From a browser.
            step: Of the checkpoint; None = the newest.

        Raises:
            InputError: If there is no such run or no such checkpoint.
        """
        layout = find_run(runs_root, run_id)
        found = [mark for mark in list_checkpoints(layout) if step in (None, mark.mark.step)]
        if not found:
            raise InputError(f"expected a complete checkpoint of {run_id}, got step {step}; choose another one")
        return str(found[-1].folder), load_config(layout.config).model.id or BUILT_IN

    def _get_model(self, name: str, progress: Progress) -> ChatModel:
        """The model from memory, or loaded after the least recently used one has made room."""
        if name not in self._models:
            progress(0.02, f"Loading {name}")
            while len(self._models) >= MODEL_SLOTS:
                self._models.popitem(last=False)
            self._models[name] = self._load(find_built_in(name))
        self._models.move_to_end(name)
        return self._models[name]


def _copy(path: Path) -> Copy:
    with Image.open(path) as image:
        return Copy(path, image.width)
