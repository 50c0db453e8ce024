"""One process of a training run, started with the variables of a launcher: ``OUT FOLDER``; see ``test_processes``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors.torch import save_file

from hart_studio.models.loading import load_model
from hart_studio.training.checkpoints import Stage
from hart_studio.training.sft import SftTrainer
from hart_studio.training.trl_args import sft_args
from tests.integration.training_runs import CPU, make_samples, make_trainer, small_config


def main(out: Path, folder: Path) -> None:
    """Two steps of AP-GRPO and two of SFT over four samples, one of which is broken."""
    state = PartialState(cpu=True)
    config = small_config(folder, method={"stages": "ap_grpo+sft"})
    with state.main_process_first():
        samples = make_samples(out / "images")
    samples[2] = samples[2].model_copy(update={"image": str(out / "gone.png")})
    trainer: Any = make_trainer(config, samples, out / "rl", processes=state.num_processes)
    train(trainer, out / "rl", state)
    loaded = load_model(str(folder), device="cpu")
    args = sft_args(config, out / "sft", CPU, processes=state.num_processes, uses_gradient_checkpointing=False)
    stage = Stage("sft", 0, 2, None)
    trainer = SftTrainer(loaded.model, loaded.processor, args, config=config, stage=stage, samples=samples)
    train(trainer, out / "sft", state)


def train(trainer: Any, out: Path, state: PartialState) -> None:
    """Train and write weights and figures."""
    trainer.train()
    if state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        save_file(weights, out / "weights.safetensors")
        (out / "log.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
