"""Parquet files built to exhaust memory: refused with the limit in the message, or read within it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hart_studio.data import parquet_rows
from hart_studio.data.parquet_rows import measure_pages, open_parquet
from hart_studio.data.tables import read_rows
from hart_studio.errors import DataError
from hart_studio.files import open_regular_file


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_are_measured(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = [f"value {number % 50}" for number in range(10_000)]
    pq.write_table(pa.table({"text": values}), path, data_page_version=version, data_page_size=1024, compression="zstd")
    column = pq.read_metadata(path).row_group(0).column(0)
    with open_regular_file(path) as file:
        found = measure_pages(file, column.dictionary_page_offset, column.total_compressed_size)
    assert found.values == 10_000
    assert found.dictionary_bytes == sum(4 + len(value) for value in set(values))
    assert 0 < found.largest_page_bytes < 10_000
    assert 0 < found.packed_bytes < column.total_compressed_size


@pytest.mark.parametrize(
    "data", [b"\xff" * 100, b"\x15\x04", b"\0" * 50, b"\x1c" * 200, b"\x19\xfc\xff\xff\xff\x0f" * 20]
)
def test_other_bytes_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with open_regular_file(tmp_path / "a") as file, pytest.raises(DataError):
        measure_pages(file, 0, len(data))


MOST_MIB = 700
"""Allowed additional memory of one file."""
_PROBE = """
import resource, sys
from pathlib import Path
from hart_studio.data import parquet_rows
from hart_studio.data.tables import read_rows
from hart_studio.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(sum(isinstance(row, dict) for _, row in read_rows(Path(sys.argv[1]))), "rows")
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def write_bomb(kind: str, path: Path) -> Path:
    """A file of some kilobytes that a plain reader unpacks to 1 GB and more."""
    text = "y" * 1_000_000
    image = pa.array(["a.png"])
    if kind == "cell":
        table = pa.table({"image": image, "question": ["x" * 150_000_000]})
    elif kind == "list":
        count = 65_000_000
        table = pa.table({"image": image, "question": pa.ListArray.from_arrays([0, count], pa.array(np.zeros(count)))})
    elif kind == "list of texts":
        count = 1500
        repeated = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))
        table = pa.table({"image": image, "question": pa.ListArray.from_arrays([0, count], repeated)})
    else:
        repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([text]))
        table = pa.table({"image": pa.array(["a.png"] * 2000), "question": repeated})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cell", "decompressed bytes in the pages"),
        ("list", "values in the lists"),
        ("list of texts", "0 rows"),
        ("repeated text", "2000 rows"),
    ],
)
def test_a_bomb_stays_within_the_memory(kind: str, message: str, tmp_path: Path) -> None:
    path = write_bomb(kind, tmp_path / "bomb.parquet")
    assert path.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", _PROBE, str(path)], capture_output=True, text=True, check=True)
    said, added = done.stdout.strip().rsplit("\n", 1)
    assert message in said
    assert int(added) < MOST_MIB


def test_metadata_that_lies_about_the_size_is_not_believed(tmp_path: Path) -> None:
    """The total in the metadata is made small; the page headers have the real sizes, which are summed."""
    path = tmp_path / "liar.parquet"
    size = 200_000_000
    pq.write_table(pa.table({"question": ["x" * size]}), path, compression="zstd", use_dictionary=False)
    honest = pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size

    def varint(number: int) -> bytes:
        number *= 2
        parts = []
        while number > 127:
            parts.append(number & 127 | 128)
            number >>= 7
        return bytes([*parts, number])

    data = path.read_bytes()
    lie = bytes([0xA4, *[0x80] * (len(varint(honest)) - 2), 0])
    path.write_bytes(data.replace(varint(honest), lie))
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size < 100
    with pytest.raises(DataError, match="bytes in the pages of a row group"):
        open_parquet(path)


def test_a_large_row_is_a_bad_one_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "MAX_CELL_BYTES", 10_000)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["a", "b" * 20_000, "c"]}), path)
    rows = [row for _, row in read_rows(path)]
    assert rows[0] == {"id": 1, "text": "a"}
    assert isinstance(rows[1], ValueError)
    assert rows[2] == {"id": 3, "text": "c"}


def test_nested_columns_come_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": b"\x89PNG", "path": None}, "boxes": [[1.0, 2.0], []], "choices": ["a", "b"], "more": None},
        {"image": {"bytes": None, "path": "x"}, "boxes": None, "choices": [], "more": {"n": 3}},
    ]
    path = tmp_path / "nested.parquet"
    for version in ("1.0", "2.0"):
        pq.write_table(pa.Table.from_pylist(rows), path, data_page_version=version)
        assert [row for _, row in read_rows(path)] == rows


def test_rows_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "MAX_ROWS", 2)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3]}), path)
    with pytest.raises(DataError, match="at most 2 are allowed"):
        open_parquet(path)


@pytest.mark.parametrize("cut", [4, 12, 40, 100, -8, -20])
def test_damaged_files_are_named(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "torn.parquet"
    pq.write_table(pa.table({"id": list(range(100))}), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="Parquet"):
        list(read_rows(path))
