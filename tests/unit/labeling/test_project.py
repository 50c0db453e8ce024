from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.labeling.database import DATABASE, FIRST_VERSION, MIGRATIONS, Database, newest_version
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project, ProjectSettings, compute_audit_hash, make_item_id
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.quality import measure_quality
from hart_studio.labeling.records import ItemFilter, LabeledSample
from hart_studio.labeling.review import ReviewQueue
from tests.unit.labeling.conftest import BOX, add_label, ask, change_settings, make_check


def test_a_project_keeps_its_name_and_settings(tmp_path: Path) -> None:
    create_project(tmp_path / "p", "  Signs & <b>lights</b> ", ProjectSettings(seed=3, audit_share=0.25))
    project = Project(tmp_path / "p")
    assert project.name == "Signs & <b>lights</b>"
    assert project.settings == ProjectSettings(seed=3, audit_share=0.25)


def test_the_folder_names_a_project_without_a_name(tmp_path: Path) -> None:
    assert create_project(tmp_path / "signs").name == "signs"


def test_a_second_project_in_one_folder_is_refused(project: Project) -> None:
    with pytest.raises(InputError, match=r"is in .* already"):
        create_project(project.folder)


@pytest.mark.parametrize("name", ["a\nb", "x" * 121, "\x00"])
def test_a_name_must_be_a_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a name of 1 to 120"):
        create_project(tmp_path / "p", name)


def test_a_folder_without_a_project(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Create a project first"):
        Project(tmp_path)


def test_a_foreign_file_is_no_project(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match="is no labeling project, or damaged"):
        Project(tmp_path)


def test_a_project_of_a_newer_version_is_left_alone(project: Project) -> None:
    with project.database.writing() as connection:
        connection.execute(f"PRAGMA user_version = {newest_version() + 1}")
    with pytest.raises(DataError, match="Update HART Studio"):
        Project(project.folder)


def test_a_project_of_an_older_version_cannot_be_opened(project: Project) -> None:
    with project.database.writing() as connection:
        connection.execute(f"PRAGMA user_version = {FIRST_VERSION - 1}")
    with pytest.raises(DataError, match="cannot read"):
        Project(project.folder)


def test_a_transaction_that_fails_leaves_nothing(project: Project) -> None:
    with pytest.raises(RuntimeError), project.database.writing() as connection:
        connection.execute("UPDATE project SET name = 'other'")
        raise RuntimeError
    assert project.name == "Streets"


def test_foreign_keys_hold(project: Project) -> None:
    with pytest.raises(sqlite3.IntegrityError), project.database.writing() as connection:
        connection.execute("INSERT INTO item_locks (item, reviewer, expires_at) VALUES ('no one', 'me', 0)")


def test_a_full_disk_is_reported_and_keeps_saved_data(filled: Project) -> None:
    before = [item.label for item in filled.items()]
    with filled.database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DataError, match="The disk is full"):
            for _ in range(1000):
                add_label(filled, next(filled.items()).id, note="x" * 1900)
        connection.execute("PRAGMA max_page_count = 1000000")
    kept = [item.label for item in filled.items()]
    assert kept[1:] == before[1:]
    assert kept[0].revision == len(filled.history(next(filled.items()).id))


