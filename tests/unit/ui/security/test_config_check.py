"""What a config reaches, and which runs a page starts or resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hart_studio.errors import InputError
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.labeling.job import LabelingConfig
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.served_settings import ServedSettings
from hart_studio.runs.checkpoints import begin_checkpoint, complete_checkpoint
from hart_studio.runs.config import DataConfig, ModelConfig, RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.queue import LaunchPlan, write_plan
from hart_studio.runs.signing import KEY_FILE
from hart_studio.runs.writer import create_run
from hart_studio.ui.security.config_check import (
    Origin,
    check_checkpoint,
    check_config,
    check_resumable,
    find_offered_model,
    hash_new_config,
    is_signed,
    list_resources,
    read_config_and_hash,
)
from hart_studio.ui.security.model_allowlist import ModelAllowlist

SERVED = ServedSettings(url="http://127.0.0.1:9/v1", family="qwen2_5_vl", api_key_variable="SECRET_OF_THE_SERVER")
INERT = {
    "model.dtype", "model.device", "model.attn_implementation", "model.lora", "model.freeze_vision_tower",
    "data.source",
    "model.gradient_checkpointing",
    "data.columns", "method.stages", "method.trained_turns", "method.loss_aggregation", "method.answer_format",
    "method.sft_target", "optim.lr_scheduler_type", "method.kl_estimator", "method.scale_rewards",
    "model.lora_target_modules", "model.quantization", "quantization",
    "name", "benchmark", "subsets", "title", "device", "dtype", "protocols",
}  # fmt: skip
"""Texts that are words of a list, names of columns, or titles for people."""
CHECKED = {
    "model.id", "data.path", "data.image_root", "trackers", "path", "image_root", "exclude", "model", "served",
}  # fmt: skip
NOT_FOLLOWED = {"proposals", "item_filter", "loop"}
"""Settings of sampling and of a database filter, which name nothing outside of the project."""
GONE = {"project"}
"""The folder that was opened is the project, whatever a config says."""


def text_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting that can hold text, by its full name."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name not in NOT_FOLLOWED:
            yield from text_fields(kind, f"{prefix}{name}.")
        elif kind is str or "str" in str(kind) or "Literal" in str(kind) or "Served" in str(kind):
            yield prefix + name


@pytest.mark.parametrize("kind", [RunConfig, EvaluationConfig, LabelingConfig])
def test_every_text_of_a_config_is_checked_or_names_nothing(kind: type[BaseModel]) -> None:
    assert set(text_fields(kind)) - INERT - CHECKED - GONE == set(), "a new setting: does it name a path or an address?"


def test_resources_of_each_kind() -> None:
    training = RunConfig(
        model=ModelConfig(id="a/b"),
        data=DataConfig(source="hf", path="c/d", image_root="/e"),
        trackers=("tensorboard", "wandb", "trackio"),
    )
    found = list_resources(training)
    assert (found.models, found.data, found.trackers) == (("a/b",), ("c/d", "/e"), ("wandb", "trackio"))
    assert found.variables == ("WANDB_API_KEY", "HF_TOKEN")
    found = list_resources(EvaluationConfig(benchmark="vstar", image_root="/e", exclude="/w"))
    assert len(found.data) == 3 and "/" in found.data[0], "without a path, the published data set is fetched"
    assert list_resources(EvaluationConfig()).data == ()
    for config in (EvaluationConfig(served=SERVED), LabelingConfig.model_validate({**PROJECT, "served": SERVED})):
        found = list_resources(config)
        assert (found.endpoints, found.variables) == ((SERVED.url,), ("SECRET_OF_THE_SERVER",))


PROJECT: dict[str, Any] = {"project": "/p"} if "project" in LabelingConfig.model_fields else {}


def labeling(**changes: Any) -> LabelingConfig:
    return LabelingConfig.model_validate({**PROJECT, **changes})


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (EvaluationConfig(served=SERVED), "served model.*SECRET_OF_THE_SERVER.*terminal"),
        (labeling(served=SERVED), "served model.*http://127.0.0.1:9/v1"),
        (EvaluationConfig(model="evil/model"), "not allowed on this server"),
        (labeling(model="evil/model"), "not allowed on this server"),
        (RunConfig(model=ModelConfig(id="evil/model")), "not allowed on this server"),
        (EvaluationConfig(path="http://evil.example/x"), "is a URL"),
        (EvaluationConfig(exclude="ftp://evil.example/x"), "is a URL"),
        (RunConfig(data=DataConfig(source="hf", path="hf://datasets/evil/x")), "is a URL"),
        (RunConfig(data=DataConfig(source="jsonl", path="/a", image_root="\\\\evil\\share")), "is a URL"),
        (RunConfig(data=DataConfig(source="jsonl", path="a\0b")), "is a URL"),
    ],
)
def test_what_no_page_starts(config: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        check_config(config, ModelAllowlist(("built-in", "built-in-hart"), None, "--allow-model"))


def test_what_a_person_chooses_on_the_page_is_started() -> None:
    check_config(RunConfig(data=DataConfig(source="hf", path="owner/name"), trackers=("wandb",)), ModelAllowlist())
    check_config(EvaluationConfig(path="/any/folder", model="owner/name"), ModelAllowlist())


class Root:
    """A folder of runs, with runs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.allowed = ModelAllowlist(None, root)

    def make(self, config: Any, *, signed: bool = False) -> RunLayout:
        job: Any = "training" if isinstance(config, RunConfig) else "evaluation"
        layout = create_run(self.root, job, config, "ap_grpo", 10)
        if signed:
            write_plan(layout, LaunchPlan(argv=("python",), config_sha256=hash_new_config(config)))
        return layout

    def check(self, layout: RunLayout, kind: Any, allowed: ModelAllowlist | None = None) -> str:
        origin = Origin(self.root, (self.root,), self.root, ("python", "-m", "x", "--resume", layout.run_id))
        return check_resumable(layout, kind, allowed or self.allowed, origin)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "runs").mkdir()
    return Root(tmp_path / "runs")


