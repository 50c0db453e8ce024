"""The Ask tab from an example to a trace, with scripted models and with the built-in one."""

import io
import re
import zipfile

import pytest
from PIL import Image
from playwright.sync_api import expect

from hart_studio.pipeline.trace import load_trace
from tests.browser.ask_page import ask, choose_model, pick_example
from tests.browser.conftest import PATIENCE_MS, PROJECT_ROOT, SIGN_XYXY

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


def test_the_page_opens_with_an_invitation(studio, open_page):
    page = open_page(studio)
    expect(page.locator("#result-a .hs-empty")).to_contain_text("No image selected")
    expect(page.locator(".hs-example")).to_have_count(1)
    expect(page.locator("#result-b")).to_be_hidden()
    assert page.title() == "HART Studio"


@pytest.mark.core
def test_an_example_gives_regions_crops_and_three_answers(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    expect(page.locator("#ask-question textarea")).to_have_value("Which number is on the sign?")
    expect(page.locator("#ask-choices textarea")).to_have_value("five\nsix\nseven")
    ask(page)

    cards = page.locator("#result-a .hs-card")
    expect(cards).to_have_count(3)
    assert [cards.nth(i).get_attribute("data-protocol") for i in range(3)] == ["crops_only", "direct", "full_and_crops"]
    expect(cards.nth(0)).to_contain_text("Correct")
    expect(cards.nth(0).locator(".hs-answer")).to_have_text("Afive")
    expect(cards.nth(1)).to_contain_text("Wrong")
    expect(cards.nth(2)).to_contain_text("Correct")
    expect(cards.nth(0).locator(".hs-verdict")).to_have_text("Correct from the crop (33 % by random guess)")
    expect(cards.nth(0).locator(".hs-verdict")).to_have_class("hs-verdict hs-unproven")
    expect(page.locator("#result-a .hs-badges")).to_contain_text("Sufficientyes (33 % by random guess)")
    expect(page.locator(".hs-warning")).to_have_count(0)
    expect(page.locator("#result-a .hs-badges")).to_contain_text("Area3.1 % of the image")

    expect(page.locator("#result-a .hs-model-inputs")).to_contain_text(re.compile(r"Overview\d+ × \d+ px"))
    expect(page.locator("#result-a .hs-crop")).to_have_count(1)
    expect(page.locator("#result-a .hs-crop")).to_contain_text("200 × 225 px")
    size = page.evaluate("(async () => { const i = document.querySelector('.hs-crop img'); await i.decode();"
                         " return [i.naturalWidth, i.naturalHeight]; })()")  # fmt: skip
    assert size == [200, 225]

    cards.nth(0).locator("summary").click()
    expect(cards.nth(0).locator("pre").nth(0)).to_contain_text('"bbox_2d": [250, 500, 375, 750]')
    expect(cards.nth(0).locator("pre").nth(1)).to_have_text("The sign says five. \\boxed{A}")


def test_a_built_in_model_on_another_image_is_warned_of_before_and_above_the_answers(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    notice = page.locator("#ask-notice .hs-warning")
    expect(notice).to_have_count(0)
    choose_model(page, "built-in")
    expect(notice).to_have_text(
        "hart-tiny-base was trained only on synthetic needle scenes; its answers on this image are not meaningful. "
        "Choose a model such as Qwen/Qwen2.5-VL-3B-Instruct."
    )
    box, viewer = notice.bounding_box(), page.locator("#result-a .hs-viewer").bounding_box()
    assert box["y"] + box["height"] <= viewer["y"], "above everything that is shown of the answer"
    ask(page)
    answers = page.locator("#result-a .hs-answers")
    expect(answers.locator(".hs-warning")).to_contain_text(
        "hart-tiny-base was trained only on synthetic needle scenes;"
    )
    first = answers.locator(".hs-warning").bounding_box()
    assert first["y"] + first["height"] <= answers.locator(".hs-card").nth(0).bounding_box()["y"]
    expect(answers.locator(".hs-right, .hs-good")).to_have_count(0)
    choose_model(page, "scripted")
    expect(notice).to_have_count(0)


def test_two_models_stand_side_by_side(studio, open_page):
    page = open_page(studio, size=(1920, 1080))
    pick_example(page)
    choose_model(page, "blind", "ask-model-b")
    ask(page)
    page.wait_for_selector("#result-b .hs-card")
    expect(page.locator("#result-a .hs-model")).to_have_text("scripted")
    expect(page.locator("#result-b .hs-model")).to_have_text("blind")
    expect(page.locator("#result-b .hs-card").nth(0)).to_contain_text("No region predicted.")
    expect(page.locator("#result-b .hs-card").nth(1)).to_contain_text("no answer")
    left, right = (page.locator(f"#result-{slot}").bounding_box() for slot in "ab")
    assert right["x"] >= left["x"] + left["width"]
    assert right["width"] == pytest.approx(left["width"], abs=2)

    choose_model(page, "", "ask-model-b")
    page.locator("#ask-model-b input").fill("None")
    page.keyboard.press("Enter")
    page.click("#ask-button")
    expect(page.locator("#result-b")).to_be_hidden()


def test_a_model_that_fails_is_explained(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    alert = page.get_by_role("alert")
    for model, title, text in [
        ("absent/model", "Model unavailable", "Model 'absent/model' not found, neither as a folder nor on the Hub"),
        ("unreachable/model", "Model unavailable", "the Hub cannot be reached"),
        ("full", "Out of memory", "Choose a smaller model or a smaller image. Or lower Overview max pixels"),
        ("broken", "Internal error", "Search the log for"),
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


def test_of_two_models_the_one_that_fails_is_named(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    alert = page.get_by_role("alert")
    choose_model(page, "absent/model", "ask-model-b")
    page.click("#ask-button")
    expect(alert.locator("strong")).to_have_text("Second model, absent/model: model unavailable")
    expect(alert).to_contain_text("The answers of scripted are below.")
    expect(page.locator("#result-a .hs-card")).to_have_count(3)
    choose_model(page, "broken")
    page.click("#ask-button")
    expect(alert.locator("strong")).to_have_text("First model, broken: internal error")
    expect(alert).to_contain_text("absent/model was not asked.")
    expect(page.locator("#result-a .hs-card")).to_have_count(0)


def test_whether_the_region_is_needed_is_never_left_out_in_silence(studio, open_page):
    page = open_page(studio)
    pick_example(page)
    choose_model(page, "blind")
    ask(page)
    badge = page.locator("#result-a .hs-badge", has_text="Region necessary (masking test)")
    expect(badge.locator(".hs-badge-value")).to_have_text("unknown: no region")
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("Full image", exact=True).uncheck()
    ask(page)
    expect(badge.locator(".hs-badge-value")).to_have_text("not checked without Full image")
    badge.focus()
    expect(badge.locator(".hs-tooltip")).to_contain_text("choose Crops only and Full image under Settings")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_form_that_is_not_complete_is_explained(studio, open_page):
    page = open_page(studio)
    page.click("#ask-button")
    expect(page.get_by_role("alert")).to_contain_text("No image")
    pick_example(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.fill("#ask-question textarea", "   ")
    page.click("#ask-button")
    expect(page.get_by_role("alert")).to_contain_text("No question")
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
        ("notes.png", b"just some text, not an image", "notes.png"),
    ],
)
def test_a_file_that_is_no_image_is_explained(studio, open_page, tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    page = open_page(studio)
    page.set_input_files("#ask-image input[type=file]", tmp_path / name)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Invalid image")
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
