from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.columns import ColumnMapping
from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.labeling.importing import import_source
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.sources import (
    SourceSettings,
    check_question,
    detect_source_kind,
    load_source,
    load_unlabeled_images,
    locate_source,
    map_columns,
    preview_source,
)
from hart_studio.labeling.zip_archives import ZipArchive
from hart_studio.needle.dataset import iterate_items, write_item
from hart_studio.needle.scenes import SceneSettings
from hart_studio.records import GoldSample
from tests.images import encoded

PNG = encoded(Image.new("RGB", (8, 6)), "PNG")
TABLE = b"image,question,answer\nimg/a.png,What?,red\nimg/b 2.png,And here?,blue\nimg/gone.png,And?,no\n"


def load(source: Path, cache: Path, settings: SourceSettings) -> LoadedSamples[Any]:
    return load_source(locate_source(str(source), cache, settings), cache, settings)


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def needle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("needle")
    (folder / "images").mkdir()
    for item in iterate_items("val", 3, settings=SceneSettings(width=512, height=384)):
        write_item(item, folder)
    return folder


def test_our_own_form_is_distinguished_from_a_table(needle: Path, tmp_path: Path) -> None:
    assert detect_source_kind(str(needle)) == "questions"
    assert detect_source_kind(str(needle / "samples.jsonl")) == "questions"
    row = {"image": "a.png", "question": "?", "answer": "x", "choices": "red\nblue", "id": 1}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert detect_source_kind(str(tmp_path / "t.jsonl")) == "table"


def test_kinds_by_path(needle: Path, tmp_path: Path) -> None:
    assert detect_source_kind(str(needle / "images")) == "images"
    make_zip(tmp_path / "z.zip", {"a.png": PNG})
    assert detect_source_kind(str(tmp_path / "z.zip")) == "images"
    assert detect_source_kind("org/data-set") == "hugging_face"
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [roi]")
    assert detect_source_kind(str(tmp_path / "yolo")) == "yolo"
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    assert detect_source_kind(str(tmp_path / "coco")) == "coco"


@pytest.mark.parametrize("name", ["gone.txt", "/gone/away", "../x", "a/b/c"])
def test_kinds_that_cannot_be_detected(name: str) -> None:
    with pytest.raises(InputError, match="is not a file, folder or hub id"):
        detect_source_kind(name)


def test_one_image_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "photo 1.jpg").write_text("no image at all")
    with pytest.raises(InputError, match=r"'photo 1.jpg' is a single image. Choose its folder, or a zip"):
        detect_source_kind(str(tmp_path / "photo 1.jpg"))


def test_a_table_without_heads_has_no_columns_until_someone_chooses(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (8, 6)), "PNG"))
    (tmp_path / "q.csv").write_text("b.png,What is it?\na.png,And this?\n")
    found = preview_source(str(tmp_path / "q.csv"))
    assert (found["columns"]["image"], found["columns"]["question"]) == ("", "")
    assert (found["found"], found["missing"]) == (0, "no image column detected")
    assert preview_source(str(tmp_path / "q.csv"), image_column="b.png")["found"] == 1


def test_questions_keep_their_gold_boxes_apart(needle: Path, tmp_path: Path) -> None:
    loaded = load(needle, tmp_path / "cache", SourceSettings())
    assert len(loaded.samples) == 3
    assert all(isinstance(sample, GoldSample) for sample in loaded.samples)


