"""Program of the test of the full-size model: ``build FOLDER`` saves it, ``ask FOLDER`` loads it and asks once.

Its peak memory is that of its own process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hart_studio.models.loading import load_model
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Sample
from tests.fakes import PointingModel
from tests.tiny_models import BUILDERS

TEXT: Final = {
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11_008,
    "vocab_size": 151_936,
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
"""Language model of Qwen2.5-VL-3B, as its config.json states."""

VISION: Final = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
"""Vision tower of the same."""


def build(folder: Path) -> None:
    """Save the model with random bfloat16 weights and the processor of the tiny model, whose vocabulary is a part."""
    tiny, processor = BUILDERS["qwen2_5_vl"]()
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 12_845_056}  # as published
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = {name: getattr(tiny.config, name) for name in names}
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=True, **ids)
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0) if "norm" in name and name.endswith("weight") else weight.normal_(0, 0.02)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder, max_shard_size="2GB")
    processor.save_pretrained(folder)


def ask(folder: Path) -> dict[str, Any]:
    """Load it with the defaults, and run the closed loop on one image."""
    before = _memory("VmRSS")
    model = load_model(str(folder), device="cpu")
    loaded = _memory("VmHWM")
    path = folder / "image.png"
    Image.effect_noise((480, 320), 80).convert("RGB").save(path)
    sample = Sample(id="s", image=str(path), question="Which digit?", choices=("3", "7"), answer="B")
    settings = LoopSettings(temperature=1.0, seed=1, max_new_tokens=8)
    pointing = PointingModel(model, '[{"bbox_2d": [20, 20, 90, 80], "label": "digit"}]')
    (group,) = closed_loop.run(pointing, [sample], "crops_only", settings)
    (rollout,) = group.rollouts
    turn = rollout.answer_turn
    return {
        "dtype": str(model.model.dtype),
        "weights": model.model.num_parameters(),
        "before": before,
        "peak_loading": loaded,
        "peak": _memory("VmHWM"),
        "outcome": rollout.outcome,
        "crops": len(rollout.crops),
        "visual_tokens": turn.visual_tokens if turn else 0,
        "tokens": turn.completion_tokens if turn else 0,
    }


def _memory(field: str) -> int:
    """Memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak. Mapped weight files count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(Path(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps(ask(Path(sys.argv[2]))) + "\n")
