import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hart_studio.labeling.write_ahead_log import (
    HEADER_BYTES,
    find_header,
    get_number,
    get_size,
    is_checkpoint,
    is_log_of,
    is_start,
    read_headers,
    read_index,
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file with number 7, and transactions 8 to 10 only in its log."""
    found = sqlite3.connect(tmp_path / "data.sqlite", isolation_level=None)
    found.executescript("PRAGMA application_id = 7; CREATE TABLE rows (text); PRAGMA journal_mode = WAL;")
    for number in (8, 9, 10):
        found.execute("BEGIN")
        found.execute("INSERT INTO rows VALUES (?)", ("x" * 9000,))
        found.execute(f"PRAGMA application_id = {number}")
        found.execute("COMMIT")
    yield found
    found.close()


def read_header(folder: Path, connection: sqlite3.Connection) -> bytes:
    """Header of the file. Releasing the locks of this process is fine: no other process uses the file."""
    return (folder / "data.sqlite").read_bytes()[:HEADER_BYTES]


def test_a_log_holds_the_headers_of_its_transactions(tmp_path: Path, connection: sqlite3.Connection) -> None:
    log = tmp_path / "data.sqlite-wal"
    headers = read_headers(log)
    assert [get_number(each) for each in headers] == [8, 9, 10]
    header = read_header(tmp_path, connection)
    assert get_number(header) == 7
    assert get_size(header) == (tmp_path / "data.sqlite").stat().st_size
    assert is_start(header, headers[0])
    assert is_log_of(header, headers)
    assert not is_log_of(header, headers[1:]), "the log starts from a later state"
    assert read_headers(tmp_path / "missing") == ()


def test_an_index_shows_what_a_checkpoint_has_copied(tmp_path: Path, connection: sqlite3.Connection) -> None:
    log, index_file = tmp_path / "data.sqlite-wal", tmp_path / "data.sqlite-shm"
    descriptor = os.open(index_file, os.O_RDONLY)
    try:
        before = read_index(descriptor)
        assert before is not None
        assert before.copied == before.copying == 0
        assert find_header(log, before, before.frames) == read_headers(log)[-1]
        assert find_header(log, before, 0) is None
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        after = read_index(descriptor)
        assert after is not None
        assert after.copied == after.copying == after.frames == before.frames
        header = read_header(tmp_path, connection)
        assert header == find_header(log, after, after.copied)
        assert is_checkpoint(header, after, before, 10, log)
        assert not is_checkpoint(read_headers(log)[0], after, before, 10, log), "an earlier state was restored"
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        restarted = read_index(descriptor)
        assert restarted is not None
        assert restarted.salts != after.salts
        assert is_checkpoint(header, restarted, before, 10, log)
        assert not is_checkpoint(header, restarted, before, 11, log), "a transaction is missing"
    finally:
        os.close(descriptor)


def test_a_vacuumed_copy_is_not_what_the_log_started_from(tmp_path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.sqlite"),))
    connection.execute("PRAGMA application_id = 11")
    headers = read_headers(tmp_path / "data.sqlite-wal")
    assert is_log_of(read_header(tmp_path, connection), headers)
    copy = (tmp_path / "copy.sqlite").read_bytes()[:HEADER_BYTES]
    assert get_number(copy) == 10
    assert not is_log_of(copy, headers)


def test_a_transaction_that_was_not_committed_does_not_count(tmp_path: Path, connection: sqlite3.Connection) -> None:
    log = tmp_path / "data.sqlite-wal"
    data = bytearray(log.read_bytes())
    frame = 24 + 4096
    last = 32 + (len(data) - 32) // frame * frame - frame
    data[last + 4 : last + 8] = bytes(4)
    (tmp_path / "torn-wal").write_bytes(data)
    assert [get_number(each) for each in read_headers(tmp_path / "torn-wal")] == [8, 9]
    (tmp_path / "short-wal").write_bytes(data[:40])
    assert read_headers(tmp_path / "short-wal") == ()
    (tmp_path / "other-wal").write_bytes(b"no log" * 100)
    assert read_headers(tmp_path / "other-wal") == ()
