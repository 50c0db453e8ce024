"""Copies without an EXIF rotation: pixels, sizes and boxes agree whether or not a reader applies EXIF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, JpegImagePlugin

from hart_studio.errors import InputError
from hart_studio.imaging import SourceImage
from hart_studio.labeling.export_plan import ExportOptions, split_of
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.importing import import_source
from hart_studio.labeling.project import Project, make_item_id
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import Item, Label
from hart_studio.labeling.rotated_images import reset_jpeg_orientation, to_stored, write_as_stored, write_upright
from hart_studio.labeling.sources import SourceSettings
from tests.labels import AT, draw_image, make_item

FORMATS_WITH_EXIF = (("JPEG", {"quality": 90}), ("PNG", {}), ("WEBP", {"quality": 80}), ("TIFF", {}))
TRAIN = {"train": 1.0}


def photograph(wh: tuple[int, int] = (96, 64), mode: str = "RGB") -> Image.Image:
    """Smooth shapes with noise: different in every corner."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 1, wh[0]), np.linspace(0, 1, wh[1]))
    planes = [across * 200, down * 200, (across + down) * 100]
    pixels = np.stack(planes, axis=2) + random.normal(0, 8, (wh[1], wh[0], 3))
    return Image.fromarray(np.clip(pixels + 20, 0, 255).astype(np.uint8)).convert(mode)


def save(path: Path, image: Image.Image, format_: str, orientation: int, **settings: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, format_, exif=exif, **settings)
    return path


