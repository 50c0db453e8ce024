from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.export_plan import ExportOptions, plan_export
from hart_studio.labeling.formats import hf_parquet
from hart_studio.labeling.formats.hf_parquet import features_of, load_hf_parquet, save_hf_parquet
from hart_studio.labeling.formats.reading import ImportOptions
from tests.labels import draw_image, make_item, make_plan


def test_shards_are_bounded_and_images_are_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [make_item(draw_image(tmp_path / "in" / f"{n}.png"), [(1, 2, 3, 4)]) for n in range(5)]
    size = max(Path(item.image.path).stat().st_size for item in items)
    monkeypatch.setattr(hf_parquet, "SHARD_BYTES", 2 * size)
    monkeypatch.setattr(hf_parquet, "GROUP_BYTES", size)
    save_hf_parquet(make_plan(items), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    first = pyarrow.parquet.ParquetFile(tmp_path / "out" / "data" / names[0])
    assert (first.metadata.num_rows, first.num_row_groups) == (2, 2)
    loaded = load_hf_parquet(tmp_path / "out", ImportOptions(image_cache=tmp_path / "cache"))
    kept = {Path(sample.image).read_bytes() for sample in loaded.samples}
    assert kept == {Path(item.image.path).read_bytes() for item in items}


def test_types_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    items = [make_item(draw_image(tmp_path / "in" / f"{n}.png"), [(1, 2, 3, 4)] if n == 0 else ()) for n in range(8)]
    save_hf_parquet(plan_export(items, ExportOptions(splits={"train": 0.5, "val": 0.5})), tmp_path / "out")
    schemas = [pyarrow.parquet.read_schema(file) for file in sorted((tmp_path / "out" / "data").iterdir())]
    assert len(schemas) == 2 and all(schema.equals(features_of(("sign",)).arrow_schema) for schema in schemas)


def test_a_place_for_images_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected image_cache"):
        load_hf_parquet(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PAR1" * 20, b"x" * 1000])
def test_what_is_no_parquet(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        load_hf_parquet(tmp_path, ImportOptions(image_cache=tmp_path / "cache"))


def test_other_tools_rows(tmp_path: Path) -> None:
    image = draw_image(tmp_path / "a.png").read_bytes()
    objects = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [3]}
    rows = [
        {"image": {"bytes": image, "path": "../../x.png"}, "objects": objects},
        {"image": {"bytes": None, "path": "a.png"}, "objects": objects},
        {"image": {"bytes": None, "path": "../a.png"}, "objects": objects},
        {"image": {"bytes": b"no image", "path": None}, "objects": objects},
        {"image": None, "objects": objects},
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    loaded = load_hf_parquet(tmp_path, ImportOptions(image_cache=tmp_path / "cache"))
    assert [sample.question for sample in loaded.samples] == ["Where is the 3?"] * 2
    assert len(loaded.invalid_rows) == 3
