"""Preflight checks: every injected fault is found, with advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hart_studio.records import GoldSample
from hart_studio.runs.config import RunConfig
from hart_studio.runs.overrides import apply_overrides
from hart_studio.runs.presets import PRESETS
from hart_studio.training import __main__ as command
from hart_studio.training import preflight
from hart_studio.training.preflight import Finding, check_run

CPU = torch.device("cpu")
SMALL = ["data.rl_samples=4", "data.sft_samples=0", "data.eval_samples=2", "data.needle_samples=6"]


def config(*changes: str) -> RunConfig:
    return apply_overrides(PRESETS["cpu-demo"].config, [*SMALL, *changes])


def check(tmp_path: Path, *changes: str, processes: int = 1) -> dict[str, Finding]:
    """The findings by topic; the worst of each."""
    order = {"good": 0, "check": 1, "bad": 2}
    found: dict[str, Finding] = {}
    for finding in check_run(config(*changes), tmp_path / "runs", CPU, processes):
        if finding.topic not in found or order[finding.state] > order[found[finding.topic].state]:
            found[finding.topic] = finding
    return found


def jsonl(tmp_path: Path, rows: list[dict[str, Any]], images: int) -> list[str]:
    for number in range(images):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data.source=jsonl", f"data.path={tmp_path / 'samples.jsonl'}"]


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    base = {"question": "Which?", "choices": ["red", "blue"], "answer": "A"}
    return [{"id": str(number), "image": f"{number}.png", **base, **changes} for number in range(count)]


def test_a_run_that_would_work_is_good_everywhere(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert list(found) == [
        "Settings", "Folder of runs", "Model", "Device", "Memory", "Disk",
        "Samples", "Gold boxes", "Images", "Answers", "Reward",
    ]  # fmt: skip
    assert {finding.state for finding in found.values()} == {"good"}
    assert "2 held-out questions have gold boxes" in found["Gold boxes"].text
    assert not (tmp_path / "runs").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("changes", "processes", "topic", "state", "text"),
    [
        (["schedule.rl_batch_size=8", "schedule.rl_micro_batch_size=8"], 3, "Settings", "bad", "3 processes"),
        (["method.area_penalty_weight=1"], 1, "Settings", "bad", "preference_scale"),
        (["method.beta=0"], 1, "Settings", "check", "method.beta is 0"),
        (["model.device=cuda"], 1, "Device", "bad", "no such GPU is available"),
        (["model.device=mps"], 1, "Device", "bad", "no such GPU is available"),
        (["model.id=owner/nothing"], 1, "Model", "check", "not on this machine"),
        (["data.source=jsonl", "data.path=/no/such/file"], 1, "Samples", "bad", "/no/such/file"),
        (["data.source=hf", "data.path=owner/nothing"], 1, "Samples", "check", "would be downloaded"),
    ],
)
def test_a_fault_is_named(
    tmp_path: Path, changes: list[str], processes: int, topic: str, state: str, text: str
) -> None:
    found = check(tmp_path, *changes, processes=processes)[topic]
    assert (found.state, text in found.text, bool(found.advice)) == (state, True, True), found


def test_a_model_of_no_supported_family(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    found = check(tmp_path, f"model.id={tmp_path / 'model'}")["Model"]
    assert found.state == "bad" and "gpt2" in found.text


def test_too_few_samples(tmp_path: Path) -> None:
    found = check(tmp_path, *jsonl(tmp_path, rows(5), images=5))["Samples"]
    assert found.state == "bad" and "data.rl_samples" in found.advice


def test_rows_that_are_none_are_counted(tmp_path: Path) -> None:
    found = check(tmp_path, *jsonl(tmp_path, [*rows(6), *rows(1, id="x", answer="Z")], images=6))["Samples"]
    assert found.state == "check" and "1 of 7 rows of " in found.text and "are dropped: 1 x " in found.text


def test_reasons_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    bad = [rows(1, id=f"x{number}", answer=letter)[0] for number, letter in enumerate("ZYXWVUT")]
    changes = jsonl(tmp_path, [*rows(6), *bad], images=6)
    texts = [found.text for found in check_run(config(*changes), tmp_path / "runs", CPU, 1) if found.topic == "Samples"]
    (text,) = [text for text in texts if "7 of 13 rows" in text]
    assert text.count("1 x ") == 5 and text.endswith("and 2 other reasons")


@pytest.mark.parametrize(("images", "state"), [(0, "bad"), (3, "check"), (6, "good")])
def test_images_are_opened(tmp_path: Path, images: int, state: str) -> None:
    changes = jsonl(tmp_path, rows(6), images=6)
    for number in range(images, 6):
        (tmp_path / f"{number}.png").write_bytes(b"not an image")
    assert check(tmp_path, *changes)["Images"].state == state


def test_an_answer_that_cannot_be_earned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "score_answer", lambda *_: type("S", (), {"value": 0.0}))
    found = check(tmp_path)["Reward"]
    assert found.state == "bad" and "correct answer gets reward 0.0" in found.text


def test_a_true_box_in_training_is_a_fault_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = preflight.split_config

    def leak(*given: Any) -> Any:
        found = split(*given)
        seen = [GoldSample(**sample.model_dump(), gold_boxes=()) for sample in found.rl]
        return type(found)(**{**found.__dict__, "rl": seen})

    monkeypatch.setattr(preflight, "split_config", leak)
    assert check(tmp_path)["Gold boxes"].state == "bad"


@pytest.mark.parametrize(("free", "state"), [(None, "check"), (10, "bad"), (70_000_000, "check"), (10**12, "good")])
def test_memory_is_compared_with_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, state: str
) -> None:
    monkeypatch.setattr(preflight, "free_memory", lambda _: free)
    assert check(tmp_path)["Memory"].state == state


def test_disk_is_compared_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000}))
    found = check(tmp_path)["Disk"]
    assert found.state == "bad" and "save_total_limit" in found.advice


def test_a_folder_of_runs_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert check(tmp_path)["Folder of runs"].state == "bad"


def test_the_command_prints_findings_and_says_no_by_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [part for change in SMALL for part in ("--set", change)]
    argv = ["--preflight", "--runs-root", str(tmp_path / "runs"), *changes]
    assert command.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("ok    Settings: 60 steps")
    assert command.main([*argv, "--json", "--set", "data.source=jsonl", "--set", "data.path=/none"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"topic", "state", "text", "advice"} == set(lines[0])
    assert [line["topic"] for line in lines if line["state"] == "bad"] == ["Samples"]


def test_every_state_of_a_finding_is_printed() -> None:
    assert set(command._STATE_LABELS) == {"good", "check", "bad"}