REACHING = [
    RunConfig(model=ModelConfig(id="owner/name")), RunConfig(model=ModelConfig(id="/any/folder")),
    RunConfig(data=DataConfig(source="hf", path="owner/name")), RunConfig(data=DataConfig(source="jsonl", path="/x")),
    RunConfig(data=DataConfig(source="needle", path="/etc")), RunConfig(trackers=("wandb",)),
    RunConfig(trackers=("trackio",)), EvaluationConfig(benchmark="vstar"), EvaluationConfig(path="/x"),
    EvaluationConfig(image_root="/x"), EvaluationConfig(benchmark="mme_realworld_train", path="/x", exclude="/y"),
    EvaluationConfig(model="owner/name"),
]  # fmt: skip


@pytest.mark.parametrize("config", REACHING, ids=str)
def test_a_run_of_others_that_reaches_something_is_left_to_a_terminal(root: Root, config: Any) -> None:
    layout = root.make(config)
    with pytest.raises(InputError, match=f"not started by this server.*python -m x --resume {layout.run_id}"):
        root.check(layout, type(config))
    mine = root.make(config, signed=True)
    assert root.check(mine, type(config)) == hash_new_config(config)


@pytest.mark.parametrize(
    "config",
    [RunConfig(), EvaluationConfig(), EvaluationConfig(model=BUILT_IN_MODEL), RunConfig(trackers=("tensorboard",))],
    ids=str,
)  # fmt: skip
def test_a_run_of_others_that_reaches_nothing_is_resumed(root: Root, config: Any) -> None:
    assert root.check(root.make(config), type(config)) == hash_new_config(config)


def test_paths_and_checkpoints_inside_of_the_root_are_its_own(root: Root, tmp_path: Path) -> None:
    inside = root.root / "data"
    inside.mkdir()
    (inside / "out").symlink_to(tmp_path)
    assert root.check(root.make(EvaluationConfig(path=str(inside))), EvaluationConfig)
    for path in (inside / "out" / "x", inside / ".." / ".." / "x", Path("runs/data")):
        with pytest.raises(InputError, match="outside"):
            root.check(root.make(EvaluationConfig(path=str(path))), EvaluationConfig)


def test_an_adapter_opens_its_base_too(root: Root) -> None:
    layout = root.make(RunConfig())
    for base, is_own in (("evil/base", False), (BUILT_IN_MODEL, True), (7, False), ("built-in/../x", False)):
        folder = begin_checkpoint(layout, 5)
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        complete_checkpoint(layout, 5, "ap_grpo")
        assert root.allowed.is_local(str(folder), root.root) is is_own
        lab = ModelAllowlist(("built-in",), root.root, "--allow-model")
        if is_own:
            assert lab.check(str(folder)) == str(folder)
        else:
            with pytest.raises(InputError, match="not allowed on this server"):
                lab.check(str(folder))


