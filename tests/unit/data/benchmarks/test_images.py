from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.data.benchmarks.images import ImageResolver, content_id
from tests.benchmark_images import draw


def test_images_of_cells_go_to_the_cache_once(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    images = ImageResolver(tmp_path, tmp_path / "cache")
    found = {images.locate(value) for value in (draw(1).jpeg, draw(1).base64, {"bytes": draw(1).jpeg})}
    assert len(found) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".jpeg"]


def test_without_a_cache_only_files_are_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(draw(1).jpeg)
    assert ImageResolver(tmp_path).locate("a.jpg") == str((tmp_path / "a.jpg").resolve())
    with pytest.raises(ValueError, match="expected text in 'image'"):
        ImageResolver(tmp_path).locate(draw(1).jpeg)


@given(parts=st.lists(st.text(max_size=5), max_size=4), others=st.lists(st.text(max_size=5), max_size=4))
def test_other_parts_make_another_id(parts: list[str], others: list[str]) -> None:
    assert (content_id(*parts) == content_id(*others)) == (parts == others)


def test_an_unpaired_surrogate_has_an_id() -> None:
    assert content_id("\ud800") != content_id("\ud801")
