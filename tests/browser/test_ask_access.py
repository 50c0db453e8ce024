"""Keyboard, names for screen readers, contrast and overflow of the Ask tab."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.ask_page import ask, pick_example
from tests.browser.conftest import PATIENCE_MS

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


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
        "hs-canvas",
        "hs-crop",
        "hs-badge",
    ]
    places = [names.index(stop) for stop in stops]
    assert places == sorted(places), names
    assert all(visible for name, visible in order if name in {"ask-button", "hs-canvas", "hs-crop", "hs-badge"}), order


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
          const picks = '.hs-card h3, .hs-answer, .hs-facts dd, .hs-facts dt, .hs-muted, .hs-verdict, .hs-badge-name,'
            + '.hs-badge-value, .hs-box-about, .hs-viewer-name, .hs-viewer-help, figcaption span, .hs-example span, h1';
          return [...document.querySelectorAll(picks)].filter((n) => n.offsetParent && n.textContent).map((n) => {
            const [a, b] = [light(parse(getComputedStyle(n).color)), light(behind(n))].sort((p, q) => q - p);
            return [n.className || n.tagName, (a + .05) / (b + .05)]; });
        }"""
    )
    assert len(ratios) > 20
    assert [pair for pair in ratios if pair[1] < 4.5] == []


def test_the_color_scheme_can_be_switched(studio, open_page):
    page = open_page(studio)
    light = page.evaluate("getComputedStyle(document.querySelector('.hs-viewer')).backgroundColor")
    page.click("#theme-button")
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    dark = page.evaluate("getComputedStyle(document.querySelector('.hs-viewer')).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    page.goto(page.url.split("?")[0])
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
