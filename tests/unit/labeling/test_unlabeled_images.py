from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.labeling.unlabeled_images import load_unlabeled_images
from tests.images import encoded

PNG = encoded(Image.new("RGB", (8, 6)), "PNG")


def test_every_image_below_a_folder_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "set" / "cats").mkdir(parents=True)
    for name in ("b.png", "cats/tom.PNG"):
        (tmp_path / "set" / name).write_bytes(PNG)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    loaded = load_unlabeled_images(tmp_path / "set", "Where is {name} of {folder}?", ("left", "right"))
    assert [(sample.id, sample.question) for sample in loaded.samples] == [
        ("b.png", "Where is b of ?"),
        ("cats/tom.PNG", "Where is tom of cats?"),
    ]
    assert loaded.samples[0].choices == ("left", "right")
    assert loaded.samples[0].answer is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(PNG)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    assert [sample.id for sample in load_unlabeled_images(tmp_path / "set", "?").samples] == ["own.png"]


def test_a_template_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    question = load_unlabeled_images(tmp_path, "{name.__class__} {0} {name!r} {name}").samples[0].question
    assert question == "{name.__class__} {0} {name!r} a"


@pytest.mark.parametrize("folder", ["gone", "empty"])
def test_a_folder_without_images(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        load_unlabeled_images(tmp_path / folder, "?")
