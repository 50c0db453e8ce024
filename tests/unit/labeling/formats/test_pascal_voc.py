from pathlib import Path

import pytest

from hart_studio.errors import DataError
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.formats.pascal_voc import (
    describe_export,
    load_pascal_voc,
    make_label_map,
    parse_xml,
    save_pascal_voc,
)
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.records import Box
from tests.labels import copy_images, draw_image, make_item, make_plan

HEAD = "<annotation><filename>{name}</filename><size><width>64</width><height>48</height></size>"
OBJECT = (
    "<object><name>{label}</name>"
    "<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'


def write(folder: Path, body: str, name: str = "a.png") -> Path:
    draw_image(folder / "a.png")
    path = folder / "a.xml"
    path.write_text(f"{HEAD.format(name=name)}{body}</annotation>", "utf-8")
    return path


def test_coordinates_are_one_based(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png", (4032, 3024))
    items = [make_item(path, [Box.from_xyxy((504, 1210, 756, 1452), "a & <b>"), (0.5, 0, 1.5, 1)])]
    items.append(make_item(draw_image(tmp_path / "in" / "b.png"), ()))
    save_pascal_voc(make_plan(items), tmp_path / "out")
    root = parse_xml(tmp_path / "out" / "Annotations" / "a.xml")
    edges = [[int(edge.text or "") for edge in box] for box in root.iter("bndbox")]
    assert edges == [[505, 1211, 756, 1452], [1, 1, 2, 1]]  # half pixels move outward
    assert [each.text for each in root.iter("name")] == ["a & <b>", "sign"]
    assert root.findtext("filename") == "a.png" and root.findtext("size/width") == "4032"
    assert not list(parse_xml(tmp_path / "out" / "Annotations" / "b.xml").iter("object"))
    assert (tmp_path / "out" / "ImageSets" / "Main" / "train.txt").read_text() == "a\nb\n"


def test_whole_pixels_come_back_exactly(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png")
    plan = make_plan([make_item(path, [(0, 0, 64, 48), (63, 47, 64, 48), (3, 4, 5, 9)])])
    save_pascal_voc(plan, tmp_path / "out")
    copy_images(plan, tmp_path / "out", "pascal_voc")
    (sample,) = load_pascal_voc(tmp_path / "out").samples
    assert [box.xyxy for box in sample.boxes] == [(0, 0, 64, 48), (63, 47, 64, 48), (3, 4, 5, 9)]


def test_other_tools_files(tmp_path: Path) -> None:
    body = OBJECT.format("1", "1", "64", "48", label=" car &amp; more ") + OBJECT.format(
        "0", "0", "2.5", "3", label="car"
    )
    loaded = load_pascal_voc(write(tmp_path, body))
    assert [sample.question for sample in loaded.samples] == ["Where is the car & more?", "Where is the car?"]
    assert loaded.samples[0].boxes[0].xyxy == (0, 0, 64, 48)
    assert loaded.samples[1].boxes[0].xyxy == (0, 0, 2.5, 3)


@pytest.mark.parametrize("edge", ["nan", "inf", "", "x", "1e999", "9" * 400])
def test_a_bad_box_is_counted(edge: str, tmp_path: Path) -> None:
    body = OBJECT.format(edge, "1", "5", "5", label="car") + OBJECT.format("2", "2", "5", "5", label="car")
    loaded = load_pascal_voc(write(tmp_path, body))
    assert len(loaded.samples[0].boxes) == 1 and loaded.invalid_rows[0].row == "a.xml object 1"


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "", "b.png"])
def test_names_that_lead_out_or_nowhere(name: str, tmp_path: Path) -> None:
    draw_image(tmp_path / "a.png")
    path = write(tmp_path / "in", OBJECT.format(1, 1, 5, 5, label="car"), name)
    with pytest.raises(DataError, match="No valid rows"):
        load_pascal_voc(path)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "<!DOCTYPE a><annotation/>",
        "",
        "<a>",
        "x",
        "<a>" * 40 + "</a>" * 40,
        '<?xml version="1.0" encoding="x"?><a/>',
    ],
)
def test_xml_that_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=r"a\.xml is not valid XML"):
        parse_xml(tmp_path / "a.xml")
    with pytest.raises(DataError):
        load_pascal_voc(tmp_path)


def test_one_refused_file_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path, OBJECT.format(1, 1, 5, 5, label="car"))
    (tmp_path / "bomb.xml").write_text(BOMB)
    loaded = load_pascal_voc(tmp_path, ImportOptions(source="mine"))
    assert len(loaded.samples) == 1 and loaded.samples[0].source == "mine"
    assert "a document type" in loaded.invalid_rows[0].reason


def test_the_label_map_lists_the_classes_with_the_colors_of_the_devkit() -> None:
    lines = make_label_map(("aeroplane", "bicycle", "bird", "background", "a:b", "#c")).splitlines()
    assert lines == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "aeroplane:128,0,0::",  # the first colors of the original challenge
        "bicycle:0,128,0::",
        "bird:128,128,0::",
    ]
    many = make_label_map(tuple(f"c{number}" for number in range(1000))).splitlines()
    assert len({line.split(":")[1] for line in many[1:]}) == 1001  # no color twice


def test_classes_that_the_label_map_cannot_hold_are_named(tmp_path: Path) -> None:
    item = make_item(draw_image(tmp_path / "in" / "a.png"), [Box.from_xyxy((1, 2, 30, 40), "lane:left")])
    report = export_labels([item], "pascal_voc", tmp_path / "out", ExportOptions(splits={"train": 1.0}))
    assert any("cannot hold the classes 'lane:left'" in note for note in report.notes)
    assert (tmp_path / "out" / "labelmap.txt").read_text().splitlines()[1:] == ["background:0,0,0::"]
    assert "labelmap" not in describe_export(make_plan([make_item(tmp_path / "in" / "a.png", [(1, 2, 30, 40)])]))
