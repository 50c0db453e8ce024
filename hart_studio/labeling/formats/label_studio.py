"""Label Studio tasks, one per question, with a labeling configuration.

Coordinates are percent of the upright image size, ``x`` and ``y`` the TOP LEFT corner, never rounded: on an image 8,000
pixels wide, two decimals are almost a pixel. A reviewed label is an annotation, any other label a prediction. An
annotation names no annotator (``completed_by``): Label Studio rejects an import with a user who is no member, and
assigns annotations without one to the user who imports them. Its converter needs the ids of tasks, which its import
replaces. Images are served from a local folder: ``/data/local-files/?d=<path below the document root>``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes
from xml.etree import ElementTree

from hart_studio.data.rows import LoadedSamples, get_field, to_text
from hart_studio.errors import DataError
from hart_studio.files import write_json
from hart_studio.geometry import WH
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, PlannedItem, class_name
from hart_studio.labeling.formats.reading import (
    FoundImage,
    ImageFinder,
    ImportOptions,
    LabelCollector,
    list_files,
    read_json,
    to_number,
)
from hart_studio.labeling.records import REVIEWED_STATUSES, LabeledSample
from hart_studio.records import Box

TASKS: Final = "tasks.json"
CONFIG: Final = "label_config.xml"
LOCAL_FILES: Final = "/data/local-files/?d="

_VERDICTS: Final = {"rejected": "wrong box", "bad_question": "bad question"}
_SHAPE_FIELDS: Final = frozenset({"x", "y", "points", "vertices", "rle", "imageDataURL"})
VERIFIED: Final = "verified"
WRONG_BOX: Final = _VERDICTS["rejected"]


class Controls(NamedTuple):
    """Names of the tags of a labeling configuration, by default those of ``label_config``."""

    image: str = "image"
    """Tag of the image."""
    boxes: str = "label"
    """Tag of the boxes."""
    kind: Literal["rectanglelabels", "rectangle"] = "rectanglelabels"
    """Whether the boxes have labels."""
    answer: str = "answer"
    """Text field of the answer; empty = none."""
    verdict: str = "verdict"
    """Choices of the verdict; empty = none."""


DEFAULT_CONTROLS: Final = Controls()
"""Tags of ``label_config``."""


def save_label_studio(plan: ExportPlan, folder: Path) -> None:
    """Write ``tasks.json`` to import, and ``label_config.xml`` for the project.

    Set ``LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true`` and ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`` to the export
    folder, or to the common folder of referenced images.

    Raises:
        OSError: If the folder cannot be written.
    """
    rows = enumerate(plan.rows(), start=1)
    tasks = [_task(number, image, planned, plan.path_of(image)) for number, (image, planned) in rows]
    write_json(folder / TASKS, tasks)
    (folder / CONFIG).write_text(label_config(plan.classes), encoding="utf-8", newline="\n")


def describe_serving(plan: ExportPlan) -> str:
    """Note about the document root that the tasks need."""
    root = "the export folder" if plan.options.images == "copy" else str(plan.image_root)
    return f"serve local files with LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to {root}"


def label_config(classes: tuple[str, ...]) -> str:
    """Create the labeling configuration of the tasks."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$question")
    image = {"name": "image", "value": "$image", "zoom": "true", "zoomControl": "true", "rotateControl": "false"}
    ElementTree.SubElement(view, "Image", image)
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in classes:
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.SubElement(view, "TextArea", name="answer", toName="image", maxSubmissions="1", editable="true")
    verdict = ElementTree.SubElement(view, "Choices", name="verdict", toName="image", choice="single")
    for value in (VERIFIED, *_VERDICTS.values()):
        ElementTree.SubElement(verdict, "Choice", value=value)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def load_label_studio(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read Label Studio tasks: an import file, or a JSON export.

    The newest annotation of a task that was not skipped counts, else the newest prediction. Older annotations, and
    regions other than rectangles, are invalid rows. A task that has regions but no rectangle is skipped. The question
    is ``data.question``, else the template asks for each label.

    Args:
        path: The JSON file, or a folder with ``tasks.json`` or ``*.json``.
        options: Import options. ``image_root`` is the document root of local files, by default the folder of the file.

    Raises:
        DataError: If a file cannot be read or holds no tasks, or if there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options)
    for file in list_files(path, TASKS, "*.json"):
        tasks = read_json(file)
        tasks = [tasks] if isinstance(tasks, dict) else tasks
        if not isinstance(tasks, list):
            raise DataError(
                f"{file} is no Label Studio file: expected a list, got {type(tasks).__name__}. Choose another file."
            )
        images = ImageFinder(options.image_root or file.parent)
        for number, task in enumerate(tasks, start=1):
            with collector.row(f"task {number}"):
                _read_task(f"task {number}", task, images, collector)
    return collector.finish()