def test_a_project_that_cannot_be_written_can_be_read(filled: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.database.close()
    real = sqlite3.connect

    def read_only(path: Path, **options: object) -> sqlite3.Connection:
        return real(str(path).replace("mode=rw", "mode=ro"), **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("hart_studio.labeling.connection_pool.sqlite3.connect", read_only)
    project = Project(filled.folder)
    assert project.count() == 6
    with pytest.raises(DataError, match="cannot be written"):
        add_label(project, next(project.items()).id)


def test_a_label_must_be_the_next_revision(filled: Project, item_ids: list[str]) -> None:
    label = filled.item(item_ids[0]).label
    with pytest.raises(DataError, match="Reload the item"), filled.database.writing() as connection:
        filled.append_label(connection, item_ids[0], label)
    with pytest.raises(DataError, match="no such item"), filled.database.writing() as connection:
        filled.append_label(connection, "0" * 16, label)


def test_history_is_kept_and_the_last_revision_wins(filled: Project, item_ids: list[str]) -> None:
    add_label(filled, item_ids[0], status="rejected", reviewer="Ada")
    item = filled.item(item_ids[0], with_history=True)
    assert (item.label.status, item.label.revision) == ("rejected", 2)
    assert [label.status for label in item.history] == ["new", "proposed"]


@pytest.mark.parametrize(
    ("item_filter", "count"),
    [
        (ItemFilter(), 6),
        (ItemFilter(statuses=("proposed",)), 6),
        (ItemFilter(statuses=("new",)), 0),
        (ItemFilter(min_score=0.5), 2),
        (ItemFilter(max_score=0.2), 2),
        (ItemFilter(category="sign"), 6),
        (ItemFilter(category="si"), 0),
        (ItemFilter(evidence="agreement"), 0),
        (ItemFilter(text="SIGN s3"), 1),
        (ItemFilter(text="sign street.png"), 6),
        (ItemFilter(text="100%"), 0),
        (ItemFilter(text="' OR 1=1 --"), 0),
        (ItemFilter(reviewer="Ada"), 0),
    ],
)
def test_filters(filled: Project, item_filter: ItemFilter, count: int) -> None:
    assert filled.count(item_filter) == count == len(list(filled.items(item_filter)))


def test_counts_add_up(filled: Project, item_ids: list[str]) -> None:
    add_label(filled, item_ids[0], status="accepted", reviewer="Ada")
    assert filled.count_by("status") == {"accepted": 1, "proposed": 5}
    assert filled.count_by("reviewer") == {"": 5, "Ada": 1}
    with pytest.raises(InputError):
        filled.count_by("label; DROP TABLE items")


def test_an_unknown_item(project: Project) -> None:
    with pytest.raises(InputError, match="Reload the list"):
        project.item("../../etc/passwd")


def test_the_id_is_of_image_question_and_choices(image: Path) -> None:
    first = ask(image)
    known = make_item_id("a" * 64, first.question, first.choices)
    assert known == make_item_id("a" * 64, f" {first.question} ", first.choices)
    assert known != make_item_id("b" * 64, first.question, first.choices)
    assert known != make_item_id("a" * 64, first.question, first.choices[::-1])
    assert make_item_id("a" * 64, "q", ("a,b",)) != make_item_id("a" * 64, "q", ("a", "b"))


def test_audit_hashes_are_spread_and_repeatable() -> None:
    hashes = [compute_audit_hash(0, f"{number:016x}") for number in range(2000)]
    assert all(0 <= audit_hash < 1 for audit_hash in hashes)
    assert 0.07 < sum(audit_hash < 0.1 for audit_hash in hashes) / 2000 < 0.13
    assert (
        hashes[:5]
        == [compute_audit_hash(0, f"{number:016x}") for number in range(5)]
        != [compute_audit_hash(1, f"{n:016x}") for n in range(5)]
    )


def test_another_audit_share_reorders_the_queue(filled: Project, item_ids: list[str]) -> None:
    for item_id in item_ids:
        add_label(filled, item_id, status="auto_accepted", score=0.99)

    def waiting() -> int:
        return sum(filled.count_waiting().values())

    change_settings(filled, audit_share=1.0)
    assert waiting() == 6
    change_settings(filled, audit_share=0.0)
    assert waiting() == 0


def test_why_an_item_needs_review(filled: Project, item_ids: list[str]) -> None:
    label = add_label(filled, item_ids[0], check=make_check(crops_correct=False, full_correct=True))
    assert filled.get_review_reason(item_ids[0], label) == "disagreement"
    assert filled.get_review_reason(item_ids[0], label.model_copy(update={"status": "accepted"})) is None


def test_one_auto_accepted_label_is_always_audited(filled: Project, item_ids: list[str]) -> None:
    hashes = {item_id: compute_audit_hash(0, item_id) for item_id in item_ids}
    lowest, highest = min(item_ids, key=hashes.__getitem__), max(item_ids, key=hashes.__getitem__)
    change_settings(filled, audit_share=1e-9)
    add_label(filled, highest, status="auto_accepted", score=0.99)
    filled.sample_audit()
    assert filled.count_waiting() == {"proposed": 5, "auto_accepted": 1}
    add_label(filled, lowest, status="auto_accepted", score=0.99)
    filled.sample_audit()
    assert filled.get_audit_threshold() > hashes[lowest]
    queue = ReviewQueue(filled)
    opened = queue.next_item("Ada", ItemFilter(statuses=("auto_accepted",)))
    assert opened is not None
    assert opened.id == lowest, "one is enough: the other one waits no longer"
    queue.decide("Ada", lowest, 2, "accept")
    assert measure_quality(filled).audited == 1
    queue.undo("Ada")
    assert filled.count_waiting() == {"proposed": 4, "auto_accepted": 1}
    change_settings(filled, audit_share=0.0)
    assert filled.count_waiting() == {"proposed": 4}


def test_imported_boxes_are_left_to_verify(project: Project, image: Path) -> None:
    assert not project.has_boxes_to_verify()
    given = LabeledSample(**ask(image, 0).model_dump(), boxes=(BOX,))
    import_samples(project, LoadedSamples("boxes", (given,)))
    assert project.has_boxes_to_verify()
    import_samples(project, LoadedSamples("streets", (ask(image, 1),)))
    assert not project.has_boxes_to_verify(), "there are new ones too"
    first, second = [item.id for item in project.items()]
    add_label(project, second)
    assert project.has_boxes_to_verify()
    add_label(project, first, origin="imported", check=make_check())
    assert not project.has_boxes_to_verify(), "they are verified"


def test_threads_have_connections_of_their_own(filled: Project) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: filled.count(), range(20))) == [6] * 20


def test_a_migration_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = create_project(tmp_path / "p")
    later = (*MIGRATIONS, ("ALTER TABLE items ADD COLUMN color TEXT NOT NULL DEFAULT ''",))
    monkeypatch.setattr("hart_studio.labeling.database.MIGRATIONS", later)
    for _ in range(2):
        database = Database(project.folder / DATABASE)
        with database.reading() as connection:
            assert "color" in {row["name"] for row in connection.execute("PRAGMA table_info(items)")}
