from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, prepare_run
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART
from hart_studio.records import Sample
from hart_studio.runs.config_file import CONFIG_VARIABLE
from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api.label_launch import check_run, find_model, sign_run
from hart_studio.ui.security.config_check import hash_new_config
from hart_studio.ui.security.model_allowlist import ModelAllowlist


@pytest.fixture
def project(tmp_path: Path) -> Project:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    made = create_project(tmp_path / "labels" / "p", "p")
    sample = Sample(id="s", image=str(tmp_path / "a.png"), question="What?", answer="red")
    import_samples(made, LoadedSamples("x", (sample,)))
    return made


def prepare(project: Project, model: str) -> tuple[RunLayout, LabelingConfig]:
    values = {"project": str(project.folder)} if "project" in LabelingConfig.model_fields else {}
    config = LabelingConfig.model_validate({**values, "model": model})
    return prepare_run(project, config), config


def test_a_run_is_started_with_arguments_alone_and_the_digest_of_its_config(project: Project) -> None:
    layout, config = prepare(project, "owner/name")
    root = project.folder.parent
    argv, variables = sign_run(root, project, layout, hash_new_config(config))
    assert argv == (
        sys.executable, "-m", "hart_studio.labeling", "run", str(project.folder), "--resume", layout.run_id,
    )  # fmt: skip
    assert variables == {CONFIG_VARIABLE: f"{layout.run_id} {hash_new_config(config)}"}
    assert check_run(root, project, layout, ModelAllowlist()) == hash_new_config(config)


def test_a_run_of_a_terminal_is_resumed_if_it_reaches_nothing(project: Project) -> None:
    layout, config = prepare(project, BUILT_IN)
    assert check_run(project.folder.parent, project, layout, ModelAllowlist()) == hash_new_config(config)
    layout, _ = prepare(project, "owner/name")
    with pytest.raises(InputError, match=f"python -m hart_studio.labeling run {project.folder} --resume"):
        check_run(project.folder.parent, project, layout, ModelAllowlist())


def test_the_model_of_the_newest_run(project: Project) -> None:
    root, anything = project.folder.parent, ModelAllowlist()
    assert find_model(root, project, anything) == ("", BUILT_IN_HART)
    layout, config = prepare(project, "owner/name")
    with pytest.raises(InputError, match="--allow-model owner/name"):
        find_model(root, project, anything)
    assert find_model(root, project, ModelAllowlist(trusted=("owner/name",))) == (layout.run_id, "owner/name")
    sign_run(root, project, layout, hash_new_config(config))
    assert find_model(root, project, anything) == (layout.run_id, "owner/name")
    with pytest.raises(InputError, match="not allowed on this server"):
        find_model(root, project, ModelAllowlist((BUILT_IN,), None, "--allow-model"))
    layout.config.write_text(json.dumps({**json.loads(layout.config.read_text()), "model": "owner/other"}))
    with pytest.raises(InputError, match="owner/other"):
        find_model(root, project, anything)
    layout.config.write_text("{")
    assert find_model(root, project, anything) == ("", BUILT_IN_HART), "settings that no one can read name no model"
