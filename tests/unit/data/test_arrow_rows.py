"""Arrow files: decompressed sizes are bounded, and truncated files do not crash the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hart_studio.data import arrow_rows, parquet_rows
from hart_studio.data.arrow_rows import read_arrow
from hart_studio.errors import DataError


def write(path: Path, columns: dict[str, pa.Array], *, rows_of_a_batch: int | None = None, **options: Any) -> Path:
    table = pa.table(columns)
    with pa.ipc.new_stream(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows_of_a_batch)
    return path


def make_list(values: pa.Array) -> pa.Array:
    """One row that holds all values."""
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def test_values_of_every_kind_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        {"a": n, "b": None, "c": [{"d": "x", "e": b"y"}] * (n % 3), "f": "red", "g": [("k", n)], "h": [None] * n}
        for n in range(11)
    ]
    kinds = {name: [row[name] for row in rows] for name in rows[0]}
    columns = {name: pa.array(kinds[name]) for name in "abch"}
    columns["f"] = pa.array(kinds["f"]).dictionary_encode()
    columns["g"] = pa.array(kinds["g"], pa.map_(pa.string(), pa.int64()))
    columns["i"] = pa.array([[n, n + 0.5] for n in range(11)], pa.list_(pa.float64(), 2))
    columns["j"] = pa.array([5, None] * 5 + [5]).dictionary_encode()
    found = list(read_arrow(write(tmp_path / "a.arrow", columns, rows_of_a_batch=7)))
    assert found == pa.table(columns).to_pylist()


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", {"x": pa.array([b"x" * 20_000] * 200)}, rows_of_a_batch=10)
    rows = read_arrow(path)
    next(rows)
    os.truncate(path, 1000)
    with pytest.raises(DataError, match="cannot be read as an Arrow file"):
        list(rows)


def test_a_file_is_never_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", {"x": pa.array([b"x" * 20_000] * 20)}, rows_of_a_batch=5)
    rows = read_arrow(path)
    next(rows)
    assert str(path) not in Path("/proc/self/maps").read_text()
    rows.close()  # type: ignore[attr-defined]


def test_rows_that_take_no_bytes_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", {"x": pa.nulls(20_000_000)})
    assert path.stat().st_size < 2000
    with pytest.raises(DataError, match=r"'a\.arrow' has 20,000,000 rows; at most 5,000,000 rows are allowed"):
        next(read_arrow(path))


def test_rows_of_all_batches_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "MAX_ROWS", 5)
    with pytest.raises(DataError, match="at most 5 rows"):
        next(read_arrow(write(tmp_path / "a.arrow", {"x": pa.array(range(6))}, rows_of_a_batch=2)))


def test_values_in_lists_that_take_no_bytes_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", {"x": make_list(pa.nulls(400_000_000))})
    with pytest.raises(DataError, match="values in the lists"):
        next(read_arrow(path))
    path = write(tmp_path / "a.arrow", {"x": make_list(pa.nulls(2_000_000))})
    (row,) = read_arrow(path)
    assert isinstance(row, ValueError) and "cells of at most 64 MiB" in str(row)


def test_a_dictionary_value_that_fills_a_row_many_times_is_a_bad_row(tmp_path: Path) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array(["x" * (1 << 20)]))
    (row,) = read_arrow(write(tmp_path / "a.arrow", {"x": make_list(values)}))
    assert isinstance(row, ValueError) and "cells of at most 64 MiB" in str(row)


def test_large_rows_are_bad_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "MAX_CELL_BYTES", 10_000)
    path = write(tmp_path / "a.arrow", {"x": pa.array([b"a", b"b" * 20_000, b"c"])})
    first, second, third = read_arrow(path)
    assert (first, third) == ({"x": b"a"}, {"x": b"c"})
    assert isinstance(second, ValueError)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["x"], pa.string_view()),
        pa.array([b"x"], pa.binary_view()),
        pa.array([["x"]], pa.list_view(pa.string())),
        pa.array([["x"]], pa.large_list_view(pa.string())),
        pa.array([[{"a": "x"}]], pa.list_(pa.struct([("a", pa.string_view())]))),
        pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array(["x"])).slice(0, 1),
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["x"])]),
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([["x"]])),
    ],
    ids=lambda values: str(values.type)[:20],
)
def test_types_whose_values_may_share_their_bytes_are_refused(tmp_path: Path, values: pa.Array) -> None:
    with pytest.raises(DataError, match="unsupported type"):
        next(read_arrow(write(tmp_path / "a.arrow", {"x": values})))


def test_lists_in_lists_without_end_are_refused(tmp_path: Path) -> None:
    kind = pa.string()
    for _ in range(40):
        kind = pa.list_(kind)
    with pytest.raises(DataError, match="more than 32 nested lists and structs"):
        next(read_arrow(write(tmp_path / "a.arrow", {"x": pa.array([None], kind)})))


def test_large_batches_and_dictionaries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.arrow", {"x": pa.array(["a" * 9000] * 5).dictionary_encode()})
    monkeypatch.setattr(arrow_rows, "MAX_UNPACKED_BYTES", 5000)
    with pytest.raises(DataError, match="bytes of dictionaries"):
        next(read_arrow(path))
    monkeypatch.setattr(arrow_rows, "MAX_BATCH_BYTES", 5000)
    with pytest.raises(DataError, match="bytes in a record batch"):
        next(read_arrow(path))


@pytest.mark.parametrize("offset", [6000, 2**31 - 1, -1])
def test_offsets_that_lead_out_of_the_data_are_refused(tmp_path: Path, offset: int) -> None:
    path = write(tmp_path / "a.arrow", {"x": pa.array(["x" * 4660])})
    whole = path.read_bytes()
    written, forged = (bytes(4) + each.to_bytes(4, "little", signed=True) for each in (4660, offset))
    place = whole.rindex(written)
    path.write_bytes(whole[:place] + forged + whole[place + len(forged) :])
    with pytest.raises(DataError, match="cannot be read as an Arrow file"):
        list(read_arrow(path))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_compressed_dictionaries_are_refused(tmp_path: Path, compression: str | None) -> None:
    values = pa.array(["a" * 9000] * 5).dictionary_encode()
    path = write(tmp_path / "a.arrow", {"x": values}, compression=compression)
    if compression is None:
        assert len(list(read_arrow(path))) == 5
    else:
        with pytest.raises(DataError, match="compressed"):
            next(read_arrow(path))


def test_any_damaged_byte_is_an_error_or_other_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", {"x": pa.array([["ab"], ["c"]]), "y": pa.array(["u", "v"]).dictionary_encode()})
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        for value in (0, 255):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                assert len(list(read_arrow(path))) < 100
            except DataError as error:
                assert "a.arrow" in str(error)
