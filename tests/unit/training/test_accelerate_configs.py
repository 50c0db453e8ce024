"""Launch configs: loaded by accelerate, with the settings that training needs."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

ROOT = Path(__file__).resolve().parents[3]
KINDS = {
    "ddp.yaml": DistributedType.MULTI_GPU,
    "fsdp.yaml": DistributedType.FSDP,
    "deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
    "deepspeed_zero3.yaml": DistributedType.DEEPSPEED,
}


def path_of(name: str) -> Path:
    return Path(str(files("hart_studio.training") / "accelerate_configs" / name))


def read(name: str) -> ClusterConfig:
    config = load_config_from_file(str(path_of(name)))  # refuses keys that it does not know
    assert isinstance(config, ClusterConfig)
    return config


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_each_file(name: str) -> None:
    config = read(name)
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (KINDS[name], 8, "bf16")
    assert (config.num_machines, config.use_cpu) == (1, False)


@pytest.mark.parametrize("name", KINDS)
def test_every_setting_is_one_that_the_launcher_takes(name: str) -> None:
    config = read(name)
    known = vars(launch_command_parser().parse_args(["script.py"]))
    plugin: dict[str, Any] = {**(config.fsdp_config or {}), **(config.deepspeed_config or {})}
    assert plugin.keys() <= known.keys(), "the launcher passes over names that it does not know"
    assert bool(plugin) == (name != "ddp.yaml")


def test_checkpoints_of_sharded_weights_are_whole_models() -> None:
    fsdp, zero3 = read("fsdp.yaml").fsdp_config, read("deepspeed_zero3.yaml").deepspeed_config
    assert (fsdp["fsdp_version"], fsdp["fsdp_state_dict_type"]) == (2, "FULL_STATE_DICT")
    assert (zero3["zero_stage"], zero3["zero3_save_16bit_model"], zero3["zero3_init_flag"]) == (3, True, False)
    assert read("deepspeed_zero2.yaml").deepspeed_config["zero_stage"] == 2


def test_the_files_are_shipped_with_the_package() -> None:
    assert {path.name for path in path_of("ddp.yaml").parent.iterdir()} == KINDS.keys()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    (pattern,) = settings["package-data"]["hart_studio.training"]
    assert {path.name for path in (ROOT / "hart_studio" / "training").glob(pattern)} == KINDS.keys()
