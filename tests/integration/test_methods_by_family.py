"""Two steps of each method and family, with random weights, alternating full training and LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hart_studio.training import hart_trainer
from hart_studio.training.train import run
from tests.integration.test_training_run import losses, start
from tests.integration.training_runs import ScriptedPolicy, small_config, write_jsonl
from tests.tiny_models import FAMILY_KEYS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # peft asks transformers in a way that transformers is about to retire.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


METHOD_KEYS = ("ap_grpo", "mgpo", "grpo", "sft")


def make_cases() -> list[Any]:
    """All pairs of a family, a method and LoRA; the first family's are in the default tier."""
    return [
        pytest.param(key, method, ("off", "on")[(row + column) % 2], marks=[pytest.mark.core] if row == 0 else [])
        for row, key in enumerate(FAMILY_KEYS)
        for column, method in enumerate(METHOD_KEYS)
    ]


@pytest.mark.parametrize(("key", "method", "lora"), make_cases())
def test_two_steps(
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    method: str,
    lora: str,
) -> None:
    monkeypatch.setattr(hart_trainer, "TrainableModel", ScriptedPolicy)
    options: dict[str, Any] = {"lora": lora, "gradient_checkpointing": lora}
    config = small_config(
        tiny_folder(key),
        method,
        model=options,
        data={"source": "jsonl", "path": str(write_jsonl(tmp_path / "data", 8))},
    )
    layout = start(config, tmp_path)
    result = run(config, layout.folder)
    assert result.model is not None and (result.model / ("adapter_model.safetensors" if lora == "on" else "")).exists()
    steps = losses(layout)
    assert [step for step, *_ in steps] == [1, 2]
    assert all(loss is not None and norm is not None for _, loss, norm in steps)
    assert any(norm for _, _, norm in steps), "nothing was learned from"
    assert torch.isfinite(torch.tensor([loss for _, loss, _ in steps])).all()