@pytest.mark.parametrize(("format_", "settings"), FORMATS_WITH_EXIF)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_copies_show_the_same_with_and_without_exif(
    format_: str, settings: dict[str, Any], orientation: int, tmp_path: Path
) -> None:
    original = save(tmp_path / "original", photograph(), format_, orientation, **settings)
    with SourceImage(original) as source:
        upright = np.asarray(source.full()).astype(int)
        assert source.orientation == orientation and source.is_rotated
        write_upright(source, tmp_path / "upright")
        write_as_stored(source, tmp_path / "stored")
    for name in ("upright", "stored"):
        with Image.open(tmp_path / name) as copy:
            assert copy.format == format_ and copy.getexif().get(0x0112, 1) == 1
            plain, transposed = (
                np.asarray(copy.convert("RGB")),
                np.asarray(ImageOps.exif_transpose(copy).convert("RGB")),
            )
        assert np.array_equal(plain, transposed)
        if name == "upright":
            difference = np.abs(plain.astype(int) - upright)
            # Lossless, but for a second rounding of the blocks of a JPEG.
            assert difference.max() <= (6 if format_ == "JPEG" else 0)
            assert difference.mean() < 0.6
    # A pixel of the upright image is where its box lies in the stored one.
    with Image.open(tmp_path / "stored") as copy:
        stored = np.asarray(copy.convert("RGB")).astype(int)
    height, width = upright.shape[:2]
    for x, y in ((0, 0), (width - 1, 0), (3, height - 1), (width // 2, 5)):
        left, top, right, bottom = to_stored((x, y, x + 1, y + 1), (width, height), orientation)
        assert (right - left, bottom - top) == (1, 1)
        assert np.abs(stored[int(top), int(left)] - upright[y, x]).max() == 0


def test_stored_jpegs_keep_every_byte_but_the_orientation(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photograph(), "JPEG", 6)
    with SourceImage(path) as source:
        write_as_stored(source, tmp_path / "out")
    before, after = path.read_bytes(), (tmp_path / "out").read_bytes()
    assert [(one, other) for one, other in zip(before, after, strict=True) if one != other] == [(6, 1)]


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpegs_keep_their_tables_and_their_sampling(sampling: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photograph(), "JPEG", 6, quality=70, subsampling=sampling)
    with SourceImage(path) as source:
        write_upright(source, tmp_path / "out")
    with Image.open(path) as before, Image.open(tmp_path / "out") as after:
        assert isinstance(before, JpegImagePlugin.JpegImageFile) and isinstance(after, JpegImagePlugin.JpegImageFile)
        for number, table in before.quantization.items():
            square = np.reshape(table, (8, 8))
            assert np.array_equal(np.reshape(after.quantization[number], (8, 8)), square.T)  # the image is transposed
        expected = {"4:4:4": 0, "4:2:2": 0, "4:2:0": 2}[sampling]  # 4:2:2 on its side is not known to Pillow
        assert JpegImagePlugin.get_sampling(after) == expected


@pytest.mark.parametrize(
    ("mode", "format_"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("RGBA", "WEBP"),
     ("I;16", "TIFF"), ("F", "TIFF")],
)  # fmt: skip
def test_modes_are_kept(mode: str, format_: str, tmp_path: Path) -> None:
    if mode in ("I;16", "F"):
        image = Image.fromarray(np.asarray(photograph(mode="L")).astype(np.uint16) * 201).convert(mode)
    else:
        image = photograph(mode=mode)
    if mode == "RGBA":
        image.putalpha(photograph(mode="L"))
    path = save(tmp_path / "a", image, format_, 8)
    with SourceImage(path) as source:
        write_upright(source, tmp_path / "out")
    with Image.open(tmp_path / "out") as written:
        assert (written.mode, written.size) == (mode, (64, 96))
        with path.open("rb") as stream, Image.open(stream) as original:
            original.load()  # this turns a TIFF, but some modes not if Pillow gets the path
            is_turned = format_ == "TIFF"
            turned = np.asarray(original if is_turned else original.transpose(Image.Transpose.ROTATE_90)).astype(float)
        assert np.abs(np.asarray(written).astype(float) - turned).max() <= (40 if format_ == "JPEG" else 0)


def test_an_orientation_in_xmp_alone_is_applied(tmp_path: Path) -> None:
    """Pillow reads it, browsers do not; the copy has none."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    photograph().save(tmp_path / "a.jpg", xmp=xmp)
    for write, wh in ((write_upright, (64, 96)), (write_as_stored, (96, 64))):
        with SourceImage(tmp_path / "a.jpg") as source:
            assert source.orientation == 6
            write(source, tmp_path / "out")
        assert b"xmpmeta" not in (tmp_path / "out").read_bytes()
        assert SourceImage(tmp_path / "out").wh == wh


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_broken_headers_are_no_error(tail: bytes, at: int, value: int) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 8)).save(stream, "JPEG", exif=exif)
    data = bytearray(stream.getvalue())
    data[at % len(data)] = value
    size = len(data)
    reset_jpeg_orientation(data)
    assert len(data) == size
    other = bytearray(b"\xff\xd8\xff\xe1" + tail)
    reset_jpeg_orientation(other)
    assert len(other) == 4 + len(tail)


# --- exports --------------------------------------------------------------------------------------------------------


def rotated_items(tmp_path: Path) -> list[Item]:
    """A rotated image, upright 48 x 64, and one that is not."""
    turned = draw_image(tmp_path / "in" / "turned.jpg", (64, 48), orientation=6)
    plain = draw_image(tmp_path / "in" / "plain.png", (64, 48))
    return [make_item(turned, [(4, 8, 12, 40)]), make_item(plain, [(1, 2, 30, 40)])]


@pytest.mark.parametrize("exif", ["upright", "stored"])
@pytest.mark.parametrize("name", [name for name, info in FORMATS.items() if info.save and name != "native"])
def test_every_format_writes_no_rotation(name: str, exif: Any, tmp_path: Path) -> None:
    items = rotated_items(tmp_path)
    items.append(make_item(draw_image(tmp_path / "in" / "other.png", (80, 60)), [(1, 2, 30, 40)]))
    shares = {"train": 0.5, "val": 0.5}
    hashes = [item.image.sha256 for item in items]
    salt = next(salt for salt in map(str, range(99)) if {split_of(one, shares, salt) for one in hashes} == set(shares))
    options = ExportOptions(splits=shares, exif=exif, salt=salt)
    report = export_labels(items, name, tmp_path / "out", options)  # it reads the boxes back in that frame
    wh = (48, 64) if exif == "upright" else (64, 48)
    for path in (tmp_path / "out").rglob("turned.jpg"):
        with Image.open(path) as image:
            assert image.size == wh == ImageOps.exif_transpose(image).size
    (note,) = [note for note in report.notes if "EXIF" in note]
    assert note == (
        "1 image with EXIF rotation was written upright"
        if exif == "upright"
        else "1 image with EXIF rotation was written as stored, with turned boxes and without the rotation"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]  # no draft is left


def test_boxes_are_turned_with_the_stored_image(tmp_path: Path) -> None:
    export_labels(rotated_items(tmp_path)[:1], "coco", tmp_path / "out", ExportOptions(splits=TRAIN, exif="stored"))
    (sample,) = FORMATS["coco"].load(tmp_path / "out", None).samples
    # Orientation 6: upright is the stored image turned clockwise, so x = upright y and y = upright width - x.
    assert sample.boxes[0].xyxy == (8, 48 - 12, 40, 48 - 4)


def test_native_copies_rotated_files_unchanged(tmp_path: Path) -> None:
    items = rotated_items(tmp_path)
    report = export_labels(items, "native", tmp_path / "out", ExportOptions(splits=TRAIN))
    assert (tmp_path / "out" / "images" / "turned.jpg").read_bytes() == (tmp_path / "in" / "turned.jpg").read_bytes()
    assert any("not changed by this export: 1; boxes refer to the upright image" in note for note in report.notes)
    with pytest.raises(InputError, match="copies images unchanged"):
        export_labels(items, "native", tmp_path / "other", ExportOptions(splits=TRAIN, exif="stored"))


@pytest.mark.parametrize("name", [name for name, info in FORMATS.items() if info.can_reference])
def test_referenced_images_with_a_rotation(name: str, tmp_path: Path) -> None:
    """They are excluded and counted where readers disagree; the files of the user are never changed."""
    items = rotated_items(tmp_path)
    before = (tmp_path / "in" / "turned.jpg").read_bytes()
    report = export_labels(items, name, tmp_path / "out", ExportOptions(splits=TRAIN, images="reference"))
    reasons = [reason for reason in report.excluded if "EXIF rotation" in reason]
    if FORMATS[name].applies_exif:
        assert not reasons and report.items == 2
    else:
        assert [report.excluded[reason] for reason in reasons] == [1] and report.items == 1
    assert (tmp_path / "in" / "turned.jpg").read_bytes() == before
    with pytest.raises(InputError, match="references images"):
        options = ExportOptions(splits=TRAIN, images="reference", exif="stored")
        export_labels(items, name, tmp_path / "other", options)


def test_damaged_images_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.jpg", photograph((400, 300)), "JPEG", 6)
    path.write_bytes(path.read_bytes()[:3000])
    items = [make_item(path, [(4, 8, 12, 40)]), *rotated_items(tmp_path)]
    report = export_labels(items, "coco", tmp_path / "out", ExportOptions(splits=TRAIN))
    ((reason, count),) = report.excluded.items()
    assert "truncated" in reason and count == 1 and report.items == 2
    with pytest.raises(InputError, match="No labels to export"):
        export_labels(items[:1], "coco", tmp_path / "other", ExportOptions(splits=TRAIN))
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize("name", ["coco", "pascal_voc", "hf_parquet", "label_studio"])
def test_reviews_come_back_with_upright_copies(name: str, tmp_path: Path) -> None:
    """In another project the copies are new images; in the same one they are known, so nothing is added twice."""
    item = rotated_items(tmp_path)[0]
    first = Label(revision=0, status="proposed", origin="model", at=AT)
    reviewed = item.model_copy(
        update={
            "id": make_item_id(item.image.sha256, item.sample.question, item.sample.choices),
            "history": (first,),
            "label": item.label.model_copy(update={"revision": 1, "reviewer": "me"}),
        }
    )
    export_labels([reviewed], name, tmp_path / "out", ExportOptions(splits=TRAIN))
    other = create_project(tmp_path / "other", "Other")
    report = import_source(other, str(tmp_path / "out"), SourceSettings())
    assert (report.added, report.restored, report.changed, report.invalid_count) == (1, 1, 0, 0)
    (found,) = other.items(with_history=True)
    assert found.label.reviewer == "me" and len(found.history) == 1 and found.label.boxes == reviewed.label.boxes
    assert found.image.sha256 != item.image.sha256 and found.image.wh == (48, 64)

    same: Project = create_project(tmp_path / "same", "Same")
    with same.database.writing() as connection:
        same.insert_item(connection, reviewed)
    report = import_source(same, str(tmp_path / "out"), SourceSettings())
    assert (report.added, report.updated, report.known) == (0, 0, 1)
    assert same.count() == 1
