import json
import math
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hart_studio.errors import DataError, InputError
from hart_studio.files import append_jsonl, is_url, read_jsonl, resolve_inside, write_atomically, write_json
from tests.examples import example_count

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=4)


# --- whole files ----------------------------------------------------------------------------------------------------


def test_write_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "first, and longer")
    write_atomically(path, "zweitens: ä 中")
    assert path.read_text(encoding="utf-8") == "zweitens: ä 中"
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    sync = os.fsync
    at_sync: list[tuple[int, bool]] = []

    def spy(descriptor: int) -> None:
        at_sync.append((os.fstat(descriptor).st_size, path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_atomically(path, "12345")
    assert at_sync == [(5, False)]


def test_written_file_has_the_usual_access_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomically(tmp_path / "own", "x")
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "file", "x")


@given(record=json_values)
@settings(max_examples=example_count(cost=8))
def test_json_round_trip(record: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    write_json(path, record)
    assert json.loads(path.read_bytes()) == record


def test_json_is_readable_by_people_and_any_text_survives(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"question": "标志 ä", "torn": "\ud800"})
    assert path.read_bytes() == '{\n  "question": "标志 ä",\n  "torn": "\\ud800"\n}\n'.encode()
    assert json.loads(path.read_bytes())["torn"] == "\ud800"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_never_written(value: float, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": value})
    with pytest.raises(ValueError, match="JSON compliant"):
        append_jsonl(tmp_path / "b.jsonl", {"loss": value})
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert not (tmp_path / "b.jsonl").exists()


# --- lines ----------------------------------------------------------------------------------------------------------


@given(records=st.lists(json_values, max_size=5))
@settings(max_examples=example_count(cost=8))
def test_lines_round_trip(records: list[object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b"")
    for record in records:
        append_jsonl(path, record)
    assert list(read_jsonl(path)) == list(enumerate(records, start=1))


@given(records=st.lists(json_objects, min_size=1, max_size=3), data=st.data())
@settings(max_examples=example_count(cost=8))
def test_torn_file_reads_as_its_whole_lines_and_can_be_continued(
    records: list[object], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    path.write_bytes(b"")
    ends = [0]
    for record in records:
        append_jsonl(path, record)
        ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    whole = sum(end - 1 <= cut for end in ends[1:])  # a line that only lacks its newline is whole
    assert [record for _, record in read_jsonl(path)] == records[:whole]
    append_jsonl(path, {"next": True})
    assert [record for _, record in read_jsonl(path)] == [*records[:whole], {"next": True}]
    assert path.read_bytes().count(b"\n") == whole + 1


def test_torn_line_longer_than_one_read_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"seq": 1}\n{"text": "' + b"x" * 200_000)
    append_jsonl(path, {"seq": 2})
    assert path.read_bytes() == b'{"seq": 1}\n{"seq": 2}\n'


def test_blank_lines_keep_the_numbering(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n[2]\n{"c": 3}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, [2]), (5, {"c": 3})]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"{'a': 1}", "value: \"{'a': 1}\""),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b"\xff\xfe", "can't decode"),
        (b"[" * 100_000, "value: '[[[["),
        (b'"' + b"x" * 5000, "..."),
    ],
)
def test_bad_line_is_named(line: bytes, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b'\n{"a": 2}\n')
    lines = read_jsonl(path)
    assert next(lines) == (1, {"a": 0})
    with pytest.raises(DataError) as caught:
        next(lines)
    assert str(caught.value).startswith("'samples.jsonl' line 2: not one JSON value: ")
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("tail", [b"tr", b"123", b'"text"', b'{"a": 1', b'{"a": NaN}', b"\xff"])
def test_last_line_without_newline_counts_only_when_surely_whole(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"[1]\n" + tail)
    assert list(read_jsonl(path)) == [(1, [1])]


def test_unreadable_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'none\.jsonl': No such file"):
        next(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="Is a directory"):
        next(read_jsonl(tmp_path))


@given(content=st.binary(max_size=200))
def test_any_bytes_give_values_or_a_data_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        numbers = [number for number, _ in read_jsonl(path)]
        assert numbers == sorted(set(numbers))
    except DataError as error:
        assert "line" in str(error)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a sibling folder, and links outside and in a loop."""
    root = tmp_path / "runs"
    (root / "one").mkdir(parents=True)
    (root / "one" / "config.json").write_text("{}")
    (tmp_path / "runs_secret").mkdir()
    (tmp_path / "runs_secret" / "key").write_text("secret")
    (root / "out").symlink_to(tmp_path / "runs_secret")
    (root / "out_file").symlink_to(tmp_path / "runs_secret" / "key")
    (root / "up").symlink_to("..")
    (root / "alias").symlink_to("one")
    return root


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("one/config.json", "one/config.json"),
        ("one", "one"),
        ("./one//config.json", "one/config.json"),
        ("not/yet/there.png", "not/yet/there.png"),
        ("alias/config.json", "one/config.json"),
        ("..hidden", "..hidden"),
        ("a..b", "a..b"),
        ("图 1.png", "图 1.png"),
    ],
)
def test_names_inside(name: str, below: str, root: Path) -> None:
    assert resolve_inside(root, name) == root.resolve() / below


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../runs_secret/key",
        "one/../../runs_secret/key",
        "one/../one/config.json",
        "/etc/passwd",
        "//etc/passwd",
        "out",
        "out/key",
        "out/not_yet_there",
        "out_file",
        "up",
        "up/runs_secret/key",
        "one\0/config.json",
        "\0",
        "\ud800/\0",
    ],
)
def test_names_that_leave_are_refused(name: str, root: Path) -> None:
    with pytest.raises(InputError, match=r"Invalid file name .*: use a relative path inside 'runs'") as caught:
        resolve_inside(root, name)
    assert str(root.parent) not in str(caught.value)


def test_absolute_name_is_refused_even_when_it_points_inside(root: Path) -> None:
    with pytest.raises(InputError):
        resolve_inside(root, str(root / "one"))


def test_root_may_itself_be_a_link(root: Path) -> None:
    link = root.parent / "link_to_runs"
    link.symlink_to(root)
    assert resolve_inside(link, "one") == root.resolve() / "one"


@given(
    name=st.text(max_size=60)
    | st.lists(st.sampled_from(["..", ".", "/", "one", "out", "up", "loop", "\0", "x"])).map("/".join)
)
def test_any_name_is_inside_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_name"
    (folder / "one").mkdir(parents=True, exist_ok=True)
    for link, target in (("out", "/etc"), ("up", ".."), ("loop", "loop")):
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(target)
    try:
        path = resolve_inside(folder, name)
    except InputError:
        return
    assert path.is_relative_to(folder.resolve())
    assert path != folder.resolve()
    assert path == path.resolve()


@pytest.mark.parametrize(
    "name",
    [
        "https://hub.example/x", "HTTP://x", " http://x", "file:///etc", "file:/etc", "git+ssh://x", "s3://bucket/x",
        "//host/x", "\\\\host\\share", "\\/host/x", "/\\host/x", "\t//host/x", "ab:/",
    ],
)  # fmt: skip
def test_an_address_is_distinguished_from_a_file(name: str) -> None:
    assert is_url(name)


@pytest.mark.parametrize(
    "name", ["", "/", "/srv/x", "C:\\x", "c:/x", "a:b", "step:3", "x//y", "owner/model", "~/x", "..", "https", "x\0://"]
)
def test_a_file_is_no_address(name: str) -> None:
    assert not is_url(name)


def test_devices_pipes_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=r"not a regular file|directory"):
            write_atomically(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "folder").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
