"""What a labeling project holds: items, and labels with the evidence for them.

Boxes are, as everywhere, float pixels of the original upright image. No record here has a field for gold boxes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from hart_studio.records import Box, Record, Sample

EvidenceKind = Literal["known_answer", "agreement"]
"""What answers were compared with. Figures of the two kinds are never put together."""

Caution = Literal["touches_border", "covers_half", "scattered", "no_box"]
"""Something odd about a label: a box at the image's edge, over half of the image covered, the regions of the
rollouts lie apart, or no rollout predicted a box."""

Uncalibrated = Literal[
    "model", "images", "answer_format", "evidence", "sampling", "refinement", "given_boxes", "contradiction"
]
"""Why a label with evidence has no score: there is no calibration of its model, the calibration is not valid for its
images, answer form, kind of evidence, sampling, box refinement or imported boxes, or the evidence contradicts the
boxes. ``calibration_domain.REASONS`` has them in words."""

Status = Literal["new", "proposed", "auto_accepted", "accepted", "edited", "rejected", "bad_question", "failed"]
"""``new``: nothing proposed yet. ``proposed``: waits for a person. ``auto_accepted``: the score was high enough.
``accepted``, ``edited`` (accepted with boxes that a person drew), ``rejected`` (no good box), ``bad_question``: decided
by a person. ``failed``: the model could not be asked; the note says why."""

Origin = Literal["none", "imported", "model", "human"]
"""Who drew the boxes."""

REVIEWED_STATUSES: Final[frozenset[Status]] = frozenset({"accepted", "edited", "rejected", "bad_question"})
"""Statuses that a person gave. A labeling run never changes such a label."""

USABLE_STATUSES: Final[tuple[Status, ...]] = ("auto_accepted", "accepted", "edited")
"""Statuses of labels that are good to train on."""

DEFAULT_CLASS: Final = "region"
"""Class of a project that names none: every detection format needs one."""

MAX_CLASS_CHARS: Final = 100
"""Characters of the name of a class."""

MAX_CLASSES: Final = 10_000
"""Classes of one project (project default)."""


def _check_class(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("expected the name of a class on one line, got none")
    return name.strip()


ClassName = Annotated[str, Field(max_length=MAX_CLASS_CHARS), AfterValidator(_check_class)]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class BoxCheck(Record):
    """What speaks for the boxes of a label. ``None`` = could not be measured."""

    kind: EvidenceKind
    """What answers were compared with: the known answer, or each other."""
    rollouts: int = Field(ge=0)
    """K, sampled passes of the loop; 0 for boxes that a person drew and that were only asked about."""
    sufficiency: Share | None = None
    """Share of the K crops-only answers that are right (``known_answer``), or that agree (``agreement``)."""
    consensus: Share | None = None
    """Mean pairwise IoU of the regions of the K rollouts."""
    support: Share | None = None
    """Share of the K rollouts that point at these boxes."""
    majority_answer: str | None = None
    """What most of the K crops-only answers say: a letter or normalised text."""
    crops_answer: str | None = None
    """The answer from the crops of exactly these boxes, greedily: a letter or normalised text."""
    crops_right: bool | None = None
    """Whether it is the known answer, or, without one, the answer of most rollouts."""
    full_answer: str | None = None
    """The answer from the full image, for reference."""
    full_right: bool | None = None
    """Whether that one is."""
    masked_answer: str | None = None
    """The answer from the full image with these boxes painted over."""
    necessity: bool | None = None
    """Whether painting them over spoils the full image's answer."""
    area_share: Share = 0.0
    """Share of the image that the boxes cover."""
    cautions: tuple[Caution, ...] = ()
    """What is odd about the boxes."""
    model: str = ""
    """Model that answered about the boxes that a person drew; empty = the one in the label's ``provenance``."""


class LabelProvenance(Record):
    """The model that proposed a label, with what repeats it."""

    model: str
    """Name of the model, or the checkpoint's."""
    run_id: str
    """The labeling run."""
    rollouts: int = Field(ge=1)
    """K."""
    temperature: float = Field(ge=0)
    """Of the K rollouts."""
    seed: int = Field(ge=0)
    """Of the run's random numbers."""
    is_refined: bool = False
    """Whether the boxes were shrunk while they stayed sufficient."""


class Label(Record):
    """One revision of an item's label. Revisions are never changed, the last one counts."""

    revision: int = Field(ge=0)
    """0, 1, 2, ... for one item."""
    status: Status
    """What became of the item."""
    origin: Origin
    """Who drew the boxes."""
    boxes: tuple[Box, ...] = ()
    """The key regions in original pixels."""
    score: Share | None = None
    """Calibrated probability that the boxes are right (``labeling.calibration``); None without evidence of a model, and
    outside of the calibration's domain."""
    uncalibrated: Uncalibrated | None = None
    """Why a labeling run gave no score."""
    check: BoxCheck | None = None
    """The evidence."""
    provenance: LabelProvenance | None = None
    """The model behind the boxes, or behind the ones that a person changed."""
    reviewer: str = ""
    """Who decided; empty for a program."""
    at: AwareDatetime
    """When, UTC."""
    note: str = ""
    """Why it failed, or what the reviewer wrote. Text only, never HTML."""

    @property
    def is_uncalibrated(self) -> bool:
        """Whether rollouts were measured and no calibration is valid for them."""
        return self.score is None and self.check is not None and self.check.rollouts > 0


class ImageFile(Record):
    """The original image of an item. It is referred to, never copied or changed."""

    path: str
    """Absolute path."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the file's bytes, when it was imported."""
    width: int = Field(ge=1)
    """Width of the upright image, pixels."""
    height: int = Field(ge=1)
    """Height, pixels."""
    domain: str = ""
    """Image domain, from the evidence in the file (``image_domains.read_image_domain``); empty for photographs. Never
    taken from a data set's rows."""


class Item(Record):
    """One question about one image, with its label: the unit of review and of export."""

    id: str = Field(pattern="^[0-9a-f]{16}$")
    """Made from the image's content, the question and its choices, so the same row has the same id everywhere."""
    sample: Sample
    """The question. ``sample.id`` is the id that its source gave."""
    image: ImageFile
    """The image of ``sample.image``."""
    label: Label
    """The newest revision."""
    history: tuple[Label, ...] = ()
    """The earlier ones, oldest first; empty when they were not asked for."""


class LabeledSample(Sample):
    """A row of another tool's data: a question, and boxes that someone drew for it."""

    boxes: tuple[Box, ...] = ()
    """Existing labels, to be verified; original pixels."""
    status: Status = "proposed"
    """What the other tool said of them."""
