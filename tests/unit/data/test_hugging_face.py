from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NoReturn

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image

from hart_studio.data.columns import ColumnMapping
from hart_studio.data.hugging_face import check_metadata, load_hugging_face, pin_revision
from hart_studio.errors import DataError
from hart_studio.records import Box
from tests.images import encoded, landmark

FIRST = encoded(landmark(24, 16), "JPEG")
SECOND = encoded(landmark(16, 24), "PNG")
COLUMNS = ColumnMapping(choices="choices")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library writes what it makes of data files below the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


def table(images: list[Any], **columns: list[Any]) -> datasets.Dataset:
    count = len(images)
    values = {"question": ["Which?"] * count, "choices": [["x", "y"]] * count, "answer": ["B"] * count, **columns}
    return datasets.Dataset.from_dict({"image": images, **values})


def save(path: Path, data: datasets.Dataset, *, is_image: bool = True) -> str:
    if is_image:
        data = data.cast_column("image", datasets.Image())
    data.save_to_disk(path)
    return str(path)


def test_images_are_written_to_the_cache_byte_for_byte(tmp_path: Path) -> None:
    name = save(tmp_path / "set", table([{"bytes": each, "path": None} for each in (FIRST, SECOND, FIRST)]))
    loaded = load_hugging_face(name, tmp_path / "cache", COLUMNS)
    first, second, third = loaded.samples
    assert loaded.source == first.source == "set"
    assert [sample.id for sample in loaded.samples] == ["000001", "000002", "000003"]
    assert (first.question, first.choices, first.answer, first.gold_boxes) == ("Which?", ("x", "y"), "B", ())
    assert Path(first.image).read_bytes() == FIRST and Path(second.image).read_bytes() == SECOND
    assert first.image == third.image, "questions about one image share its file"
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".jpeg", ".png"]
    assert load_hugging_face(name, tmp_path / "cache", COLUMNS) == loaded


@pytest.mark.parametrize(
    "image",
    [FIRST, base64.b64encode(FIRST).decode(), base64.encodebytes(SECOND).decode(), "in/a.png"],
    ids=["bytes", "base64", "base64 in lines", "path"],
)
def test_images_come_in_several_forms(tmp_path: Path, image: Any) -> None:
    name = save(tmp_path / "set", table([image]), is_image=False)
    (tmp_path / "set" / "in").mkdir()
    (tmp_path / "set" / "in" / "a.png").write_bytes(SECOND)
    (sample,) = load_hugging_face(name, tmp_path / "cache", COLUMNS).samples
    assert Path(sample.image).read_bytes() in (FIRST, SECOND)


def test_paths_stay_inside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(SECOND)
    (tmp_path / "images").mkdir()
    for name_of_file in ("in.png", "out.png"):
        (tmp_path / "images" / name_of_file).write_bytes(SECOND)
    inside, outside = str(tmp_path / "images" / "in.png"), str(tmp_path / "out.png")
    name = save(tmp_path / "set", table([inside, outside, "../out.png", "gone.png", "x" * 2000]), is_image=False)
    loaded = load_hugging_face(name, tmp_path / "cache", COLUMNS, image_root=tmp_path / "images")
    assert [sample.image for sample in loaded.samples] == [str(Path(inside).resolve())]
    assert [bad.row for bad in loaded.invalid_rows] == ["row 2", "row 3", "row 4", "row 5"]
    starts = [
        "image not found in",
        "Invalid file name",
        "image not found",
        "expected a",
    ]
    assert all(bad.reason.startswith(start) for bad, start in zip(loaded.invalid_rows, starts, strict=True))


def test_invalid_rows_are_counted(tmp_path: Path) -> None:
    images = [FIRST, b"not an image", None, FIRST, FIRST, FIRST]
    data = table(images, answer=["B", "B", "B", "Z", None, "A"], question=["?", "?", "?", "?", "?", " "])
    loaded = load_hugging_face(save(tmp_path / "set", data, is_image=False), tmp_path / "cache", COLUMNS)
    assert [sample.id for sample in loaded.samples] == ["000001"]
    assert [bad.reason.split(",")[0] for bad in loaded.invalid_rows] == [
        "expected one of JPEG",
        "expected an image",
        "expected the letter of one of 2 options as the answer",
        "no answer",
        "question: expected a question",
    ]


