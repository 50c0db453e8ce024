"""A read-only page reveals no path of its machine, wherever its data contains one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hart_studio.files import write_json
from hart_studio.runs.layout import RunLayout, make_run_id
from hart_studio.ui.security.path_redaction import redact_absolute_paths
from tests.attacks.targets import Target, leaks
from tests.browser.run_pages import write_run
from tests.evaluations import make_record, write_evaluation

pytestmark = pytest.mark.integration
PLACES = ("/srv/private/weights", "/home/someone/data/a.png", "C:\\Users\\bob\\x.json", "/opt/lab/model-7b")


@pytest.fixture(scope="module")
def reported(closed_target: Target) -> Iterator[Target]:
    """The read-only server, with paths in all texts of a run and an evaluation."""
    root = closed_target.root / "runs"
    words = f"cannot read {PLACES[0]}/config.json of {closed_target.root}/runs; see {PLACES[2]}"
    image = closed_target.root / "images" / "street.png"
    records = [
        make_record(0, image, answers={}, boxes=(), error=f"OSError: {words}"),
        make_record(1, Path("/srv/private/gone/image.png")),
        make_record(2, image),
    ]
    layout = write_evaluation(root, records, total=5, model=PLACES[3], path=PLACES[0], title=PLACES[3])
    events = layout.events.read_text().replace("q999: the image is missing", json.dumps(words)[1:-1])
    layout.events.write_text(events)
    fail(layout, words)
    run = write_run(root, "from elsewhere", text=words, data={"source": "jsonl", "path": PLACES[1]})
    fail(run, words)
    run.logs.mkdir(exist_ok=True)
    run.log_of(1).write_text(f'Failed:\n  at "{PLACES[0]}/x.py"\n{words}\n')
    broken = RunLayout(root / make_run_id("evaluation", datetime(2026, 1, 3, tzinfo=UTC)))
    broken.folder.mkdir()
    broken.status.write_text("{}")
    yield closed_target


def fail(layout: RunLayout, words: str) -> None:
    status = json.loads(layout.status.read_text())
    write_json(layout.status, {**status, "state": "failed", "error": words})


def answers_of(target: Target) -> Iterator[tuple[str, str]]:
    """(request, response) of all requests that a read-only page may send."""
    runs = [folder.name for folder in (target.root / "runs").iterdir() if folder.is_dir()]
    samples = ["q000", "q001", "q002", "q1", "held"]
    asked: list[tuple[str, dict[str, Any]]] = [("list_runs", {}), ("evaluations", {}), ("projects", {})]
    for run in [*runs, "20260101-000000-gone-abcdef"]:
        asked += [("poll", {"run": run}), ("compare", {"runs": [run]}), ("tables", {"runs": [run]})]
        asked += [
            ("report", {"runs": [run]}),
            ("rollouts", {"run": run, "step": 1}),
            ("rollouts", {"run": run, "step": 9}),
        ]
        asked += [("failures", {"run": run, "protocol": "crops_only"}), ("gold_boxes", {"run": run, "sample": "q1"})]
        asked += [("failure", {"run": run, "sample": sample}) for sample in samples]
    asked += [
        (name, {"project": each}) for name in ("quality", "invalid_rows", "list_items") for each in ("signs", "none")
    ]
    with httpx.Client() as client:
        for name, data in asked:
            # Both lists of runs have their own poll; the label page is called with a project id.
            yield f"{name} {data}", target.call(name, data, client).text


def test_no_answer_names_a_folder(reported: Target) -> None:
    found = list(answers_of(reported))
    everything = " ".join(answer for _, answer in found)
    assert "config.json" in everything and "model-7b" in everything, "the data says where it comes from"
    for asked, answer in found:
        plain = answer.replace("\\\\", "\\")
        assert leaks(answer, reported) == [], (asked, answer[:2000])
        assert not [place for place in (*PLACES, "/srv/", "/home/someone", "Users\\bob") if place in plain], asked


def test_the_page_itself_names_no_folder(reported: Target) -> None:
    page = httpx.get(reported.url).text + httpx.get(f"{reported.url}config").text
    assert leaks(page, reported) == []


def test_a_report_to_take_away_names_no_folder(reported: Target) -> None:
    rows = reported.call("evaluations", {}).json()["evaluations"]
    run = next(row["id"] for row in rows if row["title"] == "model-7b")
    folder = (reported.cache / "work" / reported.call("report", {"runs": [run]}).json()["page"]).parent
    texts = [path for path in folder.rglob("*") if path.suffix in {".html", ".md", ".csv", ".json", ".svg", ".tex"}]
    assert texts
    for path in texts:
        assert leaks(path.read_text("utf-8"), reported) == [], path.name
        assert not [place for place in PLACES if place in path.read_text("utf-8")], path.name


def test_events_of_a_closed_page_name_no_folder(reported: Target) -> None:
    run = reported.call("evaluations", {}).json()["evaluations"][0]["id"]
    uploaded = reported.upload("settings.json", json.dumps({"model": {"id": 7}}).encode()).json()[0]
    file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    for number, function in reported.app.fns.items():
        answer = reported.trigger(number, [file] * len(function.inputs), {"run": run, "sample": "q002", "step": 1})
        assert leaks(answer, reported) == [], (function.name, answer[:2000])
        assert not [place for place in PLACES if place in answer], function.name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("expected a run in /srv/lab/runs, got 'x'", "expected a run in runs, got 'x'"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "x.py", line 3'),
        ("PosixPath('/a/b')", "PosixPath('b')"),
        ("path:/srv/a/b", "path:b"),
        ("C:\\Users\\bob\\x.png and \\\\server\\share\\y", "x.png and y"),
        ("file:///etc/passwd ~/keys/id", "passwd id"),
        ("http://www.w3.org/2000/svg </g></svg>", "http://www.w3.org/2000/svg </g></svg>"),
        ("Qwen/Qwen2.5-VL and a/b/c, 5 / 3, and/or", "Qwen/Qwen2.5-VL and a/b/c, 5 / 3, and/or"),
    ],
)
def test_places_are_their_last_part(text: str, shown: str) -> None:
    assert redact_absolute_paths({"a": [text, 1, None, True]}) == {"a": [shown, 1, None, True]}


def test_long_text_is_searched_in_no_time() -> None:
    for text in ("/a" * 200_000, "/" * 200_000, "\\" * 200_000, "a/" * 200_000, "~" * 200_000, "C:/" * 100_000):
        assert isinstance(redact_absolute_paths(text), str)
    assert re.search("b$", redact_absolute_paths("/a" * 1000 + "/b"))
