"""Buttons that are pressed while the stream of earlier results closes."""

import asyncio

import gradio as gr
import pytest
from playwright.sync_api import expect
from starlette.middleware import Middleware

from hart_studio.ui.event_streams import EventStreams
from hart_studio.ui.security.request_limits import RequestLimitMiddleware

CLOSING_SECONDS = 0.15


class SlowClosing:
    """The last message of a stream of results arrives late, as on a slow network."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_late(message):
            if b'"close_stream"' in message.get("body", b""):
                await asyncio.sleep(CLOSING_SECONDS)
            await send(message)

        await self.app(scope, receive, send_late)


@pytest.fixture(scope="module")
def two_buttons():
    """Address of a page whose buttons count in a text field each."""
    with gr.Blocks() as app:
        for name in ("one", "two"):
            shown = gr.Textbox("0", elem_id=f"{name}-shown")
            pressed = gr.Button(name, elem_id=name)
            pressed.click(lambda count: str(int(count) + 1), shown, shown, show_progress="hidden")
    middleware = [Middleware(SlowClosing), Middleware(RequestLimitMiddleware), Middleware(EventStreams)]
    _, url, _ = app.queue().launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, app_kwargs={"middleware": middleware}
    )
    yield url
    app.close(verbose=False)


def test_a_press_while_the_stream_closes_is_answered(browser, two_buttons):
    page = browser.new_page()
    page.goto(two_buttons)
    for count in range(1, 6):
        page.click("#one")
        expect(page.locator("#one-shown textarea")).to_have_value(str(count))
        page.click("#two")  # the stream of the first result closes now
        expect(page.locator("#two-shown textarea")).to_have_value(str(count), timeout=5_000)