@pytest.mark.parametrize(
    ("choices", "answer", "expected"),
    [
        (["red", "blue"], "B", (("red", "blue"), "B")),
        (["red", "blue"], "blue", (("red", "blue"), "B")),
        (["(A) red", "(B) blue"], "(B)", (("red", "blue"), "B")),
        ("A. red\nB. blue\n", "red", (("red", "blue"), "A")),
        (["B", "C"], "C", (("B", "C"), "B")),
    ],
)
def test_choices_and_answers(tmp_path: Path, choices: Any, answer: str, expected: object) -> None:
    data = table([FIRST], choices=[choices], answer=[answer])
    (sample,) = load_hugging_face(save(tmp_path / "set", data, is_image=False), tmp_path / "cache", COLUMNS).samples
    assert (sample.choices, sample.answer) == expected


def test_an_answer_that_could_be_two_options_is_a_bad_row(tmp_path: Path) -> None:
    data = table([FIRST] * 3, choices=[["x", "y"], ["B", "A"], ["red", "red"]], answer=["A", "A", "red"])
    loaded = load_hugging_face(save(tmp_path / "set", data, is_image=False), tmp_path / "cache", COLUMNS)
    assert [bad.reason for bad in loaded.invalid_rows] == [
        "the answer 'A' is the letter of one option and the text of another",
        "expected the letter of one of 2 options as the answer, got 'red'",
    ]


def test_every_column_can_have_another_name(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict(
        {
            "photo_file": [FIRST, FIRST],
            "text": ["Which?", "How many?"],
            "A": ["x", "1"],
            "B": ["y", "2"],
            "C": [None, "3"],
            "truth": ["B", "C"],
            "number": [17, 18],
            "l2": ["OCR", "count"],
            "box": [[[0.0, 0.0, 2.0, 1.0]], []],
        }
    )
    columns = ColumnMapping("photo_file", "text", "truth", ("A", "B", "C"), "number", "l2", "box")
    first, second = load_hugging_face(save(tmp_path / "s", data, is_image=False), tmp_path / "cache", columns).samples
    assert (first.id, first.choices, first.category) == ("17", ("x", "y"), "OCR")
    assert (first.gold_boxes, second.gold_boxes) == ((Box.from_xyxy((0, 0, 2, 1)),), ())
    assert (second.choices, second.answer) == (("1", "2", "3"), "C")


def test_without_choices_questions_are_open(tmp_path: Path) -> None:
    name = save(tmp_path / "set", table([FIRST], answer=["forty"]), is_image=False)
    (sample,) = load_hugging_face(name, tmp_path / "cache", ColumnMapping()).samples
    assert (sample.choices, sample.answer) == ((), "forty")


def test_a_folder_of_data_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    table([FIRST, SECOND]).to_parquet(tmp_path / "set" / "train.parquet")
    loaded = load_hugging_face(str(tmp_path / "set"), tmp_path / "cache", COLUMNS)
    assert [Image.open(sample.image).size for sample in loaded.samples] == [(24, 16), (16, 24)]


def test_a_split_is_named_when_there_are_several(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": table([FIRST]), "test": table([SECOND])})
    both.save_to_disk(tmp_path / "set")
    name = str(tmp_path / "set")
    (sample,) = load_hugging_face(name, tmp_path / "cache", COLUMNS, split="test").samples
    assert Path(sample.image).read_bytes() == SECOND
    for split in (None, "dev"):
        with pytest.raises(DataError, match=f"Choose a split of .*: train, test; got {split}"):
            load_hugging_face(name, tmp_path / "cache", COLUMNS, split=split)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    name = save(tmp_path / "set", table([FIRST]), is_image=False)
    with pytest.raises(DataError, match=r"Missing columns in .*: kind. It has image, question, choices, answer. Map"):
        load_hugging_face(name, tmp_path / "cache", ColumnMapping(category="kind"))


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise datasets.exceptions.DatasetNotFoundError("no such set\nand more")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"Cannot load the dataset .no/such.: no such set. Check the name"):
        load_hugging_face("no/such", tmp_path / "cache", COLUMNS)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="names no Arrow files"):
        load_hugging_face(str(tmp_path / "set"), tmp_path / "cache", COLUMNS)


