import json
from pathlib import Path

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.needle import read_needle_row
from hart_studio.data.sources import load_needle
from tests.benchmark_files import write_needle


def test_a_row_is_what_the_other_reader_makes_of_it(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (write_needle(tmp_path) / "samples.jsonl").read_text().splitlines()]
    samples = tuple(read_needle_row(row, ImageResolver(tmp_path)) for row in rows)
    assert samples == load_needle(tmp_path).samples
    assert {sample.category for sample in samples} == {"detail", "gist"}
    assert all(sample.gold_boxes for sample in samples)
