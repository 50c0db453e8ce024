"""The report on the Train tab agrees with the settings and with what is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import DataError, InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import PRESETS
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from hart_studio.ui.api.launch_summary import (
    THUMBNAIL_SIDE,
    describe_launch_error,
    find_data_problem,
    has_bad_finding,
    preview_samples,
    sample_key,
    stream_preflight,
    summarize_findings,
    summarize_launch,
)
from hart_studio.ui.pages.train import LaunchReport, SampleCards
from hart_studio.ui.pages.train_form import LaunchState, Preview


def config_of(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(sections)


def test_the_summary_names_model_data_and_counts() -> None:
    facts = dict(summarize_launch(LaunchRequest(PRESETS["cpu-demo"].config, "cpu-demo")).facts)
    assert facts["Model"] == "built-in (hart-tiny-base)"
    assert facts["Data"] == "needle scenes, 1,000 generated for the run"
    assert facts["Samples"] == "480 RL, 200 held out"
    paper = summarize_launch(LaunchRequest(PRESETS["qwen2.5-vl-7b-lora"].config, "qwen2.5-vl-7b-lora", (0, 1)))
    assert dict(paper.facts)["Data"] == "MME-RealWorld folder: data/MME-RealWorld"
    assert dict(paper.facts)["Samples"] == "10,000 RL, all other samples for SFT, 200 held out"
    assert dict(paper.facts)["Device"] == "2 GPUs" and paper.notes == ()
    sft = summarize_launch(LaunchRequest(config_of(method={"stages": "sft"}, data={"sft_samples": 9}), "cpu-demo"))
    assert dict(sft.facts)["Samples"] == "9 SFT, 200 held out" and "Rollouts per step" not in dict(sft.facts)


def test_a_model_and_data_that_do_not_go_together_are_noted(tmp_path: Path) -> None:
    large = summarize_launch(LaunchRequest(config_of(model={"id": "Qwen/Qwen2.5-VL-3B-Instruct"}), "cpu-demo"))
    assert "made for the built-in model" in large.notes[0]
    own = summarize_launch(LaunchRequest(config_of(model={"id": str(tmp_path)}), "cpu-demo"))
    assert own.notes == (), "a checkpoint of the built-in model is a folder"
    photographs = config_of(data={"source": "jsonl", "path": "my.jsonl"})
    assert "cannot read photographs" in summarize_launch(LaunchRequest(photographs, "cpu-demo")).notes[0]


def test_missing_data_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paper = PRESETS["qwen2.5-vl-7b-lora"].config
    assert find_data_problem(paper) == (
        "This preset needs your own dataset: data/MME-RealWorld does not exist. Choose a dataset under Data."
    )
    (tmp_path / "data" / "MME-RealWorld").mkdir(parents=True)
    assert find_data_problem(paper) == ""
    assert find_data_problem(PRESETS["cpu-demo"].config) == ""
    mine = config_of(data={"source": "jsonl", "path": "my.jsonl"})
    assert find_data_problem(mine) == "my.jsonl does not exist. Correct the path under Data."
    (tmp_path / "my.jsonl").touch()
    assert find_data_problem(mine) == ""
    assert "gone" in find_data_problem(config_of(data={"source": "jsonl", "path": "my.jsonl", "image_root": "gone"}))
    assert find_data_problem(config_of(data={"source": "hf", "path": "owner/name"})) == "", "may be on the hub"
    assert find_data_problem(config_of(data={"source": "hf", "path": "a/b/c"})) != ""
    assert find_data_problem(config_of(data={"source": "jsonl", "path": "x" * 900})) != "", "a name that is too long"


def test_the_key_of_samples_changes_with_what_decides_them() -> None:
    demo = PRESETS["cpu-demo"].config
    assert sample_key(demo) == sample_key(demo.model_copy(update={"name": "other"}))
    others = [PRESETS["qwen2.5-vl-7b-lora"].config, demo.model_copy(update={"seed": 1})]
    others.append(config_of(**{**demo.model_dump(), "method": {"stages": "sft"}}))
    assert len({sample_key(config) for config in [demo, *others]}) == 4


def test_findings_are_collected_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = {"topic": "Memory", "state": "check", "text": "little", "advice": "Lower rollout.group_size."}
    monkeypatch.setattr(
        RunLauncher, "check", lambda launcher, launch_request: iter([finding, {**finding, "state": "bad"}])
    )
    launcher = RunLauncher(tmp_path, is_open=False)
    states = list(stream_preflight(launcher, LaunchRequest(RunConfig(), "cpu-demo")))
    assert [len(state.findings) for state in states] == [0, 1, 2] and all(state.is_checking for state in states)
    assert states[1].findings[0]["advice"] == "Lower “Group size G”."
    assert [has_bad_finding(state) for state in states] == [False, False, True]
    assert summarize_findings(states[0]) == "Ready to start."
    assert summarize_findings(states[1]) == "Ready to start with 1 warning."
    assert summarize_findings(states[2]).startswith("Preflight failed.")


def test_a_refusal_says_why() -> None:
    assert describe_launch_error(InputError("data.path: gone")).problems == (("Dataset path", "gone"),)
    assert describe_launch_error(DataError("no rows")).problems == (("Samples", "no rows"),)
    unknown = describe_launch_error(RuntimeError("secret"))
    assert isinstance(unknown, LaunchState) and unknown.is_refused and "secret" not in unknown.outcome


def dataset_config(folder: Path, rows: list[dict[str, Any]], **counts: int) -> RunConfig:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "jsonl", "path": str(path), "rl_samples": 2, "sft_samples": 2, "eval_samples": 2, **counts}
    return RunConfig.model_validate({"data": data, "method": {"stages": "ap_grpo+sft"}})


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "image": "a.png", "question": "Which?", "choices": ["red", "blue"], "answer": "B", **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (2000, 1000), "green").save(tmp_path / "a.png")
    (tmp_path / "served").mkdir()
    return tmp_path


def test_some_of_every_part_are_shown(folder: Path) -> None:
    config = dataset_config(folder, [row(str(number), gold_boxes=[[0, 0, 9, 9]]) for number in range(6)])
    preview = preview_samples(config, folder / "served")
    assert preview.headline == "2 for RL, 2 for SFT, 2 held out" and preview.left_out == ()
    assert [card.part for card in preview.cards] == ["RL", "RL", "SFT", "SFT", "held out"]
    card = preview.cards[0]
    assert (card.question, card.choices, card.answer, card.problem) == ("Which?", ("red", "blue"), "B", "")
    assert card.image is not None
    with Image.open(card.image) as image:
        assert max(image.size) <= THUMBNAIL_SIDE
    assert not any("gold" in name for name in vars(card)), "a true box is no part of what training gets"


def test_rows_that_are_left_out_and_images_that_do_not_open_are_said(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    rows = [row(str(number), image="broken.png") for number in range(6)] + [row("x", answer="Z")]
    preview = preview_samples(dataset_config(folder, rows), folder / "served")
    assert len(preview.left_out) == 1 and preview.left_out[0].startswith("1 row skipped: ")
    assert all(card.image is None and "broken.png" in card.problem for card in preview.cards)


def test_reasons_that_are_not_listed_are_counted(folder: Path) -> None:
    rows = [row(str(number)) for number in range(6)] + [row(f"x{letter}", answer=letter) for letter in "ZYXWV"]
    preview = preview_samples(dataset_config(folder, rows), folder / "served")
    assert len(preview.left_out) == 4 and preview.left_out[-1] == "and 2 other reasons"


def test_an_image_that_was_repainted_is_shown_as_it_is_now(folder: Path) -> None:
    config = dataset_config(folder, [row(str(number)) for number in range(6)])
    before = preview_samples(config, folder / "served").cards[0].image
    Image.new("RGB", (2000, 1000), "red").save(folder / "a.png")
    after = preview_samples(config, folder / "served").cards[0].image
    assert before and after and before != after
    with Image.open(after) as image:
        assert image.getpixel((5, 5))[0] > 200  # type: ignore[index]


def test_a_source_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(InputError, match="Lower one of the counts"):
        preview_samples(dataset_config(folder, [row("a")]), folder / "served")
    config = dataset_config(folder, [row("a")])
    (folder / "samples.jsonl").unlink()
    with pytest.raises(DataError):
        preview_samples(config, folder / "served")


def test_what_the_displays_send_is_json(folder: Path) -> None:
    preview = preview_samples(dataset_config(folder, [row(str(number)) for number in range(6)]), folder / "served")
    shown = SampleCards().postprocess(preview)
    assert shown is not None and len(json.dumps(shown)) > 100 and shown["cards"][0]["image"]["path"].endswith(".jpg")
    assert SampleCards().postprocess(None) is None
    assert SampleCards().postprocess(Preview("none", (), ())) == {"headline": "none", "left_out": [], "cards": []}
    state = LaunchState("AP-GRPO", problems=(("Group size G", "too small"),), is_checking=True)
    assert json.loads(json.dumps(LaunchReport(state).postprocess(state)))["problems"] == [["Group size G", "too small"]]
