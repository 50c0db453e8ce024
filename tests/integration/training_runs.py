"""Small training runs: images and questions, settings, and a policy with deterministic output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hart_studio.algorithms.methods import METHODS
from hart_studio.geometry import BoxFrame
from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.inputs import images_of
from hart_studio.models.loading import load_model
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig
from hart_studio.training.checkpoints import Stage
from hart_studio.training.hart_trainer import HartTrainer
from hart_studio.training.initial_model import lora_config
from hart_studio.training.trainable_model import TrainableModel
from hart_studio.training.trl_args import rl_args
from tests.fakes import text_of, turn_kind

CPU = torch.device("cpu")


def small_config(folder: Path, stages: str = "ap_grpo", **sections: dict[str, Any]) -> RunConfig:
    """Settings of a short run; ``sections`` continue top."""
    values: dict[str, dict[str, Any]] = {
        "model": {"id": str(folder), "device": "cpu"},
        "data": {"rl_samples": 4, "sft_samples": 4, "eval_samples": 0, "needle_samples": 12},
        "rollout": {"group_size": 4, "max_grounding_tokens": 48, "max_answer_tokens": 16},
        "method": {"stages": stages},
        "optim": {"learning_rate": 1e-3, "sft_learning_rate": 1e-3},
        "schedule": {
            "rl_steps": 2,
            "sft_steps": 2,
            "rl_batch_size": 2,
            "rl_micro_batch_size": 1,
            "sft_batch_size": 2,
            "sft_micro_batch_size": 1,
            "save_steps": 0,
            "rollout_log_steps": 0,
            "eval_steps": 0,
        },
    }
    for name, section in sections.items():
        values[name] = {**values[name], **section}
    return RunConfig.model_validate(values)


def make_samples(folder: Path, count: int = 4) -> list[Sample]:
    """Questions with two options over images of unequal sizes; the right answer is A."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for index in range(count):
        path = folder / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((240 + 40 * index, 200), Image.Resampling.BICUBIC).save(path)
        samples.append(
            Sample(id=f"s{index}", image=str(path), question=f"Which {index}?", choices=("red", "blue"), answer="A")
        )
    return samples


def write_jsonl(folder: Path, count: int = 8) -> Path:
    """The same questions as a file of samples with gold boxes."""
    lines = [
        json.dumps(
            {
                "id": sample.id,
                "image": Path(sample.image).name,
                "question": sample.question,
                "choices": list(sample.choices),
                "answer": sample.answer,
                "gold_boxes": [[10, 10, 60, 60]],
            }
        )
        for sample in make_samples(folder, count)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "samples.jsonl"


class ScriptedPolicy(TrainableModel):
    """Boxes and answers from a hash of the request, so that rewards differ and do not depend on the batch."""

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        return [[self._say(request, index) for index in range(group_size)] for request in requests]

    def _say(self, request: ChatRequest, index: int) -> Completion:
        images = images_of(request)
        sizes = tuple(self.encoder.process(one, is_alone=len(images) == 1).size_wh for one in images)
        key = f"{text_of(request)}:{index}:{[one.pixels.size for one in images]}"
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        text = self._point(number) if turn_kind(request) == "grounding" else f"\\boxed{{{'AB'[number % 2]}}}"
        ids = [*self.processor.tokenizer.encode(text, add_special_tokens=False), self.processor.tokenizer.eos_token_id]
        return Completion(text, "stop", 1, 1, len(ids), sizes, 0.0, tuple(ids))

    def _point(self, number: int) -> str:
        if number % 5 == 0:
            return "nowhere"
        low, wide = 5 + number % 17, 40 + number % 60
        if self.family.box_frame == BoxFrame.MODEL_PIXELS:
            return json.dumps([{"bbox_2d": [low, low, low + wide, low + wide], "label": "it"}])
        low, wide = 5 * low, 5 * wide
        if self.family.box_frame == BoxFrame.NORMALIZED_1000:
            return json.dumps([{"bbox_2d": [low, low, low + wide, low + wide], "label": "it"}])
        return str([low / 1000, low / 1000, (low + wide) / 1000, (low + wide) / 1000])


def make_trainer(
    config: RunConfig,
    samples: Sequence[Sample],
    output: Path,
    *,
    processes: int = 1,
    is_scripted: bool = True,
    **options: Any,
) -> HartTrainer:
    """A trainer of the first stage of a run, outside of a run."""
    method = METHODS[config.method.stage_names[0]]
    loaded = load_model(config.model.id, device="cpu", quantization=config.model.quantization)
    trainer = HartTrainer(
        loaded.model,
        loaded.processor,
        rl_args(
            config,
            output,
            CPU,
            processes=processes,
            uses_gradient_checkpointing=config.model.gradient_checkpointing == "on",
        ),
        method=method,
        config=config,
        stage=Stage(method.name, 0, config.schedule.rl_steps, None),
        samples=samples,
        peft_config=lora_config(config.model) if config.model.lora == "on" else None,
        **options,
    )
    if is_scripted:
        trainer.policy = ScriptedPolicy(trainer.model, loaded.processor, "scripted")
    return trainer


def disturb(model: torch.nn.Module, scale: float = 0.02) -> None:
    """Move every trained weight a little, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += scale * torch.randn(weight.shape, generator=generator)


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients, taken away from the model."""
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
