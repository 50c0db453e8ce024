from __future__ import annotations

import pytest

from hart_studio.errors import InputError
from hart_studio.runs.presets import PRESETS, get_preset

HUB_IDS = {
    "qwen2.5-vl-7b-lora": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen2.5-vl-7b-qlora-24gb": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen2.5-vl-3b-lora": "Qwen/Qwen2.5-VL-3B-Instruct",
    "internvl3-8b-lora": "OpenGVLab/InternVL3-8B-hf",
    "llava-onevision-7b-lora": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
}


def test_the_presets() -> None:
    assert set(PRESETS) == {"cpu-demo", "cpu-miniature", "full-finetune-zero3", *HUB_IDS}
    for name, model in HUB_IDS.items():
        assert (PRESETS[name].config.model.id, PRESETS[name].config.model.lora) == (model, "on")
    assert PRESETS["full-finetune-zero3"].config.model.lora == "off"
    quantized = {name for name, preset in PRESETS.items() if preset.config.model.quantization != "none"}
    assert quantized == {"qwen2.5-vl-7b-qlora-24gb"}
    assert all(preset.config.warnings == () for preset in PRESETS.values())


@pytest.mark.parametrize("name", ["cpu-demo", "cpu-miniature"])
def test_a_cpu_preset_needs_neither_download_nor_files(name: str) -> None:
    config = get_preset(name).config
    assert (config.model.id, config.data.source, config.data.path) == ("", "needle", "")


@pytest.mark.parametrize("name", [*HUB_IDS, "full-finetune-zero3"])
def test_a_full_size_preset_is_the_papers_recipe_on_its_data(name: str) -> None:
    config = get_preset(name).config
    assert (config.method.stages, config.method.preference_scale) == ("ap_grpo+sft", 0.6)
    assert (config.data.source, config.data.rl_samples, config.data.sft_samples) == ("mme_realworld", 10_000, None)
    # One pass over the samples of each stage: 10,000, and what remains of 21,690 besides the held-out ones.
    assert config.schedule.rl_steps * config.schedule.rl_batch_size == 10_000
    remaining = 21_690 - 10_000 - config.data.eval_samples
    assert abs(config.schedule.sft_steps * config.schedule.sft_batch_size - remaining) < config.schedule.sft_batch_size


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="one of cpu-demo, cpu-miniature"):
        get_preset("gpu")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_model_and_data_of_a_preset_go_together(name: str) -> None:
    config = get_preset(name).config
    assert (config.model.id == "") == (config.data.source == "needle"), "built-in models on needle scenes, no others"
    assert (config.data.source == "needle") != bool(config.data.path)
    assert (config.method.answer_format == "option_text") == (config.model.id == "")
    assert config.data.eval_samples and config.schedule.eval_steps and config.schedule.rollout_log_steps
