"""Publish a checkpoint to a fake Hub: uploaded files, and no leaked token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from hart_studio.errors import InputError, ModelError
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.publishing import Destination, hide_path, publish_checkpoint, write_card
from hart_studio.runs.writer import RunWriter, create_run
from tests.fake_hub import FakeHub
from tests.unit.runs.conftest import PROVENANCE

TOKEN = "hf_" + "AbCd1234" * 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        yield server
        server.shutdown()


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    config = RunConfig.model_validate({"model": {"id": "Qwen/Qwen2.5-VL-3B-Instruct"}, "method": {"stages": "ap_grpo"}})
    layout = create_run(tmp_path / "runs", "training", config, "ap_grpo", total=2)
    with RunWriter(layout, total=2) as run:
        run.start(PROVENANCE)
        run.log_evaluation(0, {"accuracy": 0.25}, 8, "a1b2c3")
        run.log_step(2, "ap_grpo", {"reward": 0.5})
        run.log_evaluation(2, {"accuracy": 0.75}, 8, "a1b2c3")
        with run.saving_checkpoint(2, "ap_grpo") as folder:
            for name in ("config.json", "model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"):
                (folder / name).write_text(name)
    return layout


def test_the_model_goes_with_a_card_and_without_the_trainers_state(hub: FakeHub, layout: RunLayout) -> None:
    address = publish_checkpoint(layout, None, Destination("me/model", TOKEN))
    assert address == f"{hub.address}/me/model"
    assert set(hub.files) == {"config.json", "model.safetensors", "README.md", "training/config.json"}
    card = hub.files["README.md"].decode()
    assert "base_model: Qwen/Qwen2.5-VL-3B-Instruct" in card and "| accuracy | 0.2500 | 0.7500 |" in card
    assert hub.created[0]["name"] == "model" and hub.created[0]["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_the_card_contains_nothing_that_was_measured_later_and_no_path(tmp_path: Path) -> None:
    base = tmp_path / "someone" / "base"
    base.mkdir(parents=True)
    config = RunConfig.model_validate({"model": {"id": str(base)}, "method": {"stages": "ap_grpo"}})
    layout = create_run(tmp_path / "runs", "training", config, "ap_grpo", total=9)
    with RunWriter(layout, total=9) as run:
        run.start(PROVENANCE)
        for step, accuracy in ((0, 0.25), (4, 0.5), (8, 0.75)):
            run.log_evaluation(step, {"accuracy": accuracy} | ({"iou": 0.4} if step else {}), 8, "a1b2c3")
            if step == 4:
                with run.saving_checkpoint(5, "ap_grpo") as folder:
                    (folder / "config.json").write_text("{}")
    (checkpoint,) = list_checkpoints(layout)
    card = write_card(layout, checkpoint, config)
    assert "| held-out metric (n = 8, set a1b2c3) | step 0 | step 4 |" in card
    assert "| accuracy | 0.2500 | 0.5000 |" in card
    assert "| iou | – | 0.4000 |" in card and "0.7500" not in card and "nan" not in card
    assert "from base," in card and "someone" not in card and "base_model" not in card


def test_the_token_is_nowhere_on_disk(
    hub: FakeHub, layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    publish_checkpoint(layout, 2, Destination("me/model", TOKEN))
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in repr(Destination("me/model", TOKEN))


@pytest.mark.parametrize(
    ("status", "text"), [(401, "no write permission"), (403, "no write permission"), (400, "with status 400")]
)
def test_a_hub_that_refuses_is_explained_without_the_token(
    hub: FakeHub, layout: RunLayout, status: int, text: str
) -> None:
    hub.refuses = status
    with pytest.raises(ModelError, match=text) as caught:
        publish_checkpoint(layout, 2, Destination("me/model", TOKEN))
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("repo", "token", "step", "text"),
    [
        ("model", TOKEN, 2, "use owner/name"),
        ("../x/y", TOKEN, 2, "use owner/name"),
        ("me/<b>", TOKEN, 2, "use owner/name"),
        ("me/model", "  ", 2, "access token"),
        ("me/model", TOKEN, 7, "no complete checkpoint of step 7"),
    ],
)
def test_what_cannot_be_published_is_said(layout: RunLayout, repo: str, token: str, step: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        publish_checkpoint(layout, step, Destination(repo, token))


def test_a_machine_that_is_offline(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        publish_checkpoint(layout, 2, Destination("me/model", TOKEN))


def test_a_hub_that_is_not_there(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached"):
        publish_checkpoint(layout, 2, Destination("me/model", TOKEN))


@pytest.mark.parametrize("folder", ["/home/alice.miller/secret/model", "C:\\Users\\alice.miller\\secret\\model"])
def test_no_file_contains_a_folder_of_this_machine(hub: FakeHub, tmp_path: Path, folder: str) -> None:
    base = {"model": {"id": folder}, "data": {"source": "jsonl", "path": "/home/alice.miller/secret/x.jsonl"}}
    base["data"]["image_root"] = "/home/alice.miller/secret/images"
    config = RunConfig.model_validate(base)
    layout = create_run(tmp_path / "runs", "training", config, config.method.stages, total=2)
    with RunWriter(layout, total=2) as run:
        run.start(PROVENANCE)
        with run.saving_checkpoint(2, "sft") as saved:
            adapter = {"base_model_name_or_path": folder, "target_modules": ["q_proj"], "r": 8}
            (saved / "adapter_config.json").write_text(json.dumps(adapter))
            (saved / "tokenizer.json").write_text('{"vocab": {"/a/b": 1, "/": 2}, "merges": ["/usr/bin"]}')
            (saved / "model.safetensors").write_text("weights")
    publish_checkpoint(layout, None, Destination("me/model", TOKEN))
    for name, content in hub.files.items():
        assert b"alice" not in content and b"secret" not in content, name
    adapter = json.loads(hub.files["adapter_config.json"])
    assert adapter == {"base_model_name_or_path": "model", "target_modules": ["q_proj"], "r": 8}
    published = json.loads(hub.files["training/config.json"])
    assert (published["model"]["id"], published["data"]["path"]) == ("model", "x.jsonl")
    assert json.loads(hub.files["tokenizer.json"]) == {"vocab": {"/a/b": 1, "/": 2}, "merges": ["/usr/bin"]}
    assert "base_model" not in hub.files["README.md"].decode() and hub.files["model.safetensors"] == b"weights"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"), ("", ""), ("built-in", "built-in"),
        ("/data/models/mine", "mine"), ("~/models/mine", "mine"), ("../mine", "mine"), ("D:\\models\\mine", "mine"),
    ],
)  # fmt: skip
def test_local_paths_lose_their_folders(text: str, shown: str) -> None:
    assert hide_path(text) == shown
