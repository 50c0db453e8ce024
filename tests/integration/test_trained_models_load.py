"""Trained models: loaded by this project, by transformers and PEFT, and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from hart_studio import ask
from hart_studio.models.loading import load_model
from hart_studio.runs.writer import create_run
from hart_studio.training import hart_trainer, merging
from hart_studio.training.train import run
from tests.integration.training_runs import ScriptedPolicy, small_config, write_jsonl
from tests.tiny_models import build_tiny

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


class Trained(NamedTuple):
    base: Path
    runs_root: Path
    run_id: str
    model: Path
    image: Path


def train(root: Path, lora: str) -> Trained:
    base = build_tiny("qwen2_5_vl", root / "base")
    data = write_jsonl(root / "data", 8)
    config = small_config(base, data={"source": "jsonl", "path": str(data)}, model={"lora": lora})
    layout = create_run(root / "runs", "training", config, config.method.stages, config.total_steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hart_trainer, "TrainableModel", ScriptedPolicy)
        result = run(config, layout.folder)
    assert result.model == layout.folder / "model"
    return Trained(base, root / "runs", layout.run_id, result.model, root / "data" / "0.png")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("adapters"), "on")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("whole"), "off")


def plain(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()


@torch.no_grad()
def logits(model: Any, trained: Trained) -> torch.Tensor:
    """Logits of an image and a question, with the processor of transformers."""
    processor = AutoProcessor.from_pretrained(trained.base, local_files_only=True)
    content = [{"type": "image"}, {"type": "text", "text": "Which?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    with Image.open(trained.image) as image:
        inputs = processor(text=[text], images=[image.convert("RGB")], return_tensors="pt")
    found: torch.Tensor = model(**inputs).logits
    return found


def ask_it(model: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    flags = ["--choice", "red", "--choice", "blue", "--protocol", "direct", "--json", "--device", "cpu"]
    assert ask.main([str(image), "Which?", "--model", str(model), *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_adapters_are_one_function_however_they_are_loaded(adapters: Trained, tmp_path: Path) -> None:
    settings = json.loads((adapters.model / "adapter_config.json").read_text())
    assert Path(settings["base_model_name_or_path"]) == adapters.base.resolve()
    by_peft = logits(PeftModel.from_pretrained(plain(adapters.base), adapters.model).eval(), adapters)
    own = logits(load_model(str(adapters.model), device="cpu").model, adapters)
    out = tmp_path / "merged"
    assert merging.main([adapters.run_id, "--runs-root", str(adapters.runs_root), "--out", str(out)]) == 0
    merged = logits(plain(out), adapters)
    untrained = logits(plain(adapters.base), adapters)
    moved = float((by_peft - untrained).abs().max())
    assert moved > 1e-3, "the run has trained nothing"
    assert float((own - by_peft).abs().max()) < 0.01 * moved
    assert torch.equal(merged, own)
    assert not list(out.glob("adapter*")) and [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_ask_command_takes_adapters_and_merged_models(
    adapters: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    folder = adapters.runs_root / adapters.run_id
    assert merging.main([str(folder), "--out", str(out), "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert plain(out).dtype == torch.bfloat16
    for model in (adapters.model, out):
        assert ask_it(model, adapters.image, capsys)["protocols"].keys() == {"direct"}


def test_a_whole_model_loads_and_needs_no_merging(
    whole: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask_it(whole.model, whole.image, capsys)["protocols"].keys() == {"direct"}
    found = logits(plain(whole.model), whole)
    assert torch.equal(found, logits(load_model(str(whole.model), device="cpu").model, whole))
    assert float((found - logits(plain(whole.base), whole)).abs().max()) > 1e-3, "the run has trained nothing"
    assert merging.main([str(whole.model), "--out", str(tmp_path / "merged")]) == 2
    assert "Use it directly" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert merging.main([str(whole.model), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    half = plain(tmp_path / "half")
    assert half.dtype == torch.bfloat16
    for name, weight in plain(whole.model).state_dict().items():
        assert torch.equal(half.state_dict()[name], weight.to(torch.bfloat16)), name


def test_what_cannot_be_merged_is_said(adapters: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    for arguments, reason in (
        ([str(adapters.model), "--out", str(taken)], "is not empty"),
        ([str(tmp_path), "--out", str(tmp_path / "new")], "give one of its checkpoints"),
        (
            ["20260101-000000-sft-abcdef", "--runs-root", str(tmp_path), "--out", str(tmp_path / "new")],
            "There is no run",
        ),
    ):
        assert merging.main(arguments) == 2
        assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine.txt"]
