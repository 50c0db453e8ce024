"""Command ``python -m hart_studio.data``: list, download from a Hub on loopback, and check."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants  # noqa: F401 - the attribute exists once the module is imported
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.data.__main__ import main
from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.data.benchmarks.images import CACHE_VARIABLE
from hart_studio.data.benchmarks.published_counts import get_facts
from tests.benchmark_files import COUNTS, WRITERS
from tests.examples import example_count
from tests.repository_hub import serve_repositories


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_published_categories_add_up() -> None:
    for name, benchmark in BENCHMARKS.items():
        categories = get_facts(name).categories
        assert not categories or sum(categories.values()) == benchmark.expected, name


def test_the_list_has_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(BENCHMARKS)
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["data_sets"]
    lite = next(each for each in found if each["name"] == "mme_realworld_lite")
    assert (lite["questions"], lite["license"]) == (1919, "academic use only")


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_check_counts_the_rows_of_every_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "data").mkdir()
    WRITERS[name](tmp_path / "data")
    valid, dropped = COUNTS[name]
    code = main(["check", str(tmp_path / "data"), "--benchmark", name, "--json"])
    assert code == (1 if dropped else 0)
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["valid"], found["is_usable"]) == (valid + dropped, valid, not dropped)
    assert sum(each["count"] for each in found["dropped"]) == dropped
    assert found["published"] == BENCHMARKS[name].expected


def test_a_check_names_reasons_rows_and_categories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = WRITERS["treebench"](tmp_path)
    assert main(["check", str(path)]) == 1, "the benchmark is detected"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "TreeBench: 7 rows read, 1 dropped (14.3 %)"
    assert lines[1].startswith("  1 x ") and lines[1].endswith(" (line 35)")
    assert lines[2] == "questions: 6 of 405 published"
    assert "  Perception/OCR: 1 of 68  differs" in lines
    assert lines[-1] == "More than 1 % of the rows are dropped: an evaluation needs --allow-dropped."
    assert main(["check", str(path), "--limit", "6"]) == 0
    assert capsys.readouterr().out == "TreeBench: 6 rows read, 0 dropped (0.0 %)\n"


def test_what_cannot_be_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tsv").write_text("index\timage\n1\t2\n")
    assert main(["check", str(tmp_path / "a.tsv")]) == 1
    assert "No benchmark's format reads" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "a.tsv"), "--benchmark", "treebench"]) == 1
    assert "No valid rows in TreeBench: 1 rows: the image is that of row '2', which" in capsys.readouterr().err
    assert main(["check", "treebench"]) == 2
    assert "Run: python -m hart_studio.data download treebench" in capsys.readouterr().err


def test_formats_that_several_benchmarks_share_are_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("named", "other"):
        (tmp_path / name).mkdir()
    assert main(["check", str(WRITERS["mme_realworld"](tmp_path / "named"))]) == 0
    assert capsys.readouterr().out.startswith("MME-RealWorld: 6 rows read, 0 dropped")
    assert main(["check", str(WRITERS["mme_realworld_train"](tmp_path / "other"))]) == 2
    assert "can be mme_realworld, mme_realworld_lite, mme_realworld_train. Choose" in capsys.readouterr().err


def test_a_download_is_resumed_and_then_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = WRITERS["treebench"](tmp_path).read_bytes()
    with serve_repositories(monkeypatch, tmp_path / "hub") as hub:
        hub.repositories["datasets/HaochenWang/TreeBench"] = {"TreeBench.tsv": content, "other.bin": b"0" * 5000}
        hub.cards["datasets/HaochenWang/TreeBench"] = {"license": "apache-2.0"}
        hub.breaks["TreeBench.tsv"] = len(content) // 2
        assert main(["download", "treebench"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("HaochenWang/TreeBench: 1 files, ") and "license: apache-2.0" in out
        folder = Path(out.splitlines()[-2].removeprefix("done: "))
        assert (folder / "TreeBench.tsv").read_bytes() == content and not (folder / "other.bin").exists()
        assert main(["download", "treebench", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["bytes"] == len(content)
    assert main(["check", "treebench"]) == 1
    assert capsys.readouterr().out.startswith("TreeBench: 7 rows read, 1 dropped")


def test_what_the_hub_does_not_have_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "needle"]) == 2
    assert main(["download", "gone"]) == 2
    assert "Unknown benchmark 'gone'" in capsys.readouterr().err


@settings(max_examples=example_count(30), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["tsv", "json", "jsonl", "parquet"]))
def test_any_file_is_checked_without_an_unexpected_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    assert main(["check", str(path)]) in (0, 1, 2)