def _task(number: int, image: PlannedImage, planned: PlannedItem, file: str) -> dict[str, Any]:
    sample, label = planned.item.sample, planned.item.label
    data = {
        "image": LOCAL_FILES + quote(os.fsencode(file)),
        "question": sample.question,
        "answer": sample.answer or "",
        "choices": list(sample.choices),
        "kind": sample.category,
        "qa_id": planned.item.id,
        "status": label.status,
        "score": planned.score,
    }
    result = [_region(position, box, image, planned) for position, box in enumerate(planned.boxes, start=1)]
    if sample.answer is not None:
        result.append(make_answer(f"{planned.item.id}_answer", sample.answer))
    if label.status not in REVIEWED_STATUSES:
        prediction = {"model_version": label.provenance.model if label.provenance else "HART Studio", "result": result}
        return {
            "id": number,
            "data": data,
            "predictions": [prediction if planned.score is None else {**prediction, "score": planned.score}],
        }
    result.append(make_verdict(f"{planned.item.id}_verdict", _VERDICTS.get(label.status, VERIFIED)))
    annotation = {"id": number, "was_cancelled": False, "result": result}
    return {"id": number, "data": data, "annotations": [annotation]}


def make_region(
    region_id: str, box: Box, wh: WH, label: str, crops_answer: str | None = None, controls: Controls = DEFAULT_CONTROLS
) -> dict[str, Any]:
    """Create a box as a Label Studio result.

    region_id: Unique in its task.
        box: Box in original pixels; its score is included.
        wh: Upright (width, height) of the image, pixels.
        label: Label name of the configuration.
        crops_answer: Answer from the crops of the task's boxes; None = unknown.
        controls: Names of the tags.
    """
    width, height = wh
    value: dict[str, Any] = {
        "x": 100 * box.x_min / width,
        "y": 100 * box.y_min / height,
        "width": 100 * box.width / width,
        "height": 100 * box.height / height,
        "rotation": 0,
    }
    if controls.kind == "rectanglelabels":
        value["rectanglelabels"] = [label]
    region: dict[str, Any] = {
        "id": region_id,
        "from_name": controls.boxes,
        "to_name": controls.image,
        "type": controls.kind,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }
    if box.score is not None:
        region["score"] = box.score
    if crops_answer is not None:
        region["meta"] = {"text": [f"crop answer: {crops_answer}"]}
    return region


def make_answer(mark_id: str, text: str, controls: Controls = DEFAULT_CONTROLS) -> dict[str, Any]:
    """Create an answer as a Label Studio result."""
    return _make_result(mark_id, controls.answer, "textarea", {"text": [text]}, controls)


def make_verdict(mark_id: str, verdict: str, controls: Controls = DEFAULT_CONTROLS) -> dict[str, Any]:
    """Create a verdict as a Label Studio result."""
    return _make_result(mark_id, controls.verdict, "choices", {"choices": [verdict]}, controls)


def _region(number: int, box: Box, image: PlannedImage, planned: PlannedItem) -> dict[str, Any]:
    check = planned.item.label.check
    answer = check.crops_answer if check else None
    return make_region(f"{planned.item.id}_{number}", box, image.wh, class_name(box), answer)


def _make_result(mark_id: str, name: str, kind: str, value: dict[str, Any], controls: Controls) -> dict[str, Any]:
    return {"id": mark_id, "from_name": name, "to_name": controls.image, "type": kind, "value": value}


