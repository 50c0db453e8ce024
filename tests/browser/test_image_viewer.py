"""The viewer of an image: boxes on the right pixels at every zoom, keys, and 45 megapixels."""

import time

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from tests.browser.ask_page import ask, drawn_box, pick_example, screen_box, sign_area, view_box
from tests.browser.conftest import PATIENCE_MS, SIGN_XYXY

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


def test_boxes_lie_on_the_right_pixels_at_every_zoom(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    page.wait_for_function("document.querySelector('#result-a .hs-canvas image').getAttribute('href')")
    for step in ("fit", "zoomed", "focused"):
        if step == "zoomed":
            page.click('#result-a [data-command="+"]')
        if step == "focused":
            page.click("#result-a .hs-box-list button")
        page.wait_for_timeout(400)
        expected = screen_box(page, SIGN_XYXY)
        assert drawn_box(page) == pytest.approx(expected, abs=1), step
        # The drawn outline covers the sign's rim, so what is left of it lies inside it and close to it.
        assert sign_area(page) == pytest.approx(expected, abs=6), step
        assert expected[2] - expected[0] == pytest.approx((expected[3] - expected[1]) * 200 / 225, rel=1e-3)


def test_zoom_pan_and_keys_move_the_view(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    stage = page.locator("#result-a .hs-canvas")
    stage.focus()
    fitted = view_box(page)
    page.keyboard.press("+")
    zoomed = view_box(page)
    assert zoomed[2] == pytest.approx(fitted[2] / 1.4)
    page.keyboard.press("+")
    before = view_box(page)
    page.keyboard.press("ArrowRight")
    after = view_box(page)
    assert after[0] > before[0]
    assert after[1:] == pytest.approx(before[1:])
    page.keyboard.press("-")
    assert view_box(page)[2] == pytest.approx(zoomed[2])
    page.keyboard.press("f")
    assert view_box(page) == pytest.approx(fitted)
    page.keyboard.press("1")
    focused = view_box(page)
    assert focused[0] < SIGN_XYXY[0] and focused[0] + focused[2] > SIGN_XYXY[2]
    assert focused[2] < fitted[2] / 1.5
    expect(page.locator("#result-a .hs-box-list button")).to_have_attribute("aria-pressed", "true")

    page.keyboard.press("f")
    box = stage.bounding_box()
    x, y = box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    anchor = page.evaluate(
        "([x, y]) => { const p = new DOMPoint(x, y).matrixTransform(document.querySelector("
        "'#result-a .hs-canvas > svg').getScreenCTM().inverse()); return [p.x, p.y]; }", [x, y])  # fmt: skip
    page.mouse.wheel(0, -600)
    page.wait_for_function("parseFloat(document.querySelector('#result-a .hs-zoom').textContent) > 2")
    assert screen_box(page, (*anchor, *anchor))[:2] == pytest.approx([x, y], abs=1)

    before = view_box(page)
    page.mouse.down()
    page.mouse.move(x - 80, y, steps=4)
    page.mouse.up()
    assert view_box(page)[0] > before[0]


def test_the_page_scrolls_over_an_image_without_focus(studio, open_page):
    page = open_page(studio, size=(1280, 500))
    pick_example(page)
    fitted = view_box(page)
    box = page.locator("#result-a .hs-canvas").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, 200)
    page.wait_for_function("scrollY > 0")
    assert view_box(page) == pytest.approx(fitted)


def test_a_crop_leads_to_its_place_in_the_image(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    before = view_box(page)
    page.click("#result-a .hs-crop")
    after = view_box(page)
    assert after[2] < before[2] / 1.5
    assert after[0] + after[2] / 2 == pytest.approx(500, abs=2)
    assert after[1] + after[3] / 2 == pytest.approx(562.5, abs=2)


def test_an_image_of_45_megapixels_stays_light(studio, open_page, tmp_path):
    big = Image.new("RGB", (8192, 5460), (30, 50, 70))
    ImageDraw.Draw(big).rectangle((2048, 2730, 3071, 4094), fill=(255, 255, 255))
    big.save(tmp_path / "big.jpg", quality=80)
    page = open_page(studio)
    page.set_input_files("#ask-image input[type=file]", tmp_path / "big.jpg")
    expect(page.locator("#result-a .hs-viewer-name")).to_contain_text("8,192 × 5,460 px")
    page.fill("#ask-question textarea", "Which number is on the sign?")
    ask(page)
    expect(page.locator("#result-a .hs-crop")).to_contain_text("1,024 × 1,365 px")
    assert drawn_box(page) == pytest.approx(screen_box(page, (2048, 2730, 3072, 4095)), abs=1)

    page.wait_for_function("document.querySelector('#result-a .hs-canvas image').getAttribute('href')")
    shown = page.evaluate(
        "(async () => { const i = new Image(); i.src = document.querySelector('#result-a .hs-canvas image')"
        ".getAttribute('href'); await i.decode(); return [i.naturalWidth, i.naturalHeight]; })()")  # fmt: skip
    assert shown == [2048, 1365]
    page.locator("#result-a .hs-canvas").focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.wait_for_function("document.querySelector('#result-a .hs-canvas image').dataset.width === '4096'")
    started = time.monotonic()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.evaluate("new Promise(requestAnimationFrame)")
    # Far under a tenth of a second each, with a margin for a busy machine.
    assert (time.monotonic() - started) / 30 < 0.5
