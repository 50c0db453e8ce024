"""A served page with scripted models behind it, and a headless browser in front of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image, ImageDraw

from hart_studio.errors import ModelError
from hart_studio.models.chat import ChatModel
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.app import build_app, launch_options
from hart_studio.ui.pages.examples import load_examples
from hart_studio.ui.security.access import LOOPBACK_HOSTS
from tests.browser.chromium import BROWSER_FLAGS, find_chromium
from tests.fakes import ScriptedModel

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -r requirements-dev.txt")

PROJECT_ROOT = Path(__file__).parents[2]
PATIENCE_MS = 60_000
"""For one step of a page, on a machine that is busy with something else."""

LOCAL_URL = re.compile(r"(https?|wss?)://127\.0\.0\.1[:/]|(about|blob|data):")
SIGN_RGB = (255, 0, 200)
SIGN_XYXY = (400, 450, 600, 675)
"""The magenta sign on the example image, in its own pixels: [250, 500, 375, 750] thousandths of 1600 x 900."""


def open_by_name(name: str) -> ChatModel:
    """The models of these tests by the name that is typed on the page."""
    texts = {
        "crops_only": "The sign says five. \\boxed{A}",
        "direct": ["Too small to read. \\boxed{B}", "Nothing there. \\boxed{C}"] * 20,
        "full_and_crops": "Five, as the region shows. \\boxed{A}",
    }
    sign = '[{"bbox_2d": [250, 500, 375, 750], "label": "sign"}]'
    if name == "blind":
        return ScriptedModel(name=name, grounding="Somewhere in the middle.", direct="Hard to say.")
    if name == "hostile":
        evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
        evil += "${document.title='owned'}{{document.title='owned'}}"
        label = json.dumps(evil)
        said = f"{evil} \\boxed{{A}}"
        boxes = f'[{{"bbox_2d": [250, 500, 375, 750], "label": {label}}}]'
        return ScriptedModel(name=name, grounding=boxes, crops_only=said, direct=said, full_and_crops=said)
    if name == "absent/model":
        raise ModelError("Model 'absent/model' not found, neither as a folder nor on the Hub. Check the spelling")
    if name == "unreachable/model":
        raise ModelError("Model 'unreachable/model' is not in the local cache, and the Hub cannot be reached")
    if name == "full":
        raise MemoryError
    if name == "broken":
        raise RuntimeError("secret detail in /home/someone")
    return ScriptedModel(name=name, grounding=sign, **texts)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of these tests: a dark image with a magenta sign, and its catalogue."""
    folder = tmp_path_factory.mktemp("examples")
    image = Image.new("RGB", (1600, 900), (40, 60, 80))
    ImageDraw.Draw(image).rectangle((400, 450, 599, 674), fill=SIGN_RGB)
    image.save(folder / "street.png")
    example = {
        "title": "Street sign",
        "image": "street.png",
        "question": "Which number is on the sign?",
        "choices": ["five", "six", "seven"],
        "answer": "A",
    }
    (folder / "examples.json").write_text(json.dumps([example]), "utf-8")
    return folder


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """``serve(load, examples, runs_root, is_open, labels_root)`` -> address of a studio until the module ends."""
    apps: list[gr.Blocks] = []
    services: list[RunLauncher] = []
    cache = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(cache))
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")

    def start(
        load: Callable[[str], ChatModel] | None,
        examples: Path,
        runs_root: Path | None = None,
        is_open: bool = True,
        labels_root: Path | None = None,
    ) -> str:
        folder = cache / f"work_{len(apps)}"
        service = AskService(folder, load) if load else AskService(folder)
        launcher = RunLauncher(runs_root or cache / f"runs_{len(apps)}", is_open=is_open)
        services.append(launcher)
        models = [("Scripted", "scripted"), ("Blind", "blind")]
        labels = LabelApi(labels_root or cache / f"labels_{len(apps)}", is_open=is_open)
        app = build_app(service, load_examples(examples, folder), models, launcher, labels)
        apps.append(app)
        options = launch_options(PROJECT_ROOT, LOOPBACK_HOSTS)
        _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        return url

    yield start
    for app in apps:
        app.close(verbose=False)
    for launcher in services:
        launcher.close()
    patch.undo()


@pytest.fixture(scope="module")
def studio(serve: Callable[..., str], image_folder: Path) -> str:
    """Address of a studio with scripted models."""
    return serve(open_by_name, image_folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    """Chromium, headless."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here; install it: apt-get install -y --no-install-recommends chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shared_context(browser: sync_api.Browser) -> Iterator[sync_api.BrowserContext]:
    """Context for the first page of each test: its HTTP cache keeps the files of the page."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def open_page(
    browser: sync_api.Browser, shared_context: sync_api.BrowserContext
) -> Iterator[Callable[..., sync_api.Page]]:
    """``open_page(url)`` -> a loaded page. At the end: nothing left this machine and no script failed.

    The first page of a test begins without cookies and stored data, and each further one is in a context of its own.
    """
    own_contexts: list[sync_api.BrowserContext] = []
    shared_pages: list[sync_api.Page] = []
    outside: list[str] = []
    failures: list[str] = []

    def note(url: str) -> None:
        if not LOCAL_URL.match(url):
            outside.append(url)

    def make_page(size: tuple[int, int]) -> sync_api.Page:
        viewport: sync_api.ViewportSize = {"width": size[0], "height": size[1]}
        if shared_pages:
            own_contexts.append(browser.new_context(viewport=viewport))
            return own_contexts[-1].new_page()
        page = shared_context.new_page()
        page.set_viewport_size(viewport)
        shared_pages.append(page)
        return page

    def load(url: str, size: tuple[int, int] = (1280, 900), theme: str = "light") -> sync_api.Page:
        is_first = not shared_pages
        page = make_page(size)
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: note(request.url))
        page.on("popup", lambda opened: opened.on("request", lambda request: note(request.url)))
        page.on("websocket", lambda socket: note(socket.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda message: "Content Security" in message.text and failures.append(message.text))
        if is_first:
            clear_stored_data(page, url)
        page.goto(f"{url}?__theme={theme}")
        page.wait_for_selector("#ask-button")
        return page

    yield load
    for context in own_contexts:
        context.close()
    for page in shared_context.pages:
        page.close()
    assert not outside
    assert not failures


def clear_stored_data(page: sync_api.Page, url: str) -> None:
    """Remove the cookies of a context and what it stores for the site, but not its HTTP cache."""
    page.context.clear_cookies()
    page.context.clear_permissions()
    session = page.context.new_cdp_session(page)
    kinds = "local_storage,indexeddb,service_workers,cache_storage,file_systems,shader_cache,websql"
    session.send("Storage.clearDataForOrigin", {"origin": url.rstrip("/"), "storageTypes": kinds})
    session.detach()
