import json

import pytest
from PIL import Image

from hart_studio.errors import DataError, ImageError, InputError
from hart_studio.ui.pages.examples import Example, ExamplePicker, load_examples

ENTRY = {"title": "Sign", "image": "a.jpg", "question": "Which?", "choices": ["x", "y"], "answer": "B"}


@pytest.fixture
def folders(tmp_path):
    source, served = tmp_path / "source", tmp_path / "served"
    source.mkdir()
    served.mkdir()
    Image.new("RGB", (800, 400), (9, 90, 200)).save(source / "a.jpg")
    return source, served


def write(folder, entries):
    (folder / "examples.json").write_text(json.dumps(entries), "utf-8")


def test_examples_are_copied_with_thumbnails(folders):
    source, served = folders
    write(source, [ENTRY, {"title": "Open", "image": "a.jpg", "question": "What?"}])
    first, second = load_examples(*folders)
    assert (first.title, first.choices, first.answer) == ("Sign", ("x", "y"), "B")
    assert (second.choices, second.answer) == ((), "")
    assert first.image.read_bytes() == (source / "a.jpg").read_bytes()
    assert first.image.parent == first.thumbnail.parent == served
    with Image.open(first.thumbnail) as thumbnail:
        assert thumbnail.width * thumbnail.height <= 320 * 240
        assert thumbnail.width == pytest.approx(2 * thumbnail.height, abs=2)


def test_no_catalogue_means_no_examples(folders):
    assert load_examples(*folders) == ()


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ({"title": "no list"}, DataError),
        ([{"title": "no image", "question": "q"}], DataError),
        ([{**ENTRY, "choises": []}], DataError),
        ([{**ENTRY, "image": "../outside.jpg"}], InputError),
        ([{**ENTRY, "image": "/etc/passwd"}], InputError),
        ([{**ENTRY, "image": "examples.json"}], ImageError),
    ],
)
def test_a_catalogue_that_is_not_usable_is_refused(folders, entries, error):
    write(folders[0], entries)
    with pytest.raises(error):
        load_examples(*folders)


def test_text_that_is_not_json_is_refused(folders):
    (folders[0] / "examples.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"examples\.json"):
        load_examples(*folders)


def test_examples_show_a_thumbnail_and_hide_the_answer(tmp_path):
    thumbnail = tmp_path / "t.jpg"
    thumbnail.write_bytes(b"x")
    examples = (Example("Sign", tmp_path / "big.jpg", thumbnail, "Which?", ("a", "b"), "B"),)
    picker = ExamplePicker(examples)
    (entry,) = picker.postprocess(examples)
    assert set(entry) == {"title", "question", "image"}
    assert entry["image"]["path"] == str(thumbnail)
