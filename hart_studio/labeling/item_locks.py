"""Locks of items under review: an item that one reviewer has open is not given to another."""

from __future__ import annotations

import re
import sqlite3
import time
from typing import Final

from hart_studio.errors import InputError

ITEM_LOCK_SECONDS: Final = 600.0
"""Lifetime of a lock after the reviewer's last action on the item. Project default."""

# A lock that expires later was made before the clock was set back; it would block the item for days.
_VALID: Final = "item_locks.expires_at BETWEEN ? AND ?"

IS_UNLOCKED: Final = """NOT EXISTS (SELECT 1 FROM item_locks WHERE item_locks.item = items.id
    AND item_locks.reviewer != ? AND item_locks.expires_at BETWEEN ? AND ?)"""
"""SQL condition on ``items``: no other reviewer has locked the item. See ``unlocked_values`` for its values."""

_REVIEWER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")


class ConflictError(InputError):
    """Another reviewer has changed or locked the item."""


def unlocked_values(reviewer: str) -> tuple[str, float, float]:
    """Values of the placeholders in ``IS_UNLOCKED``."""
    return (reviewer, *_valid_range())


def lock_item(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    """Lock an item for a reviewer and release the reviewer's other items. Call inside a transaction.

    Raises:
        ConflictError: If another reviewer has locked the item.
    """
    check_not_locked(connection, item_id, reviewer)
    connection.execute("DELETE FROM item_locks WHERE reviewer = ? OR item = ?", (reviewer, item_id))
    connection.execute(
        "INSERT INTO item_locks (item, reviewer, expires_at) VALUES (?, ?, ?)",
        (item_id, reviewer, time.time() + ITEM_LOCK_SECONDS),
    )


def check_not_locked(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    """Check that no other reviewer has locked the item.

    Raises:
        ConflictError: If another reviewer has locked it.
    """
    row = connection.execute(
        f"SELECT reviewer FROM item_locks WHERE item = ? AND reviewer != ? AND {_VALID}",  # noqa: S608 - a constant
        (item_id, *unlocked_values(reviewer)),
    ).fetchone()
    if row is not None:
        raise ConflictError(f"{row['reviewer']} has this item open. Choose another item.")


def release_item_locks(connection: sqlite3.Connection, reviewer: str) -> None:
    """Release the locks of a reviewer, and expired ones."""
    connection.execute(
        f"DELETE FROM item_locks WHERE reviewer = ? OR NOT ({_VALID})",  # noqa: S608 - a constant
        unlocked_values(reviewer),
    )


def check_reviewer(name: str) -> str:
    """Normalize a reviewer name.

    Raises:
        InputError: If it is empty, too long, or holds control characters.
    """
    found = " ".join(name.split()) if isinstance(name, str) else ""
    if not _REVIEWER.fullmatch(found):
        raise InputError("The reviewer name must have 1 to 120 characters. Enter your name.")
    return found


def _valid_range() -> tuple[float, float]:
    now = time.time()
    return now, now + ITEM_LOCK_SECONDS
