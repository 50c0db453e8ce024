"""Paths to pipes, devices and links to them: rejected at once by every reader."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hart_studio.data.sources import load_jsonl, load_mme_realworld
from hart_studio.data.splits import read_manifest
from hart_studio.data.tables import read_rows
from hart_studio.errors import HartError
from hart_studio.files import copy_regular_file, open_regular_file, read_jsonl, read_regular_file
from hart_studio.imaging import SourceImage
from hart_studio.labeling.calibration import load_calibration
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.importing import inspect_image
from hart_studio.labeling.zip_archives import ZipArchive
from hart_studio.pipeline.trace import load_trace
from tests.labels import draw_image, make_item

pytestmark = pytest.mark.timeout(60)
KINDS = ("pipe", "link to a pipe", "link to a device")


def make_special(kind: str, path: Path) -> Path:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        pipe = path.with_name(f"{path.name}.pipe")
        os.mkfifo(pipe)
        path.symlink_to(pipe)
    else:
        path.symlink_to("/dev/zero")
    return path


def read_file(path: Path) -> None:
    read_regular_file(path, follow_symlinks=True)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "open_regular_file": ("a", lambda path: open_regular_file(path, follow_symlinks=True)),
    "read_regular_file": ("a", read_file),
    "copy_regular_file": ("a", lambda path: copy_regular_file(path, path.with_name("copy"))),
    "read_jsonl": ("a.jsonl", lambda path: list(read_jsonl(path))),
    "jsonl": ("a.jsonl", lambda path: list(read_rows(path))),
    "json": ("a.json", lambda path: list(read_rows(path))),
    "csv": ("a.csv", lambda path: list(read_rows(path))),
    "parquet": ("a.parquet", lambda path: list(read_rows(path))),
    "questions": ("a.jsonl", load_jsonl),
    "mme_realworld": ("a.json", load_mme_realworld),
    "split": ("a.json", read_manifest),
    "image": ("a.png", SourceImage),
    "zip": ("a.zip", ZipArchive),
    "calibration": ("a.json", load_calibration),
    "trace": ("trace.json", lambda path: load_trace(path.parent)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_a_special_file(reader: str, kind: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = make_special(kind, tmp_path / name)
    with pytest.raises((HartError, OSError)):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_inspected_without_waiting(kind: str, tmp_path: Path) -> None:
    assert isinstance(inspect_image(str(make_special(kind, tmp_path / "a.png"))), str)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"native"}))
@pytest.mark.parametrize("kind", KINDS)
def test_no_format_waits_for_a_special_file(kind: str, name: str, tmp_path: Path) -> None:
    """Under every name that a loader might search for."""
    folder = tmp_path / "set"
    for each in (
        "annotations/instances_train.json", "data.yaml", "Annotations/a.xml", "tasks.json", "train/annotations.json",
        "train/metadata.jsonl", "data/train.parquet", "train.jsonl",
    ):  # fmt: skip
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        make_special(kind, folder / each)
    with pytest.raises(HartError):
        FORMATS[name].load(folder, None)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_leaves_out_an_image_that_became_special(kind: str, tmp_path: Path) -> None:
    good, bad = (make_item(draw_image(tmp_path / name), [(1, 1, 9, 9)]) for name in ("good.png", "bad.png"))
    make_special(kind, tmp_path / "bad.png")
    report = export_labels([good, bad], "coco", tmp_path / "out", ExportOptions(splits={"train": 1.0}))
    assert report.items == 1
    assert report.excluded == {"the image is gone or cannot be read": 1}
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["good.png"]