def _read_task(where: str, task: Any, images: ImageFinder, collector: LabelCollector) -> None:
    data = get_field(task, "data")
    image = images.find(image_name(get_field(data, "image")))
    result, is_human, older = _newest_result(task)
    for number in older:
        with collector.row(f"{where} annotation {number}"):
            raise ValueError("older annotation of the same task; only the newest counts")
    shapes = [each for each in result if _is_other_shape(each)]
    for number, shape in enumerate(shapes, start=1):
        with collector.row(f"{where} shape {number}"):
            raise ValueError(f"expected a rectangle, got {str(shape.get('type', 'a shape without a type'))[:40]!r}")
    regions = [each for each in result if isinstance(each, dict) and str(each.get("type", "")).startswith("rectangle")]
    boxes = []
    for number, region in enumerate(regions, start=1):
        with collector.row(f"{where} region {number}"):
            boxes.append(read_region(region, image))
    if (regions or shapes) and not boxes:  # regions without a valid box are no negative
        return
    question = data.get("question")
    if isinstance(question, str) and question.strip():
        status = _decision(result, data.get("status")) if is_human else data.get("status")
        about = {**data, "id": data.get("qa_id"), "status": status}
        collector.add_question(where, image, question, boxes, about)
    elif boxes:
        collector.add_boxes(where, image, [(box, box.label) for box in boxes])
    elif is_human:
        collector.add_negative(where, image)
    else:
        raise ValueError("task without a question and without an annotation, or skipped")


def image_name(url: Any) -> str:
    """Return the path of a task's image below the document root.

    Raises:
        ValueError: If it is no text, or an image on the network.
    """
    text = to_text(url, "image")
    if text.startswith(LOCAL_FILES):
        return os.fsdecode(unquote_to_bytes(text.removeprefix(LOCAL_FILES)))
    if "://" in text:
        raise ValueError("image on the network; images are not downloaded: use local files")
    return text


def _newest_result(task: Any) -> tuple[list[Any], bool, list[int]]:
    """The result that counts, whether it is an annotation, and the numbers of the unused annotations."""
    for name in ("annotations", "predictions"):
        made = task.get(name)
        found = [
            (number, each["result"])
            for number, each in enumerate(made if isinstance(made, list) else [], start=1)
            if isinstance(each, dict) and not each.get("was_cancelled") and isinstance(each.get("result"), list)
        ]
        if found:
            is_human = name == "annotations"
            return found[-1][1], is_human, [number for number, _ in found[:-1]] if is_human else []
    return [], False, []


def _is_other_shape(mark: Any) -> bool:
    """Whether a result is a region other than a rectangle, such as a polygon, ellipse, keypoint or mask."""
    if not isinstance(mark, dict) or str(mark.get("type", "")).startswith("rectangle"):
        return False
    return isinstance(mark.get("value"), dict) and not _SHAPE_FIELDS.isdisjoint(mark["value"])


def _decision(result: list[Any], status: Any) -> Any:
    """Status of an annotation: its verdict, else the status of the task."""
    for mark in result:
        value = mark.get("value") if isinstance(mark, dict) and mark.get("from_name") == "verdict" else None
        chosen = value.get("choices") if isinstance(value, dict) else None
        for decided, verdict in _VERDICTS.items():
            if chosen == [verdict]:
                return decided
    return status if status in ("accepted", "edited", "rejected") else "accepted"


def read_region(region: Any, image: FoundImage) -> Box:
    """Read the box of a result.

    Returns:
        Box in original pixels, clipped to the image.

    Raises:
        ValueError: If it is no axis-aligned rectangle on an image of that size.
        HartError: If it is no valid box.
    """
    value = get_field(region, "value")
    x, y, width, height = (to_number(get_field(value, side), side) for side in ("x", "y", "width", "height"))
    if to_number(value.get("rotation", 0), "rotation") != 0:
        raise ValueError("rotated box")
    if region.get("image_rotation"):
        raise ValueError("box on a rotated image")
    image.check_size(region.get("original_width"), region.get("original_height"))
    across, down = image.wh[0] / 100, image.wh[1] / 100
    labels = value.get("rectanglelabels")
    label = labels[0] if isinstance(labels, list) and labels else ""
    return image.box((x * across, y * down, (x + width) * across, (y + height) * down), label, region.get("score"))
