from pathlib import Path

from hart_studio.training.checkpoints import Stage, save_final_model


def test_a_published_model_holds_what_a_model_needs_and_takes_no_space_twice(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step_000004"
    (checkpoint / "ref").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "ref/adapter_model.safetensors"):
        (checkpoint / name).write_text(name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth", "trainer_state.json"):
        (checkpoint / name).write_text(name)
    for name in ("optimizer.bin", "pytorch_model_fsdp.bin", "latest", "zero_to_fp32.py", "global_step2/part.pt"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text(name)
    (checkpoint / "complete.json").write_text("{}")
    model = tmp_path / "model"
    save_final_model(checkpoint, model)
    found = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    assert found == ["config.json", "model.safetensors", "ref/adapter_model.safetensors"]
    assert (model / "model.safetensors").stat().st_ino == (checkpoint / "model.safetensors").stat().st_ino
    (checkpoint / "config.json").unlink()
    save_final_model(checkpoint, model)
    assert not (model / "config.json").exists(), "the old model shows through"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "step_000004"]


def test_steps_are_counted_through() -> None:
    assert Stage("sft", 60, 20, None).last_step == 80