CARD = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n# A\n"
YAML = "configs:\n- config_name: default\n  data_files: {}\n"
DIRECTORY = "---\nconfigs:\n- config_name: default\n  data_dir: {}\n---\n"
OUTSIDE = [
    "ftp://127.0.0.1/x.csv", "http://127.0.0.1/x", "hf://datasets/a/b/x.csv", "zip://x::http://127.0.0.1/a.zip",
    "/etc/passwd", "~/secret.csv", "../x.csv", "a/../../x.csv", "'C:\\x.csv'", "'\\\\host\\x'", "'a\\..\\x'",
    "' /etc/passwd'", "..",
]  # fmt: skip
INSIDE = ["data/train-*.parquet", "'**/*.csv'", "train.jsonl", "a..b/x.csv", "data/*/x?.json", "'*.[jc]s*'"]


def put(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("pattern", OUTSIDE)
@pytest.mark.parametrize(("name", "form"), [("README.md", CARD), ("README.md", DIRECTORY), (".huggingface.yaml", YAML)])
def test_a_file_outside_of_the_data_set_is_refused(tmp_path: Path, name: str, form: str, pattern: str) -> None:
    with pytest.raises(DataError, match="outside the dataset"):
        check_metadata("a/b", name, put(tmp_path, name, form.format(pattern)))


@pytest.mark.parametrize("pattern", INSIDE)
@pytest.mark.parametrize(("name", "form"), [("README.md", CARD), ("README.md", DIRECTORY), (".huggingface.yaml", YAML)])
def test_files_of_the_data_set_are_named_as_it_likes(tmp_path: Path, name: str, form: str, pattern: str) -> None:
    check_metadata("a/b", name, put(tmp_path, name, form.format(pattern)))


@pytest.mark.parametrize(
    "text",
    ["", "# no metadata", "---\n---\n", "---\nhomepage: http://x.example\nconfigs: 7\n---\n", "---\na: &a [*a]\n---\n",
     "---\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else 'a'}]\n" for n in range(20)) + "---\n"],
)  # fmt: skip
def test_cards_that_name_no_file(tmp_path: Path, text: str) -> None:
    check_metadata("a/b", "README.md", put(tmp_path, "README.md", text))


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\na: !!python/object:x.y {}\n---\n"])
def test_metadata_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        check_metadata("a/b", "README.md", put(tmp_path, "README.md", text))


def test_what_was_checked_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is pinned, so the owner of the dataset cannot replace its metadata in between."""
    asked: list[Any] = []
    card = put(tmp_path, "README.md", CARD.format("data/*.csv"))

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            return huggingface_hub.hf_api.DatasetInfo(id=name, sha=f"commit of {revision}", siblings=[])

    def download(name: str, file: str, repo_type: str, revision: str) -> str:
        asked.append((name, file, repo_type, revision))
        if file != "README.md":
            raise EntryNotFoundError("none")
        return str(card)

    def load(path: str, **given: Any) -> Any:
        asked.append(given)
        raise datasets.exceptions.DatasetNotFoundError("far enough")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="far enough"):
        load_hugging_face("a/b", tmp_path / "cache", ColumnMapping(), revision="v1")
    assert asked == [
        ("a/b", "README.md", "dataset", "commit of v1"), ("a/b", ".huggingface.yaml", "dataset", "commit of v1"),
        {"name": None, "revision": "commit of v1"},
    ]  # fmt: skip
    asked.clear()
    put(tmp_path, "README.md", CARD.format("ftp://127.0.0.1/x.csv"))
    with pytest.raises(DataError, match="is outside the dataset"):
        load_hugging_face("a/b", tmp_path / "cache", ColumnMapping())
    assert len(asked) == 1, "the library was not asked"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pin_revision("a/b", "v1") == "v1"
