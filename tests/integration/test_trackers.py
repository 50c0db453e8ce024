"""The TensorBoard callback of transformers with a fake writer package, and missing trackers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import create_run
from hart_studio.training import train
from hart_studio.training.preflight import check_trackers
from hart_studio.training.train import tracker_output
from tests.integration.test_training_run import losses
from tests.integration.training_runs import small_config, write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

STAND_IN = """
import json
from pathlib import Path

class SummaryWriter:
    def __init__(self, log_dir):
        self.path = Path(log_dir) / "scalars.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add_scalar(self, name, value, step):
        with self.path.open("a") as file:
            file.write(json.dumps([name, value, step]) + "\\n")

    def add_text(self, *_):
        pass

    def flush(self):
        pass

    def close(self):
        pass
"""


def small_run(folder: Path, tmp_path: Path) -> RunConfig:
    data = write_jsonl(tmp_path / "data", 10)
    config = small_config(folder, "sft+ap_grpo", data={"source": "jsonl", "path": str(data)})
    return config.model_copy(update={"trackers": ("tensorboard",)})


def start(config: RunConfig, root: Path) -> RunLayout:
    return create_run(root, "training", config, config.method.stages, config.total_steps)


def test_the_figures_of_every_step_reach_the_tracker_in_the_folder_of_the_run(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # so the stand-in is taken
    (tmp_path / "packages" / "tensorboardX").mkdir(parents=True)
    (tmp_path / "packages" / "tensorboardX" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    layout = start(small_run(tiny_folder("qwen2_5_vl"), tmp_path), tmp_path)
    train.run(small_run(tiny_folder("qwen2_5_vl"), tmp_path), layout.folder)
    sent = []
    for stage, first_step in (("sft", 0), ("ap_grpo", 2)):
        lines = (layout.folder / "tensorboard" / stage / "scalars.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        sent += [(first_step + step, value) for name, value, step in rows if name == "train/loss"]
        assert {f"train/{name}" for name in ("grad_norm", "entropy")} <= {name for name, *_ in rows}
    assert sent == [(step, loss) for step, loss, _ in losses(layout)] and len(sent) == 4
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_tracker_that_is_not_there_ends_the_run_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(train, "load_initial_model", lambda *_: pytest.fail("the model was read"))
    config = small_run(tmp_path / "no-model", tmp_path)
    layout = start(config, tmp_path)
    with pytest.raises(InputError, match="pip install tensorboard"):
        train.run(config, layout.folder)
    status = read_status(layout)
    assert status.state == "failed" and "tracker tensorboard" in status.error


def test_each_missing_tracker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "trackio" else None)
    check_trackers([])
    check_trackers(["trackio"])
    with pytest.raises(InputError, match="pip install wandb"):
        check_trackers(["trackio", "wandb"])


def test_a_place_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "mine")
    with tracker_output(tmp_path):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"
