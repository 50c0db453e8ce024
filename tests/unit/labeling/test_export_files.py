"""Original images of an export, and unique file names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hart_studio.errors import DataError
from hart_studio.labeling.export_files import check_image, common_folder, unique_names
from tests.labels import draw_image, image_file


def test_an_image_that_changed_or_went_is_refused(tmp_path: Path) -> None:
    file = image_file(draw_image(tmp_path / "a.PNG"))
    assert check_image(file) == (".png", False)
    draw_image(tmp_path / "b.png").rename(tmp_path / "a.PNG")
    with pytest.raises(DataError, match="has changed"):
        check_image(file)
    (tmp_path / "a.PNG").unlink()
    with pytest.raises(DataError, match="is gone"):
        check_image(file)
    os.mkfifo(tmp_path / "a.PNG")
    with pytest.raises(DataError, match="cannot be read"):
        check_image(file)


def test_names_are_unique_ignoring_case(tmp_path: Path) -> None:
    files = [image_file(draw_image(tmp_path / name)) for name in ("x/a.png", "y/A.png", "z/b.png")]
    names = unique_names([(file, ".png") for file in files])
    assert len({name.casefold() for name in names}) == 3
    assert names[2] == "b.png"


def test_the_common_folder() -> None:
    assert common_folder(["/a/b/c.png", "/a/b/d/e.png"]) == Path("/a/b")
    assert common_folder([]) == Path()
