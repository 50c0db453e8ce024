"""Pascal VOC: ``Annotations/<stem>.xml``, ``JPEGImages``, ``ImageSets/Main/<split>.txt`` and ``labelmap.txt``.

``labelmap.txt`` lists the classes for CVAT and Datumaro, which otherwise know only the 20 original classes.

Coordinates follow the original devkit: whole pixels, 1-based, both ends inclusive. HART Studio counts from 0 with an
exclusive ``max``, so ``xmin = x_min + 1`` and ``xmax = x_max``; fractional edges move outward. Boxes from tools that
count from 0 are therefore shifted one pixel to the left and up; the file does not state its convention.

XML is parsed without document type, entities or includes: a file that declares one is rejected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.parsers import expat

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError
from hart_studio.geometry import WH, XYXY, snap_to_pixels
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, class_name
from hart_studio.labeling.formats.reading import (
    ImageFinder,
    ImportOptions,
    LabelCollector,
    list_files,
    parse_number,
    read_bytes,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box

IMAGES: Final = "JPEGImages"
ANNOTATIONS: Final = "Annotations"
LABEL_MAP: Final = "labelmap.txt"

TOLERANCE: Final = (1.0, 1.0)
"""Rounding error of an edge, which moves outward to a whole pixel: horizontal and vertical, pixels."""

_BACKGROUND: Final = "background"
_COLOR_BITS: Final = 8

_MAX_FILE_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 32
_MAX_NAMED: Final = 5


def written_box(edges: XYXY, wh: WH) -> XYXY:
    """Box as read back from the export, original pixels."""
    return snap_to_pixels(Box.from_xyxy(edges), wh).xyxy


def describe_export(plan: ExportPlan) -> str:
    """Note to show after an export."""
    note = (
        "coordinates are 1-based and inclusive, as in the original devkit (Datumaro: coordinate_mode='voc-one-based')"
    )
    if unlisted := [name for name in plan.classes if not _can_list(name)]:
        names = ", ".join(repr(name) for name in unlisted[:_MAX_NAMED])
        others = f" and {len(unlisted) - _MAX_NAMED} others" if len(unlisted) > _MAX_NAMED else ""
        note += (
            f"; {LABEL_MAP} cannot hold the classes {names}{others} (a colon, or # at the beginning), so CVAT and "
            "Datumaro cannot read their boxes"
        )
    return note


def make_label_map(classes: tuple[str, ...]) -> str:
    """Content of ``labelmap.txt``: a line ``name:red,green,blue:parts:actions`` per class, the background first.

    The colors are those of the original devkit. A class whose name contains a separator is left out.
    """
    names = [_BACKGROUND, *(name for name in classes if name != _BACKGROUND and _can_list(name))]
    lines = [f"{name}:{','.join(map(str, _color_of(number)))}::" for number, name in enumerate(names)]
    return "\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n"


def _can_list(name: str) -> bool:
    return ":" not in name and not name.startswith("#")


def _color_of(number: int) -> tuple[int, int, int]:
    """Color of a class: its bits in turn to red, green and blue, the lowest ones to the highest places."""
    color = [0, 0, 0]
    for place in range(3 * _COLOR_BITS):
        color[place % 3] |= (number >> place & 1) << (_COLOR_BITS - 1 - place // 3)
    return color[0], color[1], color[2]


def save_pascal_voc(plan: ExportPlan, folder: Path) -> None:
    """Write an XML file per image, without an ``object`` for a negative image, the lists of the splits and the classes.

    Raises:
        OSError: If the folder cannot be written.
    """
    annotations, lists = folder / ANNOTATIONS, folder / "ImageSets" / "Main"
    annotations.mkdir(parents=True, exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    (folder / LABEL_MAP).write_text(make_label_map(plan.classes), encoding="utf-8", newline="\n")
    for split in plan.splits:
        stems = []
        for image in plan.of_split(split):
            stem = Path(image.name).stem
            stems.append(stem)
            tree = ElementTree.ElementTree(_to_xml(image))
            ElementTree.indent(tree)
            tree.write(annotations / f"{stem}.xml", encoding="utf-8", xml_declaration=True)
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8", newline="\n")


def load_pascal_voc(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read an XML file, or all XML files of a folder.

    Args:
        path: An XML file, or a folder with ``Annotations/*.xml`` or ``*.xml``.
        options: Import options. The default image folder is ``JPEGImages`` beside the files or their folder, else the
            folder of the files.

    Raises:
        DataError: If there is no XML file, ``path`` is an unreadable file, or there is no sample.
    """
    options = options or ImportOptions()
    files = list_files(path, f"{ANNOTATIONS}/*.xml", "*.xml")
    near = [files[0].parent / IMAGES, files[0].parent.parent / IMAGES]
    root = options.image_root or next((folder for folder in near if folder.is_dir()), files[0].parent)
    collector, images = LabelCollector(path, options), ImageFinder(root)
    if path.is_file():
        parse_xml(path)  # a single file is the whole dataset, so its error is raised
    for file in files:
        with collector.row(file.name):
            _read_file(file, images, collector)
    return collector.finish()


