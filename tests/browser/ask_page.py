"""The way through the Ask tab, and where things are on its screen."""

import io

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from tests.browser.conftest import SIGN_RGB


def pick_example(page: Page) -> None:
    page.click(".hs-example >> nth=0")
    page.wait_for_selector("#result-a .hs-viewer:not(.hs-is-empty)")


def choose_model(page: Page, name: str, list_id: str = "ask-model-a") -> None:
    page.fill(f"#{list_id} input", name)
    page.keyboard.press("Tab")


def ask(page: Page) -> None:
    page.click("#ask-button")
    page.wait_for_selector("#result-a .hs-card")
    page.wait_for_selector(".hs-status-idle", state="attached")


def screen_box(page: Page, xyxy, slot: str = "a") -> list[float]:
    """Where a rectangle of ORIGINAL pixels is on the screen, from the browser's own transform of the image."""
    return page.evaluate(
        """([slot, [x0, y0, x1, y1]]) => {
          const matrix = document.querySelector(`#result-${slot} .hs-canvas > svg`).getScreenCTM();
          const at = (x, y) => new DOMPoint(x, y).matrixTransform(matrix);
          const [from, to] = [at(x0, y0), at(x1, y1)];
          return [from.x, from.y, to.x, to.y];
        }""",
        [slot, list(xyxy)],
    )


def drawn_box(page: Page, index: int = 0) -> list[float]:
    """Where a numbered region really is on the screen."""
    return page.evaluate(
        """(index) => {
          const rect = document.querySelector(`#result-a rect[data-box="${index}"]`);
          const matrix = rect.getScreenCTM();
          const [left, top] = [rect.x.baseVal.value, rect.y.baseVal.value];
          const at = (px, py) => new DOMPoint(px, py).matrixTransform(matrix);
          const from = at(left, top), to = at(left + rect.width.baseVal.value, top + rect.height.baseVal.value);
          return [from.x, from.y, to.x, to.y];
        }""",
        index,
    )


def view_box(page: Page) -> list[float]:
    text = page.get_attribute("#result-a .hs-canvas > svg", "viewBox")
    return [float(number) for number in text.split()]


def sign_area(page: Page) -> tuple[int, int, int, int]:
    """Bounding box of the sign's color on a real screenshot of the stage: where a person sees the sign."""
    stage = page.locator("#result-a .hs-canvas").bounding_box()
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    x, y = round(stage["x"]), round(stage["y"])
    inside = np.asarray(shot.crop((x, y, x + int(stage["width"]), y + int(stage["height"])))).astype(int)
    rows, columns = np.nonzero(np.abs(inside - SIGN_RGB).max(axis=-1) < 60)
    return columns.min() + x, rows.min() + y, columns.max() + 1 + x, rows.max() + 1 + y
