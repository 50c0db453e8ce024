import os

import pytest

from hart_studio.errors import InputError
from hart_studio.ui.source_previews import MAX_PREVIEWS, SourcePreviews


@pytest.fixture
def counted():
    """A function that makes numbered previews."""
    made = []

    def make():
        made.append(len(made))
        return {"number": made[-1]}

    return make


def test_an_unchanged_zip_is_read_once_and_a_changed_one_again(tmp_path, counted):
    previews, source = SourcePreviews(), tmp_path / "a.zip"
    source.write_bytes(b"PK")
    assert [previews.get(str(source), "", counted)["number"] for _ in range(3)] == [0, 0, 0]
    assert previews.get(str(source), "image", counted)["number"] == 1, "with another column"
    os.utime(source, ns=(1, 1))
    assert previews.get(str(source), "", counted)["number"] == 2


@pytest.mark.parametrize("source", ["table.csv", "owner/name", None, 7, "missing.zip", "a\0.zip"])
def test_other_sources_are_read_each_time(source, counted):
    previews = SourcePreviews()
    assert [previews.get(source, "", counted)["number"] for _ in range(2)] == [0, 1]


def test_a_refused_source_is_refused_again(tmp_path, counted):
    def refuse():
        raise InputError("not yours")

    previews, source = SourcePreviews(), tmp_path / "a.zip"
    source.write_bytes(b"PK")
    for _ in range(2):
        with pytest.raises(InputError):
            previews.get(str(source), "", refuse)
    assert previews.get(str(source), "", counted)["number"] == 0


def test_so_many_previews_are_kept(tmp_path, counted):
    previews = SourcePreviews()
    for number in range(MAX_PREVIEWS + 5):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(b"PK")
        previews.get(str(path), "", counted)
    assert len(previews._kept) == MAX_PREVIEWS
