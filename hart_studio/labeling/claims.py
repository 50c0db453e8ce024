"""Claims on items under review: an item that one reviewer has open is not given to another."""

from __future__ import annotations

import re
import sqlite3
import time
from typing import Final

from hart_studio.errors import InputError

CLAIM_SECONDS: Final = 600.0
"""How long a claim lasts after the reviewer's last action on the item. Project default."""

# No claim is longer than that, so one that is was made before the clock was put back: it would hold an item for days.
_VALID: Final = "claims.until BETWEEN ? AND ?"

FREE: Final = """NOT EXISTS (SELECT 1 FROM claims WHERE claims.item = items.id AND claims.reviewer != ?
    AND claims.until BETWEEN ? AND ?)"""
"""SQL condition on ``items``: no other reviewer has claimed the item. Its values are those of ``free_values``."""

_REVIEWER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")


class ConflictError(InputError):
    """Another reviewer has changed or claimed the item."""


def free_values(reviewer: str) -> tuple[str, float, float]:
    """Values of the placeholders in ``FREE``."""
    return (reviewer, *_valid_range())


def claim(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    """Give an item to a reviewer, who then holds no other one; to be called in a transaction.

    Raises:
        ConflictError: If another reviewer has claimed the item.
    """
    check_unclaimed(connection, item_id, reviewer)
    connection.execute("DELETE FROM claims WHERE reviewer = ? OR item = ?", (reviewer, item_id))
    connection.execute(
        "INSERT INTO claims (item, reviewer, until) VALUES (?, ?, ?)",
        (item_id, reviewer, time.time() + CLAIM_SECONDS),
    )


def check_unclaimed(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    """Refuse an item that another reviewer has claimed.

    Raises:
        ConflictError: If another reviewer has claimed it.
    """
    row = connection.execute(
        f"SELECT reviewer FROM claims WHERE item = ? AND reviewer != ? AND {_VALID}",  # noqa: S608 - a constant
        (item_id, *free_values(reviewer)),
    ).fetchone()
    if row is not None:
        raise ConflictError(f"expected an item that nobody has open, got one that {row['reviewer']} works on")


def release_claims(connection: sqlite3.Connection, reviewer: str) -> None:
    """Remove the claims of a reviewer, and those that have expired."""
    connection.execute(
        f"DELETE FROM claims WHERE reviewer = ? OR NOT ({_VALID})",  # noqa: S608 - a constant
        free_values(reviewer),
    )


def check_reviewer(name: str) -> str:
    """Normalize the name of a reviewer.

    Raises:
        InputError: If it is empty, too long, or holds control characters.
    """
    found = " ".join(name.split()) if isinstance(name, str) else ""
    if not _REVIEWER.fullmatch(found):
        raise InputError("expected a name of 1 to 120 characters, so that your decisions can be told from others'")
    return found


def _valid_range() -> tuple[float, float]:
    now = time.time()
    return now, now + CLAIM_SECONDS