def test_images_need_a_question(needle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No question to ask"):
        load(needle / "images", tmp_path, SourceSettings())
    with pytest.raises(InputError, match=r"The question has \{label\}.*Use \{name\} .*\{folder\}"):
        load(needle / "images", tmp_path, SourceSettings(question="Where is the {label}?"))
    settings = SourceSettings(question="Which color is {name}?", choices=("red", "blue"))
    assert len(load(needle / "images", tmp_path, settings).samples) == 3


def test_mapped_columns() -> None:
    names = ["image", "question", "answer", "photo", "A", "B"]
    assert map_columns(names, {}).choices == ("A", "B")
    assert map_columns(names, {"image": "photo", "answer": ""}).answer is None
    assert map_columns(names, {"choices": "answer"}) == ColumnMapping(answer="answer", choices="answer")
    assert map_columns(names, {"choices": "B, A"}).choices == ("B", "A")
    with pytest.raises(InputError, match="expected one of image"):
        map_columns(names, {"snapshot": "photo"})
    with pytest.raises(InputError, match="No column for question"):
        map_columns(names, {"question": ""})


@pytest.mark.parametrize("top", ["", "set/"])
def test_a_table_in_a_zip_finds_the_images_beside_it(tmp_path: Path, top: str) -> None:
    entries = {f"{top}q.csv": TABLE, f"{top}img/a.png": PNG, f"{top}img/b 2.png": PNG + b"1", "__MACOSX/._q.csv": b"x"}
    source = make_zip(tmp_path / "z.zip", entries)
    assert detect_source_kind(str(source)) == "table"
    loaded = load(source, tmp_path / "cache", SourceSettings())
    assert [(Path(sample.image).name, sample.answer) for sample in loaded.samples] == [
        ("a.png", "red"),
        ("b 2.png", "blue"),
    ]
    (bad,) = loaded.invalid_rows
    assert bad.row == "line 4" and "not found in " in bad.reason

    preview = preview_source(str(source))
    assert (preview["kind"], preview["found"], preview["columns"]["answer"]) == ("table", 2, "answer")
    assert preview["missing"] == "image not found in z.zip"
    assert preview["rows"][1]["question"] == "And here?"


def test_a_folder_with_one_table_is_that_table(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for name in ("a.png", "b 2.png"):
        (tmp_path / "img" / name).write_bytes(PNG)
    (tmp_path / "q.csv").write_bytes(TABLE)
    assert detect_source_kind(str(tmp_path)) == "table"
    assert len(load(tmp_path, tmp_path / "cache", SourceSettings()).samples) == 2
    assert preview_source(str(tmp_path))["found"] == 2
    (tmp_path / "more.jsonl").write_text("{}")
    for ask in (detect_source_kind, preview_source):
        with pytest.raises(InputError, match=r"The folder has 2 tables of questions: more.jsonl, q.csv"):
            ask(str(tmp_path))
    images = load(tmp_path, tmp_path / "cache", SourceSettings(kind="images", question="What is {name}?"))
    assert len(images.samples) == 2


def test_json_beside_images_is_a_table_only_when_it_is_one(tmp_path: Path) -> None:
    rows = json.dumps([{"image": "a.png", "question": "What?", "answer": "red"}]).encode()
    for name, text, kind in (
        ("rows", rows, "table"),
        ("notes", b'{"camera": 1}', "images"),
        ("no", b"{", "images"),
    ):
        source = make_zip(tmp_path / f"{name}.zip", {"a.png": PNG, f"{name}.json": text})
        assert detect_source_kind(str(source)) == kind
    assert (
        detect_source_kind(str(make_zip(tmp_path / "two.zip", {"a.png": PNG, "a.json": rows, "b.json": rows})))
        == "images"
    )


def test_images_of_a_zip_keep_their_names_and_folders(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "z.zip", {"cats/tom.png": PNG, "cats/no.png": b"text"})
    loaded = load(source, tmp_path / "cache", SourceSettings(question="Where is {name} of {folder}?"))
    (sample,) = loaded.samples
    assert (sample.id, sample.question, sample.source) == ("cats/tom.png", "Where is tom of cats?", "z")
    assert Path(sample.image).name == "tom.png"
    assert [bad.row for bad in loaded.invalid_rows] == ["cats/no.png"]
    assert preview_source(str(source)) == {"kind": "images", "count": 2, "shown": ["cats/no.png", "cats/tom.png"]}


def test_a_zip_of_nothing_says_why(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "z.zip", {"../a.png": PNG})
    with pytest.raises(DataError, match=r"1 files of the zip are invalid, such as '\.\./a\.png'"):
        load(source, tmp_path / "cache", SourceSettings(question="What?"))
    with pytest.raises(InputError, match="No table of questions"):
        load(make_zip(tmp_path / "p.zip", {"a.png": PNG}), tmp_path / "cache", SourceSettings(kind="table"))


def test_nothing_is_unpacked_before_there_is_a_question(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "z.zip", {"a.png": PNG})
    with pytest.raises(InputError, match="No question to ask"):
        load(source, tmp_path / "cache", SourceSettings())
    assert not (tmp_path / "cache").exists()


def test_images_of_a_table_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "far" / "img").mkdir(parents=True)
    (tmp_path / "far" / "img" / "a.png").write_bytes(PNG)
    (tmp_path / "q.csv").write_bytes(TABLE)
    assert preview_source(str(tmp_path / "q.csv"))["found"] == 0
    assert preview_source(str(tmp_path / "q.csv"), tmp_path / "far")["found"] == 1
    loaded = load(tmp_path / "q.csv", tmp_path / "cache", SourceSettings(image_root=tmp_path / "far"))
    assert len(loaded.samples) == 1


def test_a_failed_import_removes_unpacked_files(tmp_path: Path) -> None:
    table = b"photo,ask\na.png,What?\n"
    source = make_zip(tmp_path / "z.zip", {"q.csv": table, "a.png": PNG})
    project = create_project(tmp_path / "project", "p")
    with pytest.raises(DataError, match="Map the columns"):
        import_source(project, str(source), SourceSettings())
    assert not any(path.is_file() for path in project.images.rglob("*"))
    settings = SourceSettings(columns={"image": "photo", "question": "ask"})
    with pytest.raises(InputError, match="The import has 1 "):
        import_source(project, str(source), settings, max_items=0)
    assert not any(path.is_file() for path in project.images.rglob("*"))
    assert import_source(project, str(source), settings).added == 1
    with pytest.raises(DataError, match="Map the columns"):
        import_source(project, str(source), SourceSettings())
    (item,) = project.items()
    assert Path(item.image.path).is_file(), "what an import before has unpacked stays"


def test_a_preview_unpacks_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"q.csv": b"image,question\na.png,What?\nno.png,What?\n", "a.png": PNG, "no.png": b"text"}
    source = make_zip(tmp_path / "z.zip", entries)
    read: list[str] = []
    whole = ZipArchive.read
    monkeypatch.setattr(ZipArchive, "read", lambda self, name: read.append(name) or whole(self, name))
    preview = preview_source(str(source))
    assert set(read) == {"q.csv"}
    assert preview["found"] == 1 and "expected one of" in preview["missing"]


