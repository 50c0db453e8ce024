"""Allowed and rejected image sources of the ML backend."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import HartError, ImageError, InputError
from hart_studio.labeling.ml_backend.images import (
    ImageLoader,
    ServerOrigin,
    make_image_loader,
    parse_origin,
    parse_server_url,
    parse_token,
)

TOKEN = "secret-token"  # noqa: S105


def png(wh: tuple[int, int] = (40, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", wh).save(data, "PNG")
    return data.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        if "missing" in self.path:
            self.send_error(404)
            return
        data = png() if "large" not in self.path else b"x" * 5000
        self.send_response(200)
        self.end_headers()
        if "slow" in self.path:
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def servers() -> Iterator[tuple[ThreadingHTTPServer, ThreadingHTTPServer]]:
    both = (ThreadingHTTPServer(("127.0.0.1", 0), _Handler), ThreadingHTTPServer(("127.0.0.1", 0), _Handler))
    for server in both:
        server.asked = []  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield both
    for server in both:
        server.shutdown()
        server.server_close()


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def loader(tmp_path: Path, servers: tuple[ThreadingHTTPServer, ...]) -> ImageLoader:
    root = tmp_path / "root"
    (root / "imgs").mkdir(parents=True)
    (root / "imgs" / "ä b.png").write_bytes(png())
    (tmp_path / "outside.png").write_bytes(png())
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    return ImageLoader(root, parse_server_url(url_of(servers[0])), TOKEN, max_bytes=4000)


@pytest.mark.parametrize("name", ["imgs/ä b.png", "/data/local-files/?d=imgs/%C3%A4%20b.png"])
def test_files_below_the_folder(loader: ImageLoader, name: str) -> None:
    assert loader.open(name).wh == (40, 30)


@pytest.mark.parametrize(
    "reference",
    [
        "http://169.254.169.254/latest/meta-data/", "https://example.org/a.png", "file:///etc/passwd",
        "FILE:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://127.0.0.1/", "//example.org/a.png", "/\\example.org/a",
        "../outside.png", "imgs/../../outside.png", "/data/local-files/?d=../outside.png", "link.png",
        "/data/local-files/?d=/etc/passwd", "/data/local-files/?d=%2e%2e/outside.png", "gone.png", "imgs", "a\0b", "",
        "http://[", "http://127.0.0.1:99999/", "\ud800", "javascript:alert(1)", "C:\\a.png", "x" * 5000,
    ],
)  # fmt: skip
def test_everything_else_is_refused(loader: ImageLoader, servers: Any, reference: str) -> None:
    with pytest.raises((HartError, ValueError)) as caught:
        loader.open(reference)
    assert TOKEN not in str(caught.value)
    assert servers[0].asked == servers[1].asked == [], "nothing is asked before it is known to be allowed"


@pytest.mark.parametrize(
    "change", ["https://127.0.0.1", "http://localhost", "http://u:p@127.0.0.1", "http://127.0.0.2"]
)
def test_another_spelling_of_the_server_is_another_server(loader: ImageLoader, servers: Any, change: str) -> None:
    with pytest.raises(InputError, match="Image source not allowed"):
        loader.open(f"{change}:{servers[0].server_port}/a.png")
    with pytest.raises(InputError, match="Image source not allowed"):
        loader.open(f"{url_of(servers[1])}/a.png")
    assert servers[0].asked == servers[1].asked == []


def test_the_server_that_was_named(loader: ImageLoader, servers: Any) -> None:
    url = url_of(servers[0])
    for reference in (
        f"{url}/data/upload/ä b.png?x=1",
        "/data/upload/1/a.png",
        f"{url}/to?/a.png",
        f"{url}/to?{url}/a",
    ):
        assert loader.open(reference).wh == (40, 30)
    asked = servers[0].asked
    assert asked[0][0] == "/data/upload/%C3%A4%20b.png?x=1"
    assert {token for _, token in asked} == {f"Token {TOKEN}"}


def test_a_redirect_to_another_server_is_not_followed(loader: ImageLoader, servers: Any) -> None:
    for target in (url_of(servers[1]) + "/a.png", "http://169.254.169.254/", "file:///etc/passwd", "//127.0.0.2/a"):
        with pytest.raises(ImageError, match="redirects the image to another server"):
            loader.open(f"/to?{target}")
    assert servers[1].asked == []
    with pytest.raises(ImageError, match="More than 3 redirects"):
        loader.open("/to?" + "/to?" * 9 + "/a.png")


def test_network_input_has_limits(loader: ImageLoader) -> None:
    with pytest.raises(ImageError, match="larger than 4,000 bytes"):
        loader.open("/large.png")
    with pytest.raises(ImageError, match="status 404"):
        loader.open("/missing.png")
    started = time.monotonic()
    with pytest.raises(ImageError, match="Timeout"):
        loader.open("/slow.png", seconds=0.3)
    assert time.monotonic() - started < 2
    with pytest.raises(ImageError, match="Timeout"):
        loader.open("/a.png", seconds=0)


def test_a_server_that_is_not_there() -> None:
    loader = ImageLoader(None, ServerOrigin("http", "127.0.0.1", 1), TOKEN)
    with pytest.raises(ImageError, match="ConnectionRefusedError") as caught:
        loader.open("/a.png")
    assert TOKEN not in str(caught.value) and TOKEN not in repr(loader)


def test_images_inside_of_tasks() -> None:
    loader = ImageLoader(max_bytes=4000)
    data = base64.b64encode(png()).decode()
    assert loader.open(f"data:image/png;base64,{data}").wh == (40, 30)
    assert loader.open(f"DATA:;base64,{data}").wh == (40, 30)
    for bad, why in (
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,!!!!", "invalid base64"),
        ("data:image/png;base64,", "empty"),
        ("data:;base64," + base64.b64encode(b"<svg xmlns='x'></svg>").decode(), "SVG"),
        ("data:;base64," + "A" * 6000, "larger than 4,000 bytes"),
    ):
        with pytest.raises(ImageError, match=why):
            loader.open(bad)


def test_nothing_but_data_without_a_folder_and_a_server() -> None:
    for reference in ("a.png", "/data/upload/a.png", "http://localhost:8080/a.png", "/data/local-files/?d=a.png"):
        with pytest.raises(InputError, match="Use a data: URI;"):
            ImageLoader().open(reference)


def test_operator_settings(tmp_path: Path) -> None:
    assert parse_origin("HTTPS://Example.org/a") == ServerOrigin("https", "example.org", 443)
    assert parse_server_url("http://[::1]:8080/").url == "http://[::1]:8080"
    for bad in ("localhost:8080", "http://", "http://u:p@h", "http://h/path", "http://h?x", "file:///", "http://h:x"):
        with pytest.raises(InputError, match="--label-studio-url"):
            parse_server_url(bad)
    assert parse_token(" abc\n") == "abc"
    for bad in ("a b", "a\nb", "ü"):
        with pytest.raises(InputError, match="LABEL_STUDIO_API_KEY"):
            parse_token(bad)
    with pytest.raises(InputError, match="--image-root"):
        make_image_loader(tmp_path / "gone", "", "")
    assert make_image_loader(None, "", "") == ImageLoader()
