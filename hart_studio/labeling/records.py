"""Records of a labeling project: items, labels with their evidence, and filters of items.

Boxes are float pixels of the upright original. No record here has a field for gold boxes.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from hart_studio.records import Box, Record, Sample

EvidenceKind = Literal["known_answer", "agreement"]
"""Whether answers are compared with the known answer or with each other. Metrics of the two are never mixed."""

Caution = Literal["touches_border", "covers_half", "scattered", "no_box"]
"""Caution about a label: a box at the image's edge, more than half of the image covered, low agreement of the rollouts'
regions, or no predicted box."""

Uncalibrated = Literal[
    "model", "images", "answer_format", "evidence", "sampling", "refinement", "given_boxes", "contradiction"
]
"""Why a label with evidence has no score: its model has no calibration, the calibration does not cover its images,
answer format, kind of evidence, sampling, box refinement or imported boxes, or the evidence contradicts the boxes. See
``calibration.REASONS``."""

Status = Literal["new", "proposed", "auto_accepted", "accepted", "edited", "rejected", "bad_question", "failed"]
"""``new``: no proposal yet. ``proposed``: needs a review. ``auto_accepted``: score above the threshold. ``accepted``,
``edited`` (accepted with changed boxes), ``rejected`` (wrong boxes), ``bad_question``: reviewed. ``failed``: the model
failed; see the note."""

Origin = Literal["none", "imported", "model", "human"]
"""Origin of the boxes."""

REVIEWED_STATUSES: Final[frozenset[Status]] = frozenset({"accepted", "edited", "rejected", "bad_question"})
"""Statuses of reviewed labels. A labeling run never changes such a label."""

USABLE_STATUSES: Final[tuple[Status, ...]] = ("auto_accepted", "accepted", "edited")
"""Statuses of labels to train on."""

DEFAULT_CLASS: Final = "region"
"""Class of a project without classes: every detection format needs one."""

MAX_CLASS_CHARS: Final = 100
"""Maximum length of a class name."""

MAX_CLASSES: Final = 10_000
"""Maximum number of classes of a project. Project default."""

IS_UNCALIBRATED: Final = "items.score IS NULL AND json_extract(items.label, '$.check.rollouts') > 0"
"""SQL condition of ``Label.is_uncalibrated`` on the table ``items``."""


def _check_class(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("class name is empty or has line breaks")
    return name.strip()


ClassName = Annotated[str, Field(max_length=MAX_CLASS_CHARS), AfterValidator(_check_class)]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class BoxCheck(Record):
    """Evidence for the boxes of a label. ``None`` = could not be measured."""

    kind: EvidenceKind
    """What answers were compared with: the known answer, or each other."""
    rollouts: int = Field(ge=0)
    """Rollouts (K); 0 for drawn boxes, which are only verified."""
    sufficiency: Share | None = None
    """Share of the K crops-only answers that are right (``known_answer``) or agree (``agreement``)."""
    consensus: Share | None = None
    """Mean pairwise IoU of the regions of the K rollouts."""
    support: Share | None = None
    """Share of the K rollouts that predict these boxes."""
    majority_answer: str | None = None
    """Majority answer of the K crops-only answers: a letter or normalized text."""
    crops_answer: str | None = None
    """Greedy answer from the crops of exactly these boxes: a letter or normalized text."""
    crops_correct: bool | None = None
    """Whether it equals the known answer, or, without one, the majority answer."""
    full_answer: str | None = None
    """Answer from the full image, for reference."""
    full_correct: bool | None = None
    """Whether ``full_answer`` equals the known answer or, without one, the majority answer."""
    masked_answer: str | None = None
    """Answer from the full image with these boxes masked."""
    necessity: bool | None = None
    """Whether the answer from the full image breaks with the boxes masked; see ``Verification.necessity``."""
    area_share: Share = 0.0
    """Share of the image that the boxes cover."""
    cautions: tuple[Caution, ...] = ()
    """Warnings about the boxes."""
    model: str = ""
    """Model that verified drawn boxes; empty = the one in ``provenance``."""


class LabelProvenance(Record):
    """Model and settings that reproduce a label."""

    model: str
    """Name of the model or checkpoint."""
    run_id: str
    """Id of the labeling run."""
    rollouts: int = Field(ge=1)
    """Rollouts (K)."""
    temperature: float = Field(ge=0)
    """Sampling temperature of the rollouts."""
    seed: int = Field(ge=0)
    """Seed of the run."""
    is_refined: bool = False
    """Whether the boxes were refined."""


class Label(Record):
    """One revision of an item's label. Revisions are immutable; the last one counts."""

    revision: int = Field(ge=0)
    """Revision number, from 0."""
    status: Status
    """Status of the item."""
    origin: Origin
    """Origin of the boxes."""
    boxes: tuple[Box, ...] = ()
    """Key regions in original pixels."""
    score: Share | None = None
    """Calibrated probability that the boxes are right (``labeling.calibration``); None without evidence of a model, and
    outside the calibration's domain."""
    uncalibrated: Uncalibrated | None = None
    """Why a labeling run gave no score."""
    check: BoxCheck | None = None
    """Evidence for the boxes."""
    provenance: LabelProvenance | None = None
    """Model that proposed the boxes, also if a reviewer changed them."""
    reviewer: str = ""
    """Reviewer; empty for a program."""
    at: AwareDatetime
    """Time, UTC."""
    note: str = ""
    """Failure reason or reviewer's note. Plain text, never HTML."""

    @property
    def is_uncalibrated(self) -> bool:
        """Whether there is evidence of rollouts but no valid calibration."""
        return self.score is None and self.check is not None and self.check.rollouts > 0


