"""The browser that drives the page in tests and for the images of the documents."""

from __future__ import annotations

import shutil
from typing import Final

BROWSER_FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing else can be reached
]


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome; None when there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
