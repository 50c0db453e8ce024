"""Every error in docs/faq.md is raised by the code: raised here, or found among the messages of the sources."""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError

from hart_studio.data.splits import fingerprint, restore_split, split_samples
from hart_studio.errors import HartError
from hart_studio.labeling.exporting import export_labels
from hart_studio.models import loading
from hart_studio.models.generation import memory_errors
from hart_studio.records import GoldSample
from hart_studio.runs.overrides import apply_overrides
from hart_studio.runs.presets import get_preset
from hart_studio.training import __main__ as training
from hart_studio.training.train import explain_out_of_memory
from hart_studio.ui.security.access import load_auth_config
from tests.documents.pages import ROOT, blocks

FAQ = ROOT / "docs" / "faq.md"
ERRORS = {" ".join(block.code.split()) for block in blocks(FAQ) if "error" in block.tags}
RaiseError = Callable[[Path, pytest.MonkeyPatch], object]


@cache
def messages() -> list[re.Pattern[str]]:
    """Patterns of all exception messages in the package, including messages that a function returns."""
    found = []
    for path in sorted((ROOT / "hart_studio").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_error = isinstance(node, ast.Call) and re.search(r"Error$", ast.unparse(node.func)) and node.args
            if is_error or (isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr)):
                pattern = pattern_of(node.args[0] if isinstance(node, ast.Call) else node.value)
                if len(pattern.replace(".+?", "")) > 30:
                    found.append(re.compile(pattern))
    return found


def pattern_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return ".+?"
    if isinstance(node, ast.BinOp):
        return pattern_of(node.left) + pattern_of(node.right)
    return ".*"


def samples(count: int, word: str = "What") -> list[GoldSample]:
    return [
        GoldSample(id=str(index), image="a.png", question=f"{word} {index}?", answer="1", gold_boxes=())
        for index in range(count)
    ]


def run_out(knobs: Callable[..., object]) -> RaiseError:
    def raise_error(*_: object) -> None:
        with knobs(torch.device("cuda:0")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return raise_error


def ask_for_permission(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise GatedRepoError("403", response=httpx.Response(403, request=httpx.Request("GET", "http://hub")))

    monkeypatch.setattr(loading, "snapshot_download", refuse)
    loading.load_model("owner/model")


def be_offline(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(loading, "snapshot_download", refuse)
    loading.load_model("owner/model")


def add_remote_code(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "config.json").write_text('{"model_type": "internvl_chat"}')
    loading.detect_family("OpenGVLab/InternVL3-8B", folder)


def change(*overrides: str) -> RaiseError:
    return lambda *_: apply_overrides(get_preset("cpu-demo").config, overrides)


def swap_data(*_: object) -> None:
    old, new = samples(4), samples(4, "Which")
    manifest = split_samples(old, eval_samples=1, rl_samples=1, sft_samples=1, seed=0, split_by_image=False).manifest
    known = {fingerprint(old)[:12]: "83060c93f5b7", fingerprint(new)[:12]: "61bb564c2eb4"}
    try:
        restore_split(new, manifest)
    except HartError as error:
        raise HartError(re.sub("|".join(known), lambda found: known[found[0]], str(error))) from error


RAISING: dict[str, RaiseError] = {
    "Out of memory on cuda:0 during training": run_out(explain_out_of_memory),
    "Out of memory on cuda:0. Lower the overview": run_out(memory_errors),
    "Access to owner/model is restricted": ask_for_permission,
    "Model 'owner/model' is neither a local folder": be_offline,
    "OpenGVLab/InternVL3-8B needs remote code": add_remote_code,
    "the value has the form of an access token": change("name=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"),
    "A page that is reachable from the network": lambda *_: load_auth_config("0.0.0.0", {}),  # noqa: S104 - refused
    "schedule: rl_batch_size": change("schedule.rl_micro_batch_size=3"),
    "rollout.group_size": change("rollout.group_size=1"),
    "10 samples requested": lambda *_: split_samples(
        samples(4), eval_samples=2, rl_samples=4, sft_samples=4, seed=0, split_by_image=False
    ),
    "The dataset differs from the one this run started with": swap_data,
    "No labels to export": lambda folder, _: export_labels([], "coco", folder / "out"),
}  # fmt: skip
"""Start of a message -> function that raises it."""


def test_there_are_errors() -> None:
    assert len(ERRORS) >= 12
    headings = [line for line in FAQ.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert len(headings) >= 12


@pytest.mark.parametrize("beginning", sorted(RAISING))
def test_the_program_raises_it(beginning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = (text for text in ERRORS if text.startswith(beginning))
    with pytest.raises(HartError) as raised:
        RAISING[beginning](tmp_path, monkeypatch)
    said = [" ".join(line.split()).removeprefix("name: ") for line in str(raised.value).splitlines()]
    assert message in (*said, " ".join(said))


@pytest.mark.parametrize("message", sorted(ERRORS))
def test_it_is_a_message_in_the_sources(message: str) -> None:
    if message.startswith("rollout.group_size: "):  # message of pydantic, raised above
        return
    assert any(pattern.search(message) for pattern in messages()), message


def test_a_resumed_run_keeps_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--resume", "20260131-120000-ap_grpo-4f1c2a", "--set", "seed=1"]) == 2
    (message,) = (text for text in ERRORS if text.startswith("--resume cannot be combined with --set"))
    assert message in " ".join(capsys.readouterr().err.split())


def test_port_in_use() -> None:
    from gradio.http_server import start_server  # noqa: PLC0415 - seconds to import

    message = next(block.code for block in blocks(FAQ) if "Cannot find empty port" in block.code)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(OSError, match="Cannot find empty port") as raised:
            start_server(app=None, server_name="127.0.0.1", server_port=port)
    said = str(raised.value).replace(str(port), "7860")
    assert said.startswith(message.strip().removeprefix("app.py: "))