def test_a_zipped_data_set_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    rows = {"image": [{"bytes": PNG, "path": None}], "question": ["What?"], "answer": ["red"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "set")
    assert detect_source_kind(archive) == "hugging_face"
    assert [sample.answer for sample in load(Path(archive), tmp_path / "cache", SourceSettings()).samples] == ["red"]


def test_odd_names_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").mkdir()
    (tmp_path / "._q.csv").write_bytes(b"\0attributes")
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "._a.png").write_bytes(b"\0attributes")
    assert detect_source_kind(str(tmp_path)) == "images"
    assert preview_source(str(tmp_path)) == {"kind": "images", "count": 1, "shown": ["a.png"]}
    (tmp_path / "set.zip").mkdir()
    (tmp_path / "set.zip" / "a.png").write_bytes(PNG)
    assert len(load(tmp_path / "set.zip", tmp_path / "cache", SourceSettings(question="What?")).samples) == 1


def test_every_image_below_a_folder_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "set" / "cats").mkdir(parents=True)
    for name in ("b.png", "cats/tom.PNG"):
        (tmp_path / "set" / name).write_bytes(PNG)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    loaded = load_unlabeled_images(tmp_path / "set", "Where is {name} of {folder}?", ("left", "right"))
    assert [(sample.id, sample.question) for sample in loaded.samples] == [
        ("b.png", "Where is b of ?"),
        ("cats/tom.PNG", "Where is tom of cats?"),
    ]
    assert loaded.samples[0].choices == ("left", "right")
    assert loaded.samples[0].answer is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(PNG)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    assert [sample.id for sample in load_unlabeled_images(tmp_path / "set", "?").samples] == ["own.png"]


def test_a_template_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    question = load_unlabeled_images(tmp_path, "{name.__class__} {0} {name!r} {name}").samples[0].question
    assert question == "{name.__class__} {0} {name!r} a"


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"images": [], "annotations": [], "categories": []}, "coco"),
        ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "label_studio"),
        ([{"data": {"image": "a.png"}, "predictions": [], "other": 1}], "label_studio"),
        ({"data": {"image": "a.png"}}, "label_studio"),
        ([{"image": "a.png", "question": "?", "data": {"width": 3}}], "table"),
        ([{"image": "a.png", "question": "?", "annotations": []}], "table"),
    ],
)
def test_labels_of_other_tools_in_one_json_file(document: Any, kind: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps(document))
    assert detect_source_kind(str(tmp_path / "export.json")) == kind
    assert preview_source(str(tmp_path / "export.json"))["kind"] == kind


def test_a_json_file_of_labels_is_imported_without_its_kind(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    wh = dict(zip(("width", "height"), Image.open(tmp_path / "a.png").size, strict=True))
    coco = {
        "images": [{"id": 1, "file_name": "a.png", **wh}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "dot"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    project = create_project(tmp_path / "project", "P")
    report = import_source(project, str(tmp_path / "coco.json"), SourceSettings(question="Find {label} in {name}."))
    assert (report.added, report.invalid_count) == (1, 0)
    assert [item.sample.question for item in project.items()] == ["Find dot in a."]


def test_placeholders_that_images_do_not_have() -> None:
    with pytest.raises(InputError, match="images alone have no labels"):
        check_question("Where is the {label}?")
    with pytest.raises(InputError, match=r"Unknown placeholder {area}.*{name} \(file name without suffix\), {folder}"):
        check_question("How large is {area}?")
    check_question("Where is {name} of {folder}, {0} or {}?")


@pytest.mark.parametrize("folder", ["gone", "empty"])
def test_a_folder_without_images(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        load_unlabeled_images(tmp_path / folder, "?")