def test_a_checkpoint_is_offered_beside_the_model_of_its_run(root: Root) -> None:
    def offer(layout: RunLayout, base: str) -> str:
        folder = str(layout.checkpoint_of(5))
        return check_checkpoint(layout, folder, base, root.allowed, root.root)

    def save(layout: RunLayout, adapter_of: str = "") -> RunLayout:
        folder = begin_checkpoint(layout, 5)
        if adapter_of:
            (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": adapter_of}))
        complete_checkpoint(layout, 5, "ap_grpo")
        return layout

    config = RunConfig(model=ModelConfig(id="owner/name"))
    assert offer(save(root.make(config, signed=True), "owner/name"), "owner/name") == "owner/name"
    assert offer(save(root.make(RunConfig())), "built-in") == "built-in"
    assert offer(save(root.make(config)), "owner/name") == "built-in", "a name in a file of others is not opened"
    with pytest.raises(InputError, match="not started by this server"):
        offer(save(root.make(config), "owner/name"), "owner/name")


def test_the_model_of_an_evaluation_is_offered_only_if_it_is_trusted(root: Root) -> None:
    def offer(layout: RunLayout, allowed: ModelAllowlist | None = None) -> str | None:
        return find_offered_model(layout, allowed or root.allowed, root.root)

    others = EvaluationConfig(model="owner/name")
    assert offer(root.make(others)) is None
    assert offer(root.make(others), ModelAllowlist(None, root.root, trusted=("owner/name",))) == "owner/name"
    assert offer(root.make(EvaluationConfig(model="built-in"))) == "built-in"
    signed = root.make(others, signed=True)
    assert offer(signed) == "owner/name"
    assert offer(signed, ModelAllowlist(("built-in",), root.root)) is None, "not in the list of today"
    assert offer(root.make(EvaluationConfig(served=SERVED), signed=True)) is None
    signed.config.write_text(signed.config.read_text().replace("owner/name", "evil/name"))
    assert offer(signed) is None
    signed.config.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        offer(signed)


def test_what_the_operator_named_is_trusted(root: Root) -> None:
    layout = root.make(EvaluationConfig(model="owner/mine"))
    assert root.check(layout, EvaluationConfig, ModelAllowlist(None, root.root, trusted=("owner/mine",)))


def test_a_signed_run_is_checked_against_the_models_of_today(root: Root) -> None:
    layout = root.make(EvaluationConfig(model="owner/name"), signed=True)
    with pytest.raises(InputError, match="not allowed on this server"):
        root.check(layout, EvaluationConfig, ModelAllowlist(("built-in",), root.root, "--allow-model"))


def test_a_signature_is_for_these_bytes_this_run_and_this_root(root: Root, tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(source="jsonl", path="/x"))
    layout = root.make(config, signed=True)
    _, sha256 = read_config_and_hash(layout, RunConfig)
    assert is_signed(layout, sha256, root.root) and not is_signed(layout, "0" * 64, root.root)
    other = root.make(config)
    other.launch.write_bytes(layout.launch.read_bytes())
    assert not is_signed(other, sha256, root.root), "replayed from another run"
    elsewhere = Root(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    copied = RunLayout(elsewhere.root / layout.run_id)
    layout.folder.rename(copied.folder)
    assert not is_signed(copied, sha256, elsewhere.root), "copied to another root"
    elsewhere.make(config, signed=True)
    assert not is_signed(copied, sha256, elsewhere.root), "which has a key of its own"


def test_a_key_that_was_replaced_signs_nothing(root: Root, tmp_path: Path) -> None:
    layout = root.make(RunConfig(trackers=("wandb",)), signed=True)
    key = root.root / KEY_FILE
    kept = key.read_bytes()
    key.unlink()
    key.write_bytes(b"x" * 32)
    with pytest.raises(InputError, match="not started by this server"):
        root.check(layout, RunConfig)
    key.unlink()
    (tmp_path / "known").write_bytes(kept)
    key.symlink_to(tmp_path / "known")
    with pytest.raises(InputError, match="not started by this server"):
        root.check(layout, RunConfig)


def test_a_run_that_is_a_link_out_of_the_root_is_refused(root: Root, tmp_path: Path) -> None:
    outside = Root(tmp_path / "outside")
    outside.root.mkdir()
    layout = outside.make(RunConfig(), signed=True)
    link = RunLayout(root.root / layout.run_id)
    link.folder.symlink_to(layout.folder)
    with pytest.raises(InputError, match="outside of"):
        root.check(link, RunConfig)


def test_settings_that_cannot_be_read(root: Root) -> None:
    layout = root.make(RunConfig())
    layout.config.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        root.check(layout, RunConfig)
