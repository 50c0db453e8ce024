"""One process of a training run in which a single process has a NaN loss: ``OUT FOLDER``; see ``test_processes``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hart_studio.models.loading import load_model
from hart_studio.training.callbacks import RunCallback, StopSignals
from hart_studio.training.checkpoints import Stage
from hart_studio.training.non_finite import NonFiniteError
from hart_studio.training.sft import SftTrainer
from hart_studio.training.trl_args import sft_args
from tests.integration.training_runs import CPU, make_samples, small_config


class BrokenSftTrainer(SftTrainer):
    """From the second step on, the second process adds NaN to its loss."""

    def _chunk_loss(self, *arguments: Any) -> torch.Tensor:
        loss = super()._chunk_loss(*arguments)
        is_broken = self.state.global_step >= 1 and self.accelerator.process_index == 1
        return loss + torch.nan if is_broken else loss


def main(out: Path, folder: Path) -> None:
    """Train until too many steps are not finite, and write how this process ended."""
    state = PartialState(cpu=True)
    config = small_config(folder, "sft", optim={"max_nonfinite_steps": 2}, schedule={"sft_steps": 6})
    with state.main_process_first():
        samples = make_samples(out / "images")
    loaded = load_model(str(folder), device="cpu")
    args = sft_args(config, out / "sft", CPU, processes=state.num_processes, uses_gradient_checkpointing=False)
    stage = Stage("sft", 0, 6, None)
    callback = RunCallback(stage, config, StopSignals(lambda _: None), None, 0, "")
    trainer = BrokenSftTrainer(
        loaded.model, loaded.processor, args, config=config, stage=stage, samples=samples, callbacks=[callback]
    )
    callback.trainer = trainer
    reason = ""
    try:
        trainer.train()
    except NonFiniteError as error:
        reason = str(error)
    total = sum(float(weight.double().sum()) for weight in trainer.model.parameters())
    end = {"step": trainer.state.global_step, "reason": reason, "weights": total}
    (out / f"end_{state.process_index}.json").write_text(json.dumps(end))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
