"""Take the images of the documents: ``make screenshots``."""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.browser.chromium import BROWSER_FLAGS, find_chromium
from tests.browser.screenshots.catalog import SCREENSHOTS, Screenshot
from tests.browser.screenshots.work import PROJECT_ROOT, Work

SCALE: Final = 1.5
"""Pixels of an image for one of the window: letters stay sharp."""

QUALITY: Final = 85
"""Of WebP, in percent."""

MAX_BYTES: Final = 350_000
"""Of one image."""

PATIENCE_MS: Final = 300_000
"""For one step of a page, on a machine that is busy with something else."""

SETTLE_MS: Final = 600
"""Before the shot."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the data, serve the app, take the images.

    Returns:
        0 = done; 2 = no Chromium, or a folder in the way.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "docs" / "images", help="(%(default)s)")
    parser.add_argument(
        "--work", type=Path, help="keep the data here, and use what is there (default: made and removed)"
    )
    parser.add_argument("--only", action="append", choices=[each.name for each in SCREENSHOTS], help="repeat")
    options = parser.parse_args(argv)
    chromium = find_chromium()
    if chromium is None:
        print("expected Chromium, found none; install it: apt-get install chromium", file=sys.stderr)
        return 2
    # A name without random letters: some images show it.
    folder = (options.work or Path(tempfile.gettempdir(), "hart-studio")).resolve()
    if options.work is None and folder.exists():
        print(f"expected no {folder}, found one; remove it, or use it with --work {folder}", file=sys.stderr)
        return 2
    try:
        _take_screenshots(Work(folder), options.out, options.only, chromium)
    finally:
        if options.work is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _take_screenshots(work: Work, out: Path, only: Sequence[str] | None, chromium: str) -> None:
    began = time.monotonic()
    for name in work.prepare():
        print(f"{time.monotonic() - began:5.0f} s  making: {name}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with work.serve(_free_port()) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        for target in SCREENSHOTS:
            if not only or target.name in only:
                size = _take(browser, url, target, work, out)
                print(f"{time.monotonic() - began:5.0f} s  {target.file}: {size:,} bytes", flush=True)
        browser.close()
    if not only:
        for path in out.iterdir():
            if path.name not in {each.file for each in SCREENSHOTS}:
                path.unlink()


def _take(browser: Browser, url: str, target: Screenshot, work: Work, out: Path) -> int:
    """Take one image in a browser that has seen nothing before; its bytes.

    Raises:
        ValueError: If it is too large for a document.
    """
    context = browser.new_context(
        viewport={"width": target.width, "height": target.window},
        device_scale_factor=SCALE,
        timezone_id="UTC",
        locale="en-GB",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{url}?__theme={target.theme}")
    page.wait_for_selector("#ask-button")
    target.pose(page, work)
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLE_MS)
    whole = page.screenshot(full_page=True, animations="disabled", caret="hide")
    top = int(page.evaluate("window.scrollY") * SCALE)
    context.close()
    with Image.open(io.BytesIO(whole)) as shot:
        bottom = min(shot.height, top + int(target.height * SCALE))
        shot.convert("RGB").crop((0, top, shot.width, bottom)).save(out / target.file, quality=QUALITY, method=6)
    size = (out / target.file).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes in {target.file}, got {size:,}; cut it lower")
    return size


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
