"""Grounded conversations: a question turn, and an answer turn with boxes in the format of one model family.

JSON Lines, one file per split. ``box_frame`` is the coordinate frame of the boxes, and ``model_wh`` the size that
pixels of ``model_pixels`` refer to; the other frames do not depend on it. Negatives are excluded: a grounding turn
names a region, and not every family has a text for none.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from hart_studio.data.rows import LoadedSamples, get_field
from hart_studio.errors import InputError
from hart_studio.geometry import WH, XYXY, BoxFrame, from_original, to_original
from hart_studio.labeling.export_plan import ExportOptions, ExportPlan, PlannedImage, PlannedItem, class_name
from hart_studio.labeling.formats.reading import (
    ImageFinder,
    ImportOptions,
    LabelCollector,
    iterate_lines,
    list_files,
    parse_line,
    to_list,
    to_number,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.models.families import FAMILIES
from hart_studio.parsing import MAX_TEXT_CHARS, UNIT_DECIMALS, convert_to_original, format_boxes, parse_boxes
from hart_studio.prompts import as_text, grounding_prompt

MAX_BOXES: Final = 1024
"""Maximum number of boxes read from one answer."""

_EXTENTS: Final = {
    BoxFrame.NORMALIZED_1000: (1000, 1000),
    BoxFrame.NORMALIZED_1: (1, 1),
    BoxFrame.UNIT_PADDED_SQUARE: (1, 1),
}


def tolerance(wh: WH, options: ExportOptions) -> tuple[float, float]:
    """Rounding error of an edge: one unit of the family's frame, in original pixels, horizontal and vertical."""
    extent, step, _ = _grid(wh, options)
    return wh[0] / (extent[0] * step) + 1e-6, wh[1] / (extent[1] * step) + 1e-6


def written_box(edges: XYXY, wh: WH, options: ExportOptions) -> XYXY:
    """Box as read back from the export, original pixels."""
    frame = FAMILIES[options.chat_family].box_frame
    _, _, model_wh = _grid(wh, options)
    return to_original(_in_frame(edges, wh, options), frame, wh, model_wh)


def save_grounded_chat(plan: ExportPlan, folder: Path) -> None:
    """Write ``<split>.jsonl``.

    Raises:
        InputError: If the family writes pixels of its resized input and ``options.model_wh_of`` is missing, or if an
            answer is longer than the parser accepts.
        OSError: If the folder cannot be written.
    """
    for split in plan.splits:
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for image, planned in plan.rows(split):
                row = _row(image, planned, plan.path_of(image), plan.options)
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def load_grounded_chat(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read conversations that state the coordinate frame of their boxes.

    The boxes are parsed from the last model turn, like the text of any model.

    Args:
        path: JSONL file, or folder of JSONL files.
        options: Import options. The default image folder is that of each file.

    Raises:
        DataError: If a file cannot be read, or if there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options)
    for file in list_files(path, "*.jsonl"):
        images = ImageFinder(options.image_root or file.parent)
        for number, line in iterate_lines(file):
            with collector.row(f"{file.name} line {number}"):
                _read_row(f"{file.name} line {number}", parse_line(line), images, collector)
    return collector.finish()


def _grid(wh: WH, options: ExportOptions) -> tuple[tuple[int, int], int, WH]:
    """Size of the frame in its units, steps per unit, and size of the model input."""
    frame = FAMILIES[options.chat_family].box_frame
    step = 10**UNIT_DECIMALS if frame in (BoxFrame.NORMALIZED_1, BoxFrame.UNIT_PADDED_SQUARE) else 1
    if frame is not BoxFrame.MODEL_PIXELS:
        return _EXTENTS[frame], step, wh
    if options.model_wh_of is None:
        raise InputError(
            f"{FAMILIES[options.chat_family].title} writes boxes in pixels of its resized input, whose size is unknown "
            "here. Choose another model family."
        )
    model_wh = options.model_wh_of(wh)
    return model_wh, step, model_wh


def _in_frame(edges: XYXY, wh: WH, options: ExportOptions) -> XYXY:
    """Convert a box to whole steps of the family's frame: at least one step wide and high, inside the image.

    Plain rounding could push a thin box at the right or lower edge out of the image, where the reader drops it.
    """
    frame = FAMILIES[options.chat_family].box_frame
    extent, step, model_wh = _grid(wh, options)
    x_min, y_min, x_max, y_max = from_original(edges, frame, wh, model_wh)
    left, right = _whole(x_min * step, x_max * step, extent[0] * step)
    top, bottom = _whole(y_min * step, y_max * step, extent[1] * step)
    return left / step, top / step, right / step, bottom / step


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    """Nearest whole steps; if both are the same, the step that contains the middle."""
    first, last = max(0, round(low)), min(round(high), limit)
    if first < last:
        return first, last
    first = max(0, min(math.floor((low + high) / 2), limit - 1))
    return first, first + 1


def _row(image: PlannedImage, planned: PlannedItem, file: str, options: ExportOptions) -> dict[str, Any]:
    family = FAMILIES[options.chat_family]
    sample = planned.item.sample
    boxes = [(_in_frame(box.xyxy, image.wh, options), class_name(box)) for box in planned.boxes]
    answer = format_boxes(boxes, family.box_style)
    if len(answer) > MAX_TEXT_CHARS or len(boxes) > MAX_BOXES:
        raise InputError(
            f"Item {planned.item.id} has {len(boxes)} boxes in {len(answer)} characters; this format holds at most "
            f"{MAX_BOXES} boxes in {MAX_TEXT_CHARS} characters. Exclude the item or choose another format."
        )
    # Prevents a question from adding an image to the conversation.
    asked = as_text(grounding_prompt(sample.question.replace("<image>", "< image >")))
    return {
        "id": planned.item.id,
        "image": file,
        "width": image.wh[0],
        "height": image.wh[1],
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
        "family": family.key,
        "box_frame": family.box_frame.value,
        "model_wh": list(_grid(image.wh, options)[2]),
        "question": sample.question,
        "choices": list(sample.choices),
        "answer": sample.answer or "",
        "kind": sample.category,
        "status": planned.item.label.status,
    }


def _read_row(where: str, row: Any, images: ImageFinder, collector: LabelCollector) -> None:
    image = images.find(get_field(row, "image"))
    image.check_size(row.get("width"), row.get("height"))
    frame = BoxFrame(get_field(row, "box_frame"))
    sides = [to_number(side, "model_wh") for side in to_list(row, "model_wh")]
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError("expected a width and a height of at least 1 in 'model_wh'")
    turns = to_list(row, "conversations")
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"]
    if not texts or not isinstance(texts[-1], str):
        raise ValueError("expected a turn from 'gpt' in 'conversations'")
    parsed = parse_boxes(texts[-1], max_boxes=MAX_BOXES)
    placed = convert_to_original(parsed, frame, image.wh, (int(sides[0]), int(sides[1])))
    if placed.status in ("invalid", "partly_invalid"):
        raise ValueError(f"invalid boxes: {'; '.join(parsed.rejected) or 'outside of the image'}")
    collector.add_question(where, image, get_field(row, "question"), placed.boxes, row)
