"""Models that may be opened, at every place that a name enters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import prepare_run
from hart_studio.labeling.importing import import_samples
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.records import Box, Sample
from hart_studio.runs.checkpoints import begin_checkpoint, complete_checkpoint
from hart_studio.runs.config import ModelConfig, RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import create_run
from hart_studio.ui.api.ask import AskService, read_form
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.security.model_allowlist import (
    ModelAllowlist,
    build_allowlist,
    check_start_model,
    offered_models,
    operator_models,
    parse_added_models,
)
from tests.fakes import ScriptedModel

HOSTILE = ["/etc", "../secret", "owner/other", "", "BUILT-IN", "built-in\0", "http://127.0.0.1/x", "~", "built-in/../x"]


@pytest.fixture
def runs_root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def checkpoint(runs_root: Path) -> Path:
    layout = create_run(runs_root, "training", RunConfig(), "ap_grpo", 10)
    (begin_checkpoint(layout, 5) / "config.json").write_text("{}")
    return complete_checkpoint(layout, 5, "ap_grpo").folder


def allow(profile: Any, runs_root: Path, added: tuple[str, ...] = ()) -> ModelAllowlist:
    return build_allowlist(profile, offered_models("built-in", profile, added), runs_root)


def test_on_this_machine_alone_any_model_may_be_opened(runs_root: Path) -> None:
    assert allow("local", runs_root).check(" /any/folder ") == "/any/folder"


@pytest.mark.parametrize("profile", ["lab", "space"])
def test_where_others_come_in_those_of_the_list_may(profile: Any, runs_root: Path) -> None:
    allowed = allow(profile, runs_root, ("owner/added",))
    for name in (*BUILT_IN_FOLDERS, "owner/added", " built-in "):
        assert allowed.check(name) == name.strip()
    for name in HOSTILE:
        with pytest.raises(InputError, match="not allowed on this server"):
            allowed.check(name)


def test_a_lab_opens_what_its_own_runs_have_made(runs_root: Path, checkpoint: Path, tmp_path: Path) -> None:
    allowed = allow("lab", runs_root)
    assert allowed.check(str(checkpoint)) == str(checkpoint)
    run = checkpoint.parents[1]
    (tmp_path / "elsewhere").mkdir()
    (run / "checkpoints" / "step_000009").symlink_to(tmp_path / "elsewhere")
    (run / "checkpoints" / "step_000007").mkdir()
    for name in (run, run / "checkpoints", run / "checkpoints/step_000009", run / "checkpoints/step_000007", runs_root,
                 checkpoint / "..", tmp_path / "elsewhere"):  # fmt: skip
        with pytest.raises(InputError, match="--allow-model"):
            allowed.check(str(name))
    with pytest.raises(InputError, match="HART_STUDIO_MODELS"):
        allow("space", runs_root).check(str(checkpoint))


def test_a_space_offers_the_built_in_ones_and_what_its_owner_added() -> None:
    added = parse_added_models("space", (), {"HART_STUDIO_MODELS": " owner/a, ,owner/b,owner/a"})
    assert [name for _, name in offered_models("built-in", "space", added)] == [*BUILT_IN_FOLDERS, "owner/a", "owner/b"]
    assert parse_added_models("lab", ("x",), {"HART_STUDIO_MODELS": "owner/a"}) == ("x",)


def test_the_operator_stands_for_the_default_the_built_in_ones_and_those_added(runs_root: Path) -> None:
    names = operator_models("owner/mine", ("owner/a", "built-in", "owner/mine"))
    assert names == ("owner/mine", *BUILT_IN_FOLDERS, "owner/a")
    for profile in ("lab", "space"):
        allowed = allow(profile, runs_root, ("owner/a",))
        assert all(allowed.check(name) == name for name in names[1:]), "what is stood for may be opened"


def test_what_is_on_this_machine_or_was_named_by_its_operator_is_local(checkpoint: Path, runs_root: Path) -> None:
    allowed = build_allowlist("local", offered_models(), runs_root, operator_models("owner/mine", ("owner/a",)))
    for name in (*BUILT_IN_FOLDERS, *BUILT_IN_FOLDERS.values(), "owner/mine", "owner/a", str(checkpoint)):
        assert allowed.is_local(name, runs_root), name
    for name in (*HOSTILE, str(runs_root), str(checkpoint.parent), "Qwen/Qwen2.5-VL-7B-Instruct"):
        assert not allowed.is_local(name, runs_root), name


Act = Callable[[ModelAllowlist, Path, str], object]


def ask(allowed: ModelAllowlist, root: Path, name: str) -> object:
    form = read_form(root / "p.png", "What?", protocols=["direct"])
    return AskService(root / "work", load, allowed).ask(form, name, lambda fraction, stage: None)


def check_boxes(allowed: ModelAllowlist, root: Path, name: str) -> object:
    sample = Sample(id="s", image=str(root / "p.png"), question="What?", answer="red")
    service = AskService(root / "work", load, allowed)
    return service.check_boxes(name, sample, [Box.from_xyxy((1, 1, 20, 20))], None, lambda path: None)  # type: ignore[arg-type,return-value]


def label(allowed: ModelAllowlist, root: Path, name: str) -> object:
    label_api = LabelApi(root / "labels", allowed=allowed)
    call_handler(label_api.create, {"name": "p"})
    sample = Sample(id="s", image=str(root / "p.png"), question="What?", answer="red")
    import_samples(label_api.open_project("p"), LoadedSamples("x", (sample,)))
    return call_handler(label_api.start, {"project": "p", "model": name})


def make_launcher(allowed: ModelAllowlist, root: Path) -> RunLauncher:
    launcher = RunLauncher(root / "runs", is_open=False, find_gpus=list, allowed=allowed)
    launcher.is_open = True
    return launcher


def train(allowed: ModelAllowlist, root: Path, name: str) -> object:
    return make_launcher(allowed, root).enqueue(LaunchRequest(RunConfig(model=ModelConfig(id=name)), "cpu-demo"))


def check_training(allowed: ModelAllowlist, root: Path, name: str) -> object:
    return list(make_launcher(allowed, root).check(LaunchRequest(RunConfig(model=ModelConfig(id=name)), "cpu-demo")))


def go_on_training(allowed: ModelAllowlist, root: Path, name: str) -> object:
    layout = create_run(root / "runs", "training", RunConfig(model=ModelConfig(id=name)), "ap_grpo", 10)
    return call_handler(make_launcher(allowed, root).resume, {"run": layout.run_id})


def evaluate(allowed: ModelAllowlist, root: Path, name: str) -> object:
    launcher = make_launcher(allowed, root)
    return call_handler(
        EvaluationApi(launcher, RunMonitor(launcher.runs_root, root / "seen")).start,
        {"benchmark": "needle", "model": name},
    )


def go_on_evaluating(allowed: ModelAllowlist, root: Path, name: str) -> object:
    launcher = make_launcher(allowed, root)
    layout: RunLayout = prepare_run(launcher.runs_root, EvaluationConfig(model=name))
    return call_handler(
        EvaluationApi(launcher, RunMonitor(launcher.runs_root, root / "seen")).resume, {"run": layout.run_id}
    )


def load(name: str) -> ScriptedModel:
    raise AssertionError(f"{name} was opened")


@pytest.mark.parametrize(
    "act", [ask, check_boxes, label, train, check_training, go_on_training, evaluate, go_on_evaluating]
)
def test_it_holds_at_every_place_that_a_name_enters(act: Act, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match="not allowed on this server"):
        act(ModelAllowlist(("built-in",), None, "--allow-model"), tmp_path, "owner/other")


def test_the_start_model_is_checked_without_loading_it(tmp_path: Path) -> None:
    assert check_start_model("built-in") == "built-in"
    assert check_start_model(" Qwen/Qwen2.5-VL-3B-Instruct ") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert check_start_model("qwen2.5-vl-3b") == "Qwen/Qwen2.5-VL-3B-Instruct"
    folder = BUILT_IN_FOLDERS["built-in"]
    assert check_start_model(folder) == folder
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("", "neither built-in nor a folder"),
        ("no such/model/name", "neither built-in nor a folder"),
        (str(tmp_path), "unsupported model_type 'bert'"),
        (str(tmp_path / "empty"), "cannot be used"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            check_start_model(name)
        assert "HART_STUDIO_MODEL" in str(caught.value) and "\n" not in str(caught.value)
