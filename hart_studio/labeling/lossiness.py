"""What an export would lose, counted on the very labels that it would write."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hart_studio.labeling.export_plan import (
    DEFAULT_CLASS,
    ExportOptions,
    PlannedItem,
    class_name,
    reason_against,
    usable_boxes,
)
from hart_studio.labeling.formats.table import Fact, FormatInfo, find_format
from hart_studio.labeling.records import Item

NOISE_PX = 1e-6
"""An edge that moves less than this has not been rounded."""


@dataclass(frozen=True)
class Loss:
    """One thing that does not come through.

    Attributes:
        what: Short name.
        count: How many.
        text: For people.
    """

    what: str
    count: int
    text: str


def lossiness(format_name: str, items: Iterable[Item], options: ExportOptions | None = None) -> tuple[Loss, ...]:
    """What of these labels a format cannot hold. The records beside the export still have it.

    Args:
        format_name: Key of ``FORMATS``.
        items: Any items; those that the options do not choose do not count.
        options: What would be exported.

    Returns:
        One loss for each thing that is really lost, none for a format that holds everything.

    Raises:
        InputError: If there is no such format, or the options do not fit it.
    """
    options = options or ExportOptions()
    info = find_format(format_name)
    info.check_options(options)
    chosen = [PlannedItem(item, usable_boxes(item, Counter())) for item in items if not reason_against(item, options)]
    kept = [each for each in chosen if fits(each, info)]
    left_out = len(chosen) - len(kept)
    losses = [Loss("left_out", left_out, f"{_count(left_out, 'item')} that it has no form for")]
    losses += _of_questions(kept, info.keeps)
    losses += _of_boxes(kept, info, options)
    losses += _of_labels(kept, info.keeps)
    return tuple(loss for loss in losses if loss.count)


def fits(planned: PlannedItem, info: FormatInfo) -> bool:
    """Whether a format has a form for an item at all."""
    if "unlabeled" in info.keeps:
        return True
    return planned.is_labeled and ("negatives" in info.keeps or bool(planned.boxes))


def _of_questions(kept: Sequence[PlannedItem], keeps: frozenset[Fact]) -> list[Loss]:
    if "questions" in keeps:
        return []
    questions: dict[str, set[str]] = defaultdict(set)
    for each in kept:
        questions[each.item.picture.sha256].add(each.item.id)
    merged = sum(len(ids) > 1 for ids in questions.values())
    return [
        Loss("questions", len(kept), f"question and answer of {_count(len(kept), 'item')}"),
        Loss("merged", merged, f"{_count(merged, 'picture')} with several questions, whose boxes are merged"),
    ]


def _of_boxes(kept: Sequence[PlannedItem], info: FormatInfo, options: ExportOptions) -> list[Loss]:
    boxes = [(box, (each.item.picture.width, each.item.picture.height)) for each in kept for box in each.boxes]
    losses = []
    if info.name != "native":
        renamed = sum((options.box_class or class_name(box)) != box.label for box, _ in boxes)
        manner = f"all as {options.box_class!r}" if options.box_class else f"as one line or as {DEFAULT_CLASS!r}"
        losses.append(Loss("labels", renamed, f"labels of {_count(renamed, 'box')}, written {manner}"))
    if "classes" not in info.keeps:
        named = sum(bool(box.label) for box, _ in boxes)
        losses.append(
            Loss("classes", named, f"labels of {_count(named, 'box')}, as far as the family's text has no place")
        )
    if info.written is not None:
        moves = []
        for box, wh in boxes:
            written = info.written(box, wh, options)
            moves.append(max(abs(new - old) for new, old in zip(written, box.xyxy, strict=True)))
        moved = [move for move in moves if move > NOISE_PX]
        text = f"{_count(len(moved), 'box')} rounded, by up to {max(moved, default=0):.2g} px"
        losses.append(Loss("rounded", len(moved), text))
    scored = [box.score is not None for box, _ in boxes]
    if "box_scores" not in info.keeps and not ("scores_if_all_known" in info.keeps and all(scored)):
        losses.append(Loss("box_scores", sum(scored), f"{_count(sum(scored), 'score')} of boxes"))
    return losses


def _of_labels(kept: Sequence[PlannedItem], keeps: frozenset[Fact]) -> list[Loss]:
    labels = [each.item.label for each in kept]
    scored = [label.score is not None for label in labels]
    keeps_scores = "scores" in keeps or ("scores_if_all_known" in keeps and all(scored))
    rejected = sum(label.status == "rejected" and bool(label.boxes) for label in labels)
    checked = sum(label.check is not None for label in labels)
    made = sum(label.maker is not None for label in labels)
    reviewed = sum(bool(label.reviewer or label.note) for label in labels)
    histories = sum(bool(each.item.history) for each in kept)
    losses: list[tuple[Fact, Loss]] = [
        ("scores", Loss("scores", 0 if keeps_scores else sum(scored), f"{_count(sum(scored), 'score')} of labels")),
        ("statuses", Loss("statuses", len(labels), f"status of {_count(len(labels), 'label')}")),
        (
            "history",
            Loss("rejected", rejected, f"boxes of {_count(rejected, 'rejected label')}, written as nothing here"),
        ),
        (
            "evidence",
            Loss("evidence", checked, f"evidence of {_count(checked, 'label')}, but for the answer from the crops"),
        ),
        ("makers", Loss("makers", made, f"model and settings behind {_count(made, 'label')}")),
        ("reviews", Loss("reviews", reviewed, f"reviewer and note of {_count(reviewed, 'label')}")),
        ("history", Loss("history", histories, f"review history of {_count(histories, 'item')}")),
    ]
    return [loss for fact, loss in losses if fact not in keeps]


def _count(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{ending}"
