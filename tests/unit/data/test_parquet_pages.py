"""Page headers: decompressed sizes, without decompressing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hart_studio.data.parquet_pages import measure_pages
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