class ImageFile(Record):
    """Original image of an item; referenced, never copied or changed."""

    path: str
    """Absolute path."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the file at import."""
    width: int = Field(ge=1)
    """Width of the upright image, pixels."""
    height: int = Field(ge=1)
    """Height of the upright image, pixels."""
    domain: str = ""
    """Image domain read from the file (``image_domains.read_image_domain``), never from a dataset; empty for
    photographs."""

    @property
    def wh(self) -> tuple[int, int]:
        """Upright (width, height), pixels."""
        return self.width, self.height


class Item(Record):
    """One question about one image, with its label: the unit of review and export."""

    id: str = Field(pattern="^[0-9a-f]{16}$")
    """Hash of image content, question and choices: equal rows have equal ids everywhere."""
    sample: Sample
    """Question. ``sample.id`` is the id in its source."""
    image: ImageFile
    """Image of ``sample.image``."""
    label: Label
    """Newest revision."""
    history: tuple[Label, ...] = ()
    """Earlier revisions, oldest first; empty unless requested."""


class LabeledSample(Sample):
    """A row of another tool's data: a question with labeled boxes."""

    boxes: tuple[Box, ...] = ()
    """Existing boxes to verify; original pixels."""
    status: Status = "proposed"
    """Status in the other tool."""


class ItemFilter(Record):
    """Conditions on items; all of them must hold."""

    statuses: tuple[Status, ...] = ()
    """Any of these statuses; empty = all."""
    min_score: Share | None = None
    """Minimum score; excludes items without a score."""
    max_score: Share | None = None
    """Maximum score; excludes items without a score."""
    is_uncalibrated: bool = False
    """Only labels that a model verified but that have no calibrated score."""
    category: str | None = Field(default=None, max_length=500)
    """Question category."""
    reviewer: str | None = Field(default=None, max_length=120)
    """Last reviewer."""
    evidence: EvidenceKind | None = None
    """Known answer, or agreement."""
    text: str = Field(default="", max_length=500)
    """Words that must all occur in question, choices, answer, id or file name, ignoring case."""

    def to_sql(self) -> tuple[str, list[Any]]:
        """Build an SQL condition on the table ``items``, and the values of its placeholders."""
        clauses: list[str] = ["1"]
        values: list[Any] = []
        if self.statuses:
            clauses.append(f"items.status IN ({', '.join('?' * len(self.statuses))})")
            values += self.statuses
        for clause, value in (
            ("items.score >= ?", self.min_score),
            ("items.score <= ?", self.max_score),
            ("items.category = ?", self.category),
            ("items.reviewer = ?", self.reviewer),
            ("items.evidence = ?", self.evidence),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        if self.is_uncalibrated:
            clauses.append(IS_UNCALIBRATED)
        for word in self.text.casefold().split():
            clauses.append("instr(items.search_text, ?) > 0")
            values.append(word)
        return " AND ".join(clauses), values


ALL_ITEMS: Final = ItemFilter()
"""Filter without conditions."""
