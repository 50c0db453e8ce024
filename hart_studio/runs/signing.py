"""Which launch plans this server has made itself: a run that was copied here brings no command that is obeyed.

A plan is a command that is started without being asked about again, so it carries a signature: a hash with a key that
lies
in the server's own root and that only the user who owns it can read. The root is the folder of all runs, or for
labeling the folder of all projects: a key inside a project would be copied with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import DataError
from hart_studio.files import read_regular_file

KEY_FILE: Final = ".queue.key"
"""Name of the file with the key, in the root of the runs."""

_KEY_BYTES: Final = 32
_READ_ATTEMPTS: Final = 20
_RETRY_SECONDS: Final = 0.05


def sign_plan(root: Path, run: str, plan: dict[str, Any]) -> str:
    """The signature of a plan for one run of this root; the key is made when there is none.

    Args:
        root: Folder with the key.
        run: Path of the run's folder below the root.
        plan: What is signed.

    Raises:
        DataError: If what lies there is no key.
        OSError: If the folder cannot be written.
    """
    message = json.dumps([run, plan], sort_keys=True).encode()
    return hmac.new(_read_key(root), message, hashlib.sha256).hexdigest()


def is_signed(root: Path, run: str, plan: dict[str, Any], signature: object) -> bool:
    """Whether a plan was made here, for this run, and is as it was made; arguments as for ``sign_plan``.

    Raises:
        OSError: If there is a key that cannot be read now.
    """
    if not isinstance(signature, str) or not (root / KEY_FILE).is_file():
        return False
    try:
        return hmac.compare_digest(sign_plan(root, run, plan).encode(), signature.encode("utf-8", "replace"))
    except DataError:
        return False


def _read_key(root: Path) -> bytes:
    path = root / KEY_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        # A link could lead to a file that others know, such as one inside of a run that was copied here.
        raise DataError(f"The signing key at {path} is not a regular file. Remove it; a new key is made.")
    if not path.exists():
        _make_key(path)
    key = read_regular_file(path)
    for _ in range(_READ_ATTEMPTS):
        if len(key) >= _KEY_BYTES:
            break
        time.sleep(_RETRY_SECONDS)  # someone is writing it
        key = read_regular_file(path)
    if len(key) != _KEY_BYTES:
        raise DataError(f"expected a key of {_KEY_BYTES} bytes at {path}, got {len(key)}; remove the file")
    return key


def _make_key(path: Path) -> None:
    """Make the key, unless someone else was first: theirs is taken then."""
    key = secrets.token_bytes(_KEY_BYTES)
    draft = path.with_name(f"{KEY_FILE}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, key)
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # file systems without hard links, such as network shares and volumes: not whole at once there
        with suppress(FileExistsError):
            _write_new(path, key)
    finally:
        draft.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
