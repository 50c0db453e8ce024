"""One process of a training run, started with the variables of a launcher: ``OUT FOLDER STRATEGY TUNING``.

See ``test_processes``. accelerate refuses to shard on CPUs, or silently averages gradients instead. With the strategy
``fsdp`` its device state therefore claims an accelerator whose device is the CPU; all else is the code that runs on
GPUs, with the settings of ``accelerate_configs``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from hart_studio import training
from hart_studio.models.loading import load_model
from hart_studio.training import stage_trainer
from hart_studio.training.checkpoints import Stage
from hart_studio.training.initial_model import InitialModel, lora_config
from hart_studio.training.sft import SftTrainer
from hart_studio.training.trainable_model import freeze_vision_tower
from hart_studio.training.trl_args import sft_args
from tests.integration.training_runs import CPU, make_samples, make_trainer, small_config

CONFIGS: Final = Path(training.__file__).parent / "accelerate_configs"
CLAIMED: Final = torch.device("xpu")
"""An accelerator that accelerate runs over gloo; nothing is ever placed on it."""


def main(out: Path, folder: Path, strategy: str, tuning: str) -> None:
    """Two steps of AP-GRPO and two of SFT over four samples, one of which is broken."""
    torch.set_num_threads(1)
    stage_trainer.CHUNK_TOKENS["cpu"] = 500  # several passes per micro-batch, not equally many in each process
    is_sharded = strategy == "fsdp" and "RANK" in os.environ
    if is_sharded:
        shard_on_cpu()
    state = PartialState() if is_sharded else PartialState(cpu=True)
    device = CLAIMED if is_sharded else CPU
    freezes_tower = strategy == "fsdp"
    lora = "on" if tuning == "lora" else "off"
    config = small_config(folder, model={"lora": lora, "dtype": "float32"}, method={"stages": "ap_grpo+sft"})
    with state.main_process_first():
        samples = make_samples(out / "images")
    samples[2] = samples[2].model_copy(update={"image": str(out / "gone.png")})
    trainer: Any = make_trainer(
        config, samples, out / "rl", processes=state.num_processes, device=device, freezes_tower=freezes_tower
    )
    train(trainer, out / "rl", is_sharded)

    loaded = load_model(str(folder), device="cpu")
    if freezes_tower:
        freeze_vision_tower(loaded.model)
    adapters = lora_config(config.model) if lora == "on" else None
    initial = InitialModel(loaded.model, loaded.processor, adapters, str(folder), uses_gradient_checkpointing=False)
    args = sft_args(config, out / "sft", device, processes=state.num_processes, uses_gradient_checkpointing=False)
    stage = Stage("sft", 0, 2, None)
    trainer = SftTrainer(
        initial.with_adapters(config.seed), loaded.processor, args, config=config, stage=stage, samples=samples
    )
    train(trainer, out / "sft", is_sharded)
    state.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)  # the threads of gloo's device meshes end an ordinary exit with an abort


def shard_on_cpu() -> None:
    """Make accelerate run the settings of ``fsdp.yaml`` over gloo."""
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_XPU)  # type: ignore[method-assign]
    PartialState.set_device = lambda self: setattr(self, "device", CPU)  # type: ignore[method-assign]
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, value in yaml.safe_load((CONFIGS / "fsdp.yaml").read_text())["fsdp_config"].items():
        os.environ[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)


def train(trainer: Any, out: Path, is_sharded: bool) -> None:
    """Train and write weights and figures."""
    assert (trainer.accelerator.distributed_type == DistributedType.FSDP) == is_sharded
    passes: list[int] = []
    split = trainer._split

    def count_passes(batch: Any) -> Any:
        parts = split(batch)
        passes.append(sum(bool(indices) for indices, _ in parts))
        return parts

    trainer._split = count_passes
    trainer.train()
    out.mkdir(parents=True, exist_ok=True)
    (out / f"passes_{trainer.accelerator.process_index}.json").write_text(json.dumps(passes))
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_sharded else trainer.model.state_dict()
    if trainer.accelerator.is_main_process:
        save_file({name: weight.detach().clone() for name, weight in weights.items()}, out / "weights.safetensors")
        (out / "log.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
