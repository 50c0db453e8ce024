"""Untrusted files: a loader returns samples or a clear error, whatever they contain."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.table import FORMATS
from tests.examples import example_count
from tests.labels import draw_image

NAMES = st.sampled_from(
    ["a.png", "../a.png", "/etc/passwd", "", "a\0", "\ud800", "x" * 9999, "b.png", "/data/local-files/?d=%ff"]
)
NUMBERS = st.one_of(
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, 1, 2, 30, 48, 64, -1, True]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
BOXES = st.lists(NUMBERS, min_size=4, max_size=4)


def mostly(*usual: Any) -> st.SearchStrategy[Any]:
    """Valid values, more often than not."""
    good = st.one_of(*(each if isinstance(each, st.SearchStrategy) else st.just(each) for each in usual))
    return st.one_of(good, good, VALUES)


def row(**fields: Any) -> st.SearchStrategy[Any]:
    return mostly(st.fixed_dictionaries({}, optional=fields), st.fixed_dictionaries(fields))


def rows(**fields: Any) -> st.SearchStrategy[Any]:
    return mostly(st.lists(row(**fields), max_size=3))


COCO = row(
    images=rows(id=mostly(1), file_name=mostly(NAMES), width=mostly(64), height=mostly(48), hart_questions=VALUES),
    annotations=rows(
        image_id=mostly(1),
        category_id=mostly(1),
        bbox=mostly(BOXES),
        score=VALUES,
        attributes=row(question=mostly("Q?"), qa_id=VALUES, answer=VALUES, choices=VALUES, status=VALUES),
    ),
    categories=mostly([{"id": 1, "name": "car"}], VALUES),
)
TASKS = rows(
    data=row(image=mostly(NAMES), question=mostly("Q?"), choices=VALUES, answer=VALUES, qa_id=VALUES, status=VALUES),
    annotations=rows(
        result=rows(
            type=mostly("rectanglelabels"),
            value=row(x=NUMBERS, y=NUMBERS, width=NUMBERS, height=NUMBERS, rotation=mostly(0), rectanglelabels=VALUES),
            original_width=VALUES,
            original_height=VALUES,
        ),
        was_cancelled=VALUES,
    ),
    predictions=VALUES,
)
CREATEML = rows(
    image=mostly(NAMES),
    annotations=rows(label=mostly("car"), coordinates=row(x=NUMBERS, y=NUMBERS, width=NUMBERS, height=NUMBERS)),
)
SHAPES = row(
    imagePath=mostly(NAMES),
    imageWidth=mostly(64),
    imageHeight=mostly(48),
    shapes=rows(
        label=mostly("car"),
        shape_type=mostly("rectangle"),
        points=mostly(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=2, max_size=4)),
        description=VALUES,
    ),
)
METADATA = row(
    file_name=mostly(NAMES),
    question=VALUES,
    objects=row(bbox=mostly(st.lists(BOXES, max_size=3)), category=mostly([0]), score=VALUES),
)
CHAT = row(
    image=mostly(NAMES),
    box_frame=mostly("thousandths", "model_pixels"),
    model_wh=mostly([64, 48], st.lists(NUMBERS, max_size=3)),
    conversations=rows(**{"from": mostly("gpt"), "value": mostly("[1, 2, 3, 4]")}),
    question=mostly("Q?"),
)
RECORD = row(
    schema=mostly("hart.label/2"),
    item_id=mostly("0" * 16),
    qa_id=mostly("q"),
    question=mostly("Q?"),
    choices=mostly([]),
    answer=mostly(None),
    category=mostly(""),
    source=mostly(""),
    image=row(file=mostly(NAMES), sha256=mostly("0" * 64), width=mostly(64), height=mostly(48)),
    boxes=rows(xyxy=mostly(BOXES), label=mostly("car"), score=VALUES),
    review=row(revision=mostly(0), status=mostly("new"), origin=mostly("none"), at=mostly("2026-01-01T00:00:00Z")),
    history=mostly([]),
)
FILES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "coco": ("labels.json", COCO),
    "label_studio": ("tasks.json", TASKS),
    "createml": ("labels.json", CREATEML),
    "x_anylabeling": ("a.json", SHAPES),
    "image_folder": ("metadata.jsonl", METADATA),
    "grounded_chat": ("train.jsonl", CHAT),
    "native": ("labels.jsonl", RECORD),
}
READING = ImportOptions(negative_question="Anything?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        inside: Path = tmp_path_factory.mktemp(name) / "in"
        draw_image(inside / "a.png")
        draw_image(inside.parent / "a.png")
        return inside

    return make


def try_to_load(name: str, path: Path) -> None:
    try:
        loaded = FORMATS[name].load(path, READING)
    except (DataError, InputError) as error:
        assert str(error)
        return
    inside = path if path.is_dir() else path.parent
    assert len({sample.id for sample in loaded.samples}) == len(loaded.samples)
    for sample in loaded.samples:
        assert inside.resolve() in Path(sample.image).parents
        for box in sample.boxes if name != "native" else ():
            assert 0 <= box.x_min < box.x_max <= 64 and 0 <= box.y_min < box.y_max <= 48


@pytest.mark.parametrize("name", sorted(FILES))
@settings(max_examples=example_count(cost=6), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_json_of_any_form(name: str, data: st.DataObject, folder: Callable[[str], Path]) -> None:
    file, strategy = FILES[name]
    path = folder(name) / file
    path.write_text(json.dumps(data.draw(strategy)))
    try_to_load(name, path.parent)
    path.write_bytes(data.draw(st.binary(max_size=40)))
    try_to_load(name, path.parent)


@settings(max_examples=example_count(cost=6), suppress_health_check=list(HealthCheck))
@given(label=st.text(max_size=60), config=st.text(max_size=60) | st.just("names: [a]\ntrain: images"))
def test_yolo_of_any_form(label: str, config: str, folder: Callable[[str], Path]) -> None:
    inside = folder("yolo")
    draw_image(inside / "images" / "a.png")
    (inside / "labels").mkdir()
    (inside / "labels" / "a.txt").write_text(label, "utf-8", errors="replace")
    (inside / "data.yaml").write_text(config, "utf-8", errors="replace")
    try_to_load("yolo", inside)


TAGS = st.sampled_from(["filename", "size", "width", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax"])
XML = st.recursive(
    st.sampled_from(["a.png", "../a.png", "1", "nan", "1e999", "&amp;", "", "é"]),
    lambda inner: st.builds(lambda tag, body: f"<{tag}>{''.join(body)}</{tag}>", TAGS, st.lists(inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=example_count(cost=6), suppress_health_check=list(HealthCheck))
@given(body=XML, junk=st.binary(max_size=30))
def test_xml_of_any_form(body: str, junk: bytes, folder: Callable[[str], Path]) -> None:
    inside = folder("pascal_voc")
    (inside / "a.xml").write_text(f"<annotation><filename>a.png</filename>{body}</annotation>", "utf-8")
    (inside / "b.xml").write_bytes(junk)
    try_to_load("pascal_voc", inside)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_missing_or_empty_folder(name: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "missing.json"):
        with pytest.raises(DataError):
            FORMATS[name].load(path, ImportOptions(image_cache=tmp_path / "cache"))


def test_empty_questions_are_refused() -> None:
    with pytest.raises(InputError, match="The question is empty"):
        ImportOptions(template=" ")
    with pytest.raises(InputError, match="The question is empty"):
        ImportOptions(negative_question="")
