import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError
from hart_studio.files import read_lines
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.formats import reading
from hart_studio.labeling.formats.native import check_records, load_items, load_native, save_native, to_item, to_record
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.records import Item
from hart_studio.records import Box
from tests.labels import AT, NASTY, draw_image, full_item, make_item, make_plan

EVERY = ("new", "proposed", "auto_accepted", "accepted", "edited", "rejected", "bad_question", "failed")


def saved(items: list[Item], folder: Path, **options: Any) -> Path:
    save_native(make_plan(items, images="reference", statuses=EVERY, **options), folder)
    return folder / "labels.jsonl"


def test_nothing_is_lost(tmp_path: Path) -> None:
    paths = [draw_image(tmp_path / f"{n}.png") for n in range(len(EVERY) + 2)]
    items = [
        make_item(path, [Box.from_xyxy((-5, 0.1, 99, 1 / 3), NASTY, 0.1)], status=status)
        for path, status in zip(paths, EVERY, strict=False)
    ]
    items += [full_item(paths[-1]), full_item(paths[-1], "Another?"), make_item(paths[-2], note="no box")]
    file = saved(items, tmp_path)
    found, loaded = load_items(file, ImportOptions(image_root=tmp_path))
    assert {item.id: item for item in found} == {item.id: item for item in items}
    assert loaded.invalid_rows == () and {sample.id for sample in loaded.samples} == {item.id for item in items}
    record = json.loads(file.read_text("utf-8").splitlines()[0])
    assert record["schema"] == "hart.label/2" and record["image"]["exif_applied"] is True
    assert str(tmp_path) not in file.read_text("utf-8")


def test_a_record_by_hand(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    item = make_item(
        path, [Box.from_xyxy((1, 2.5, 3, 4), "sign", 0.5)], "Where?", answer="red", score=0.75, reviewer="me"
    )
    record = to_record(item, "images/a.png", "val")
    assert record["boxes"] == [{"xyxy": [1.0, 2.5, 3.0, 4.0], "label": "sign", "score": 0.5}]
    assert record["image"] == {
        "file": "images/a.png",
        "sha256": item.image.sha256,
        "width": 64,
        "height": 48,
        "exif_applied": True,
    }
    assert (record["question"], record["answer"], record["split"]) == ("Where?", "red", "val")
    assert (record["review"]["status"], record["review"]["score"], record["review"]["reviewer"]) == (
        "accepted",
        0.75,
        "me",
    )
    assert record["review"]["at"] == AT.isoformat().replace("+00:00", "Z")
    assert to_item({**record, "image": {**record["image"], "file": "a.png"}}, tmp_path) == item


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "hart.label/3"},
        {"image": {"file": "../a.png"}},
        {"image": 3},
        {"boxes": [{"xyxy": [1, 2, 3], "label": ""}]},
        {"boxes": [{"xyxy": [1, 2, float("nan"), 4], "label": ""}]},
        {"boxes": [[1, 2, 3, 4]]},
        {"review": []},
        {"review": {"revision": -1}},
        {"history": None},
        {"item_id": "../../x"},
        {"choices": ["one"]},
        {"question": " "},
    ],
)
def test_a_bad_line_is_counted(change: dict[str, Any], tmp_path: Path) -> None:
    good = to_record(make_item(draw_image(tmp_path / "in" / "a.png"), [(1, 2, 3, 4)]), "a.png")
    draw_image(tmp_path / "a.png")
    (tmp_path / "in" / "labels.jsonl").write_text(f"{json.dumps({**good, **change})}\n{json.dumps(good)}\n[\n")
    loaded = load_native(tmp_path / "in")
    assert len(loaded.samples) == 1 and [bad.row for bad in loaded.invalid_rows] == ["line 1", "line 3"]


def test_records_are_counted(tmp_path: Path) -> None:
    file = saved([make_item(draw_image(tmp_path / "a.png"))], tmp_path)
    check_records(file, 1)
    with pytest.raises(DataError, match=r"labels\.jsonl has 1 records instead of 2"):
        check_records(file, 2)
    file.write_text("{}\n")
    with pytest.raises(DataError, match="missing field 'schema'"):
        check_records(file, 1)


def test_records_are_read_line_by_line_and_may_be_larger_than_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw_image(tmp_path / "a.png")
    file = saved([make_item(path, [], f"Question {number}?") for number in range(20)], tmp_path)
    monkeypatch.setattr(reading, "MAX_DOCUMENT_BYTES", 2000)
    assert file.stat().st_size > 2000
    check_records(file, 20)
    assert len(load_items(file, ImportOptions(image_root=tmp_path))[0]) == 20
    monkeypatch.setattr(reading, "read_lines", partial(read_lines, max_bytes=2000))
    with file.open("ab") as target:
        target.write(b'{"x": "' + b"x" * 3000 + b'"}\n')
    items, loaded = load_items(file, ImportOptions(image_root=tmp_path))
    assert len(items) == 20
    assert [bad.row for bad in loaded.invalid_rows] == ["line 21"] and "line is longer than" in loaded.invalid_rows[
        0
    ].reason
    with pytest.raises(DataError, match="line is longer than"):
        check_records(file, 20)


def test_options_of_the_plan_hold(tmp_path: Path) -> None:
    assert ExportOptions().statuses == ("auto_accepted", "accepted", "edited")
    with pytest.raises(DataError):
        load_native(tmp_path / "missing")
