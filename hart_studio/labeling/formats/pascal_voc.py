"""Pascal VOC: ``Annotations/<stem>.xml``, ``JPEGImages`` and ``ImageSets/Main/<split>.txt``.

Coordinates are those of the original devkit: whole pixels, counted from 1, both ends inclusive. Ours count from 0 and
end before ``max``, so ``xmin = x_min + 1`` and ``xmax = x_max``; edges between pixels move outward. Files of tools that
count from 0 therefore come in one pixel to the left and up; a file does not say which it is.

XML is read without document type, entities or includes: a file that declares one is refused.
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

_MAX_FILE_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 32


def export_path(image: PlannedImage) -> str:
    """Where a copied image goes."""
    return f"{IMAGES}/{image.name}"


def tolerance(wh: WH) -> tuple[float, float]:
    """How far an edge can move outward to a whole pixel, pixels across and down."""
    del wh  # the same for every size
    return 1.0, 1.0


def written_box(box: Box, wh: WH) -> XYXY:
    """The box as it can be read back, original pixels."""
    return snap_to_pixels(box, wh).xyxy


def save_pascal_voc(plan: ExportPlan, folder: Path) -> None:
    """Write one XML file per image, with no ``object`` for a negative one, and the lists of the splits.

    Raises:
        OSError: If the folder cannot be written.
    """
    annotations, lists = folder / ANNOTATIONS, folder / "ImageSets" / "Main"
    annotations.mkdir(parents=True, exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
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
    """Read one XML file, or those of a folder.

    Args:
        path: An XML file, or a folder with ``Annotations/*.xml`` or ``*.xml``.
        options: How to read. Images are looked up in ``JPEGImages`` beside the files or beside their folder, else
            beside the files.

    Raises:
        DataError: If there is no XML file, or the one that was named cannot be read, or if there is no sample.
    """
    options = options or ImportOptions()
    files = list_files(path, f"{ANNOTATIONS}/*.xml", "*.xml")
    near = [files[0].parent / IMAGES, files[0].parent.parent / IMAGES]
    root = options.image_root or next((folder for folder in near if folder.is_dir()), files[0].parent)
    collector, images = LabelCollector(path, options), ImageFinder(root)
    if path.is_file():
        parse_xml(path)  # alone it is the whole data set, so its error is the answer
    for file in files:
        with collector.row(file.name):
            _read_file(file, images, collector)
    return collector.finish()


def parse_xml(file: Path) -> ElementTree.Element:
    """The root of an XML file of bounded size and depth that declares no document type.

    Raises:
        DataError: If it cannot be read, is no such file, or declares one.
    """
    data = read_bytes(file)
    if len(data) > _MAX_FILE_BYTES:
        raise DataError(f"{file.name}: expected XML of at most {_MAX_FILE_BYTES} bytes, got {len(data)}; remove it")
    try:
        _refuse_declarations(data)
        return ElementTree.fromstring(data)  # noqa: S314 - the line above has refused what makes it unsafe
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{file.name}: expected plain XML, got: {error}; repair or remove the file") from error


def _refuse_declarations(data: bytes) -> None:
    """Read the file once with a parser that builds nothing and stops at a document type or at endless nesting."""
    parser = expat.ParserCreate()
    depth = 0

    def refuse(*_: object) -> None:
        raise ValueError("a document type, which can hold entities")

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"elements more than {_MAX_DEPTH} deep")

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
    objects = {(class_name(box), written_box(box, image.wh)): None for box in image.merged_boxes}
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
