import io
import re
import time
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from hart_studio.pipeline.trace import load_trace
from tests.browser.conftest import PATIENCE_MS, PROJECT_ROOT, SIGN_RGB, SIGN_XYXY

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


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
    """Where a rectangle of ORIGINAL pixels is on the screen, told by the browser's own transform of the picture."""
    return page.evaluate(
        """([slot, [x0, y0, x1, y1]]) => {
          const matrix = document.querySelector(`#result-${slot} .hs-stage > svg`).getScreenCTM();
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
    text = page.get_attribute("#result-a .hs-stage > svg", "viewBox")
    return [float(number) for number in text.split()]


def sign_area(page: Page) -> tuple[int, int, int, int]:
    """Bounding box of the sign's colour on a real screenshot of the stage: where a person sees the sign."""
    stage = page.locator("#result-a .hs-stage").bounding_box()
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    x, y = round(stage["x"]), round(stage["y"])
    inside = np.asarray(shot.crop((x, y, x + int(stage["width"]), y + int(stage["height"])))).astype(int)
    rows, columns = np.nonzero(np.abs(inside - SIGN_RGB).max(axis=-1) < 60)
    return columns.min() + x, rows.min() + y, columns.max() + 1 + x, rows.max() + 1 + y


def test_the_page_opens_with_an_invitation(studio, open_page):
    page = open_page(studio)
    expect(page.locator("#result-a .hs-empty")).to_contain_text("See where the answer comes from")
    expect(page.locator(".hs-example")).to_have_count(1)
    expect(page.locator("#result-b")).to_have_count(0)
    assert page.title() == "HART Studio"


def test_an_example_gives_regions_crops_and_three_answers(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    expect(page.locator("#ask-question textarea")).to_have_value("Which number is on the sign?")
    expect(page.locator("#ask-choices textarea")).to_have_value("five\nsix\nseven")
    ask(page)

    cards = page.locator("#result-a .hs-card")
    expect(cards).to_have_count(3)
    assert [cards.nth(i).get_attribute("data-protocol") for i in range(3)] == ["crops_only", "direct", "full_and_crops"]
    expect(cards.nth(0)).to_contain_text("Right")
    expect(cards.nth(0).locator(".hs-answer")).to_have_text("Afive")
    expect(cards.nth(1)).to_contain_text("Wrong")
    expect(cards.nth(2)).to_contain_text("Right")
    expect(page.locator("#result-a .hs-badges")).to_contain_text("Sufficient?yes")
    expect(page.locator("#result-a .hs-badges")).to_contain_text("Area3.1% of the picture")

    expect(page.locator("#result-a .hs-strip")).to_contain_text(re.compile(r"Overview\d+ × \d+ px"))
    expect(page.locator("#result-a .hs-crop")).to_have_count(1)
    expect(page.locator("#result-a .hs-crop")).to_contain_text("200 × 225 px")
    size = page.evaluate("(async () => { const i = document.querySelector('.hs-crop img'); await i.decode();"
                         " return [i.naturalWidth, i.naturalHeight]; })()")  # fmt: skip
    assert size == [200, 225]

    cards.nth(0).locator("summary").click()
    expect(cards.nth(0).locator("pre").nth(0)).to_contain_text('"bbox_2d": [250, 500, 375, 750]')
    expect(cards.nth(0).locator("pre").nth(1)).to_have_text("The sign says five. \\boxed{A}")


def test_boxes_lie_on_the_right_pixels_at_every_zoom(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    page.wait_for_function("document.querySelector('#result-a .hs-stage image').getAttribute('href')")
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
    stage = page.locator("#result-a .hs-stage")
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
        "'#result-a .hs-stage > svg').getScreenCTM().inverse()); return [p.x, p.y]; }", [x, y])  # fmt: skip
    page.mouse.wheel(0, -600)
    page.wait_for_function("parseFloat(document.querySelector('#result-a .hs-zoom').textContent) > 2")
    assert screen_box(page, (*anchor, *anchor))[:2] == pytest.approx([x, y], abs=1)

    before = view_box(page)
    page.mouse.down()
    page.mouse.move(x - 80, y, steps=4)
    page.mouse.up()
    assert view_box(page)[0] > before[0]


def test_the_page_scrolls_over_a_picture_without_focus(studio, open_page):
    page = open_page(studio, size=(1280, 500))
    pick_example(page)
    fitted = view_box(page)
    box = page.locator("#result-a .hs-stage").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, 200)
    page.wait_for_function("scrollY > 0")
    assert view_box(page) == pytest.approx(fitted)


def test_a_crop_leads_to_its_place_in_the_picture(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    before = view_box(page)
    page.click("#result-a .hs-crop")
    after = view_box(page)
    assert after[2] < before[2] / 1.5
    assert after[0] + after[2] / 2 == pytest.approx(500, abs=2)
    assert after[1] + after[3] / 2 == pytest.approx(562.5, abs=2)


def test_a_picture_of_45_megapixels_stays_light(studio, open_page, tmp_path):
    big = Image.new("RGB", (8192, 5460), (30, 50, 70))
    ImageDraw.Draw(big).rectangle((2048, 2730, 3071, 4094), fill=(255, 255, 255))
    big.save(tmp_path / "big.jpg", quality=80)
    page = open_page(studio)
    page.set_input_files("#ask-picture input[type=file]", tmp_path / "big.jpg")
    expect(page.locator("#result-a .hs-viewer-name")).to_contain_text("8,192 × 5,460 px")
    page.fill("#ask-question textarea", "Which number is on the sign?")
    ask(page)
    expect(page.locator("#result-a .hs-crop")).to_contain_text("1,024 × 1,365 px")
    assert drawn_box(page) == pytest.approx(screen_box(page, (2048, 2730, 3072, 4095)), abs=1)

    page.wait_for_function("document.querySelector('#result-a .hs-stage image').getAttribute('href')")
    shown = page.evaluate(
        "(async () => { const i = new Image(); i.src = document.querySelector('#result-a .hs-stage image')"
        ".getAttribute('href'); await i.decode(); return [i.naturalWidth, i.naturalHeight]; })()")  # fmt: skip
    assert shown == [2048, 1365]
    page.locator("#result-a .hs-stage").focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.wait_for_function("document.querySelector('#result-a .hs-stage image').dataset.width === '4096'")
    started = time.monotonic()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.evaluate("new Promise(requestAnimationFrame)")
    # Far under a tenth of a second each, with room for a machine that is busy otherwise.
    assert (time.monotonic() - started) / 30 < 0.5


def test_two_models_stand_side_by_side(studio, open_page):
    page = open_page(studio, size=(1920, 1080))
    pick_example(page)
    choose_model(page, "blind", "ask-model-b")
    ask(page)
    page.wait_for_selector("#result-b .hs-card")
    expect(page.locator("#result-a .hs-model")).to_have_text("scripted")
    expect(page.locator("#result-b .hs-model")).to_have_text("blind")
    expect(page.locator("#result-b .hs-card").nth(0)).to_contain_text("The model named no region.")
    expect(page.locator("#result-b .hs-card").nth(1)).to_contain_text("no answer")
    left, right = (page.locator(f"#result-{slot}").bounding_box() for slot in "ab")
    assert right["x"] >= left["x"] + left["width"]
    assert right["width"] == pytest.approx(left["width"], abs=2)

    choose_model(page, "", "ask-model-b")
    page.locator("#ask-model-b input").fill("No second model")
    page.keyboard.press("Enter")
    page.click("#ask-button")
    expect(page.locator("#result-b")).to_have_count(0)


def test_a_model_that_fails_is_explained(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    alert = page.get_by_role("alert")
    for model, title, text in [
        ("absent/model", "The model cannot be used", "Expected a folder or a hub model, found no 'absent/model'"),
        ("unreachable/model", "The model cannot be used", "the hub cannot be reached"),
        ("full", "Out of memory", "Lower the overview budget"),
        ("broken", "Something went wrong", "The log has it as"),
    ]:
        choose_model(page, model)
        page.click("#ask-button")
        expect(alert).to_contain_text(title)
        expect(alert).to_contain_text(text)
        expect(alert).not_to_contain_text("secret")
        expect(page.locator("#result-a .hs-card")).to_have_count(0)
    choose_model(page, "scripted")
    ask(page)
    expect(alert).to_have_count(0)


def test_a_form_that_is_not_complete_is_explained(studio, open_page):
    page = open_page(studio)
    page.click("#ask-button")
    expect(page.get_by_role("alert")).to_contain_text("There is no picture yet")
    pick_example(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.fill("#ask-question textarea", "   ")
    page.click("#ask-button")
    expect(page.get_by_role("alert")).to_contain_text("There is no question yet")
    page.fill("#ask-question textarea", "Which number?")
    page.fill("#ask-answer input", "nine")
    page.click("#ask-button")
    expect(page.get_by_role("alert")).to_contain_text("nine")


def truncated_png() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(stream, "PNG")
    return stream.getvalue()[:9000]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "SVG"),
        ("broken.png", truncated_png(), "broken.png"),
        ("empty.jpg", b"", "empty"),
        ("notes.png", b"just some text, not a picture", "notes.png"),
    ],
)
def test_a_file_that_is_no_picture_is_explained(studio, open_page, tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    page = open_page(studio)
    page.set_input_files("#ask-picture input[type=file]", tmp_path / name)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This picture cannot be used")
    expect(alert).to_contain_text(re.compile(text, re.IGNORECASE))
    expect(alert).not_to_contain_text("/work")
    expect(page.locator("#result-a .hs-empty")).to_be_visible()


def test_no_text_of_a_person_or_a_model_becomes_markup(studio, open_page):
    evil = (
        "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">${document.title='owned'}"
    )
    page = open_page(studio)
    pick_example(page)
    page.fill("#ask-question textarea", evil + " {{document.title='owned'}}")
    page.fill("#ask-choices textarea", f"{evil}\n{{{{7*7}}}} ${{7*7}}\nplain")
    page.fill("#ask-answer input", "A")
    choose_model(page, "hostile")
    ask(page)
    for summary in page.locator("#result-a .hs-raw summary").all():
        summary.click()
    expect(page.locator("#result-a .hs-answer").nth(0)).to_contain_text(evil)
    expect(page.locator("#result-a .hs-answers-head")).to_contain_text("<script>")
    expect(page.locator("#result-a .hs-box-label")).to_contain_text("<img src=x onerror=")
    expect(page.locator("#result-a pre").nth(1)).to_contain_text("${document.title='owned'}{{document.title='owned'}}")
    page.wait_for_timeout(500)
    assert page.title() == "HART Studio"
    assert page.locator("#ask-results script, #ask-results img[src='x']").count() == 0
    choose_model(page, evil)
    page.click("#ask-button")
    page.wait_for_selector("#result-a .hs-model")
    assert page.title() == "HART Studio"


def test_the_keyboard_reaches_everything_in_order(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    page.focus("#ask-question textarea")
    page.keyboard.press("End")
    page.keyboard.type(" Really?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result-a .hs-card")
    expect(page.locator("#ask-question textarea")).to_have_value("Which number is on the sign? Really?")

    order = []
    page.focus("#ask-question textarea")
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                """() => { const n = document.activeElement; const s = getComputedStyle(n);
                   const own = n.closest('#ask-choices,#ask-answer,#ask-model-a,#ask-model-b,#ask-settings');
                   return [own ? own.id : n.id || n.className.split(' ')[0] || n.dataset.command || n.tagName,
                           s.outlineStyle !== 'none' || s.boxShadow !== 'none' ]; }"""
            )
        )
    names = [name for name, _ in order]
    stops = [
        "ask-choices",
        "ask-answer",
        "ask-model-a",
        "ask-model-b",
        "ask-settings",
        "ask-button",
        "hs-stage",
        "hs-crop",
        "hs-badge",
    ]
    places = [names.index(stop) for stop in stops]
    assert places == sorted(places), names
    assert all(visible for name, visible in order if name in {"ask-button", "hs-stage", "hs-crop", "hs-badge"}), order


def test_controls_have_names_for_screen_readers(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    for role, name in [
        ("button", "Zoom in"),
        ("button", "Zoom out"),
        ("button", "Switch between light and dark"),
        ("textbox", "Question"),
        ("textbox", "Choices"),
        ("textbox", "Known answer"),
        ("application", "street.png with 1 numbered regions"),
    ]:
        expect(page.get_by_role(role, name=name, exact=True).first).to_be_visible()
    unnamed = page.evaluate(
        "[...document.querySelectorAll('.hs-result button, .hs-head button, .hs-examples button')]"
        ".filter(b => !(b.getAttribute('aria-label') || b.textContent).trim()).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_and_text_has_contrast(studio, open_page, theme):
    page = open_page(studio, theme=theme)
    pick_example(page)
    ask(page)
    for width in (800, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(
        """() => {
          const parse = (c) => c.match(/[\\d.]+/g).map(Number);
          const f = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
          const light = ([r, g, b]) => {
            return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
          const behind = (n) => { for (; n; n = n.parentElement) {
            const c = parse(getComputedStyle(n).backgroundColor);
            if (c.length < 4 || c[3] > .99) return c; } return [255, 255, 255]; };
          const picks = '.hs-card h3, .hs-answer, .hs-facts dd, .hs-facts dt, .hs-quiet, .hs-verdict, .hs-badge-name,'
            + '.hs-badge-value, .hs-box-about, .hs-viewer-name, .hs-viewer-help, figcaption span, .hs-example span, h1';
          return [...document.querySelectorAll(picks)].filter((n) => n.offsetParent && n.textContent).map((n) => {
            const [a, b] = [light(parse(getComputedStyle(n).color)), light(behind(n))].sort((p, q) => q - p);
            return [n.className || n.tagName, (a + .05) / (b + .05)]; });
        }"""
    )
    assert len(ratios) > 20
    assert [pair for pair in ratios if pair[1] < 4.5] == []


def test_the_colour_scheme_can_be_switched(studio, open_page):
    page = open_page(studio)
    light = page.evaluate("getComputedStyle(document.querySelector('.hs-viewer')).backgroundColor")
    page.click("#theme-button")
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    dark = page.evaluate("getComputedStyle(document.querySelector('.hs-viewer')).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    page.goto(page.url.split("?")[0])
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))


def test_the_trace_can_be_downloaded_and_reopened(studio, open_page, tmp_path):
    page = open_page(studio)
    pick_example(page)
    ask(page)
    with page.expect_download() as download:
        page.click("#result-a .hs-download")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "hart-trace.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "trace")
    saved = load_trace(tmp_path / "trace")
    assert saved.trace.boxes[0].xyxy == SIGN_XYXY
    with Image.open(saved.crops[0]) as crop:
        assert crop.size == (200, 225)


def test_the_built_in_model_answers_on_the_page(serve, open_page):
    page = open_page(serve(None, PROJECT_ROOT / "assets" / "examples"))
    choose_model(page, "built-in")
    pick_example(page)
    page.click("#ask-button")
    page.wait_for_selector("#result-a .hs-card", timeout=180_000)
    expect(page.locator("#result-a .hs-card")).to_have_count(3)
    expect(page.locator("#result-a .hs-model")).to_have_text("built-in")
