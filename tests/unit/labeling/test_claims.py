from __future__ import annotations

import time

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.claims import (
    CLAIM_SECONDS,
    ConflictError,
    check_reviewer,
    check_unclaimed,
    claim,
    release_claims,
)
from hart_studio.labeling.project import Project


def test_a_claim_keeps_others_away_until_it_is_released(filled: Project, item_ids: list[str]) -> None:
    with filled.database.writing() as connection:
        claim(connection, item_ids[0], "Ada")
        check_unclaimed(connection, item_ids[0], "Ada")
        with pytest.raises(ConflictError, match="Ada works on"):
            claim(connection, item_ids[0], "Bo")
        release_claims(connection, "Ada")
        claim(connection, item_ids[0], "Bo")


def test_a_reviewer_holds_one_item(filled: Project, item_ids: list[str]) -> None:
    with filled.database.writing() as connection:
        claim(connection, item_ids[0], "Ada")
        claim(connection, item_ids[1], "Ada")
        check_unclaimed(connection, item_ids[0], "Bo")


@pytest.mark.parametrize("jump", [CLAIM_SECONDS + 1, -CLAIM_SECONDS])
def test_an_expired_claim_and_one_of_a_clock_put_back_hold_nothing(
    filled: Project, item_ids: list[str], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = time.time()
    with filled.database.writing() as connection:
        claim(connection, item_ids[0], "Ada")
        monkeypatch.setattr("hart_studio.labeling.claims.time.time", lambda: now + jump)
        check_unclaimed(connection, item_ids[0], "Bo")
        release_claims(connection, "Bo")
        assert connection.execute("SELECT COUNT(*) FROM claims").fetchone()[0] == 0


@pytest.mark.parametrize("name", ["", "   ", "x" * 121, None, 5, "a\x00b"])
def test_a_reviewer_has_a_name(name: str) -> None:
    with pytest.raises(InputError, match="a name of 1 to 120"):
        check_reviewer(name)
