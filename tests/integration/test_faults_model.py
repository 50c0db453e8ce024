"""The folder of a model is removed while in use, and restored."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hart_studio.errors import ModelError
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART, BUILT_IN_MODEL
from hart_studio.ui.api.ask import AskForm, AskService, read_form

pytestmark = pytest.mark.integration
IMAGE = Path(__file__).parents[2] / "assets" / "examples" / "1-character.jpg"


def ask(service: AskService, form: AskForm, model: str) -> str:
    reply = service.ask(form, model, lambda fraction, stage: None)
    return str(reply.summary["protocols"]["direct"]["text"])


def test_a_model_whose_folder_is_deleted_answers_on_and_comes_back_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUILT_IN_MODEL, folder)
    service = AskService(tmp_path / "work")
    form = read_form(IMAGE, "Read the character on the red square.", "E\nZ\nH\n5", protocols=["direct"])
    answer = ask(service, form, str(folder))
    folder.rename(tmp_path / "away")
    assert ask(service, form, str(folder)) == answer, "what is in memory needs no folder"
    for other in (BUILT_IN, BUILT_IN_HART):  # these take its place in memory
        ask(service, form, other)
    for _ in range(2):
        with pytest.raises(ModelError, match="model"):
            ask(service, form, str(folder))
    assert ask(service, form, BUILT_IN) == answer, "one that cannot be loaded does not harm the others"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tmp_path / "away" / name, folder)
    with pytest.raises(ModelError):
        ask(service, form, str(folder))
    shutil.rmtree(folder)
    (tmp_path / "away").rename(folder)
    assert ask(service, form, str(folder)) == answer, "no restart is needed"