def parse_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file of limited size and depth, and without a document type.

    Raises:
        DataError: If it is unreadable, too large or too deep, or declares a document type.
    """
    data = read_bytes(file)
    if len(data) > _MAX_FILE_BYTES:
        raise DataError(f"{file.name} has {len(data)} bytes; the limit for XML is {_MAX_FILE_BYTES}. Remove the file.")
    try:
        _refuse_declarations(data)
        return ElementTree.fromstring(data)  # noqa: S314 - the line above rejects unsafe XML
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{file.name} is not valid XML: {error}. Repair or remove the file.") from error


def _refuse_declarations(data: bytes) -> None:
    """Scan the file with a parser that builds no tree and stops at a document type or at too deep nesting."""
    parser = expat.ParserCreate()
    depth = 0

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which can hold entities")

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"its elements are nested more than {_MAX_DEPTH} deep")

    def leave(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = enter
    parser.EndElementHandler = leave
    parser.Parse(data, True)


def _to_xml(image: PlannedImage) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _append(root, "folder", IMAGES)
    _append(root, "filename", image.name)
    source = ElementTree.SubElement(root, "source")
    _append(source, "database", "HART Studio")
    _append(source, "annotation", "HART")
    _append(source, "image", "unknown")
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", image.wh[0]), ("height", image.wh[1]), ("depth", 3)):
        _append(size, name, value)
    _append(root, "segmented", 0)
    objects = {(class_name(box), written_box(box.xyxy, image.wh)): None for box in image.merged_boxes}
    for label, (x_min, y_min, x_max, y_max) in objects:
        each = ElementTree.SubElement(root, "object")
        _append(each, "name", label)
        _append(each, "pose", "Unspecified")
        for flag in ("truncated", "occluded", "difficult"):
            _append(each, flag, 0)
        box = ElementTree.SubElement(each, "bndbox")
        edges = (("xmin", x_min + 1), ("ymin", y_min + 1), ("xmax", x_max), ("ymax", y_max))
        for name, edge in edges:
            _append(box, name, int(edge))
    return root


def _append(parent: ElementTree.Element, name: str, value: str | int) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


def _read_file(file: Path, images: ImageFinder, collector: LabelCollector) -> None:
    root = parse_xml(file)
    image = images.find(root.findtext("filename", "").strip())
    size = [root.findtext(f"size/{side}") for side in ("width", "height")]
    image.check_size(*(None if side is None else parse_number(side, "size") for side in size))
    objects = root.findall("object")
    boxes = []
    for number, each in enumerate(objects, start=1):
        with collector.row(f"{file.name} object {number}"):
            names = ("xmin", "ymin", "xmax", "ymax")
            x_min, y_min, x_max, y_max = (parse_number(each.findtext(f"bndbox/{name}"), name) for name in names)
            label = each.findtext("name", "").strip()
            boxes.append(image.box((x_min - 1, y_min - 1, x_max, y_max), label))
    if objects:
        collector.add_boxes(file.name, image, [(box, box.label) for box in boxes])
    else:
        collector.add_negative(file.name, image)
