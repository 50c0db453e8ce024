"""Sign launch plans: commands of runs that were copied from elsewhere are never executed.

A plan is a command that is started without confirmation, so it is signed: a keyed hash with a key that
is in the root folder of the server and readable only by its owner. The root is the folder of all runs, or for
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
"""Name of the key file, in the root of the runs."""

_KEY_BYTES: Final = 32
_READ_ATTEMPTS: Final = 20
_RETRY_SECONDS: Final = 0.05


def sign_plan(root: Path, run: str, plan: dict[str, Any]) -> str:
    """Sign a plan for one run of this root; the key is created if missing.

    Args:
        root: Folder with the key.
        run: Path of the run below the root.
        plan: The plan to sign.

    Raises:
        DataError: If the key file is invalid.
        OSError: If the folder cannot be written.
    """
    message = json.dumps([run, plan], sort_keys=True).encode()
    return hmac.new(_read_key(root), message, hashlib.sha256).hexdigest()


def is_signed(root: Path, run: str, plan: dict[str, Any], signature: object) -> bool:
    """Whether the signature of a plan is valid for this run; arguments as for ``sign_plan``.

    Raises:
        OSError: If the key cannot be read.
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
        # A link could point to a file known to others, such as one inside a copied run.
        raise DataError(f"The signing key at {path} is not a regular file. Remove it; a new key is created.")
    if not path.exists():
        _make_key(path)
    key = read_regular_file(path)
    for _ in range(_READ_ATTEMPTS):
        if len(key) >= _KEY_BYTES:
            break
        time.sleep(_RETRY_SECONDS)  # another process is writing it
        key = read_regular_file(path)
    if len(key) != _KEY_BYTES:
        raise DataError(f"The signing key {path} must have {_KEY_BYTES} bytes, got {len(key)}. Remove the file.")
    return key


def _make_key(path: Path) -> None:
    """Create the key, unless another process did so first."""
    key = secrets.token_bytes(_KEY_BYTES)
    draft = path.with_name(f"{KEY_FILE}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, key)
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # file systems without hard links, such as network shares and volumes: not atomic
        with suppress(FileExistsError):
            _write_new(path, key)
    finally:
        draft.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
