"""A checkpoint copied into the runs folder opens nothing but itself, wherever the page loads it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hart_studio.errors import ModelError
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.model_loading import load_chat_model
from hart_studio.runs.checkpoints import begin_checkpoint, complete_checkpoint
from hart_studio.runs.config import RunConfig
from hart_studio.runs.writer import create_run
from hart_studio.ui.security.model_allowlist import ModelAllowlist


class Reached:
    """Files of other models that were opened, and hosts that were resolved or called."""

    def __init__(self, folder: Path) -> None:
        self.found: list[str] = []
        self.folder: Path | None = folder
        sys.addaudithook(self._note)  # it can never be taken away again

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder is None:
            return
        if event in {"socket.connect", "socket.getaddrinfo"} or (
            event == "open" and str(arguments[0]).startswith(str(self.folder))
        ):
            self.found.append(f"{event} {arguments[:2]}")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(BUILT_IN_MODEL, tmp_path / "outside"))
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def reached(outside: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a server was called"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    found = Reached(outside)
    yield found
    found.folder = None
    assert found.found == []


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copied checkpoint in the runs folder of a lab."""
    layout = create_run(tmp_path / "runs", "training", RunConfig(), "sft", 10)
    folder = begin_checkpoint(layout, 1)
    shutil.copytree(BUILT_IN_MODEL, folder, dirs_exist_ok=True)
    complete_checkpoint(layout, 1, "sft")
    done = layout.checkpoint_of(1)
    assert ModelAllowlist((), tmp_path / "runs").check(str(done)) == str(done)
    return done


@pytest.mark.parametrize("second", ["outside", "owner/model"])
@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForImageTextToText", "RagTokenizer", "AutoConfig"])
def test_an_audio_tokenizer_is_not_opened(
    checkpoint: Path, outside: Path, reached: Reached, second: str, kind: str
) -> None:
    name = str(outside) if second == "outside" else second
    file = checkpoint / "processor_config.json"
    audio = {"audio_tokenizer_class": kind, "audio_tokenizer_name_or_path": name}
    file.write_text(json.dumps({**json.loads(file.read_text()), "audio_tokenizer": audio}))
    with pytest.raises(ModelError, match=r"processor_config\.json of .* something else to open: audio_tokenizer"):
        load_chat_model(str(checkpoint), device="cpu")


def test_a_decoy_of_adapter_weights_does_not_let_a_pickle_in(tmp_path: Path, reached: Reached) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": BUILT_IN_MODEL, "r": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model_x.safetensors")
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04never read")
    with pytest.raises(ModelError, match=r"must contain adapter_model\.safetensors and no pickled weights"):
        load_chat_model(str(adapter), device="cpu")
