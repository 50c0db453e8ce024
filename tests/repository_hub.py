"""Local Hub server with repositories to download: metadata, files with ranges, and faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

COMMIT = "a" * 40
LARGE_BYTES = 1000
"""Files of at least this size have a SHA-256, as files in large file storage."""


class RepositoryHub(ThreadingHTTPServer):
    """A Hub with repositories that tests fill.

    Attributes:
        repositories: ``models/owner/name`` or ``datasets/owner/name`` -> path -> content.
        cards: The same names -> card metadata.
        gated: Names whose files require accepted terms.
        listed_sizes: Path -> size to list instead of the true one.
        altered: Path -> content to send instead of the listed one.
        breaks: Path -> byte at which the first connection ends.
        pauses: Path -> event to wait for before the rest of a file is sent.
        ranges: ``Range`` headers of the requests, by path.
        requests: Number of requests by method and path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.gated: set[str] = set()
        self.listed_sizes: dict[str, int] = {}
        self.altered: dict[str, bytes] = {}
        self.breaks: dict[str, int] = {}
        self.pauses: dict[str, threading.Event] = {}
        self.ranges: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.token = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: RepositoryHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests[f"{self.command} {path}"] += 1
        if self.server.token and self.headers.get("authorization") != f"Bearer {self.server.token}":
            self._refuse(401, "")
        elif found := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._describe(found[1], found[2])
        elif found := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", path):
            self._send_json(self._list(found[1]))
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_file(f"{found[1] or 'models/'}{found[2]}", found[4])
        else:
            self._refuse(404, "")

    def _list(self, name: str) -> list[dict[str, Any]]:
        files = []
        for path, content in self.server.repositories.get(name, {}).items():
            size = self.server.listed_sizes.get(path, len(content))
            entry: dict[str, Any] = {"type": "file", "path": path, "rfilename": path, "size": size}
            entry["oid"] = entry["blobId"] = hashlib.sha1(
                b"blob %d\0" % len(content) + content, usedforsecurity=False
            ).hexdigest()
            if len(content) >= LARGE_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 134}
            files.append(entry)
        return files

    def _describe(self, name: str, revision: str | None) -> None:
        if name not in self.server.repositories:
            self._refuse(401 if self.server.token else 404, "RepoNotFound")
        elif revision not in {None, "main", COMMIT}:
            self._refuse(404, "RevisionNotFound")
        else:
            gated = "auto" if name in self.server.gated else False
            info = {"id": name.split("/", 1)[1], "sha": COMMIT, "siblings": self._list(name), "gated": gated}
            self._send_json({**info, "cardData": self.server.cards.get(name, {})})

    def _send_file(self, name: str, path: str) -> None:
        hub = self.server
        if name in hub.gated:
            self._refuse(403, "GatedRepo")
            return
        content = hub.repositories.get(name, {}).get(path)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        is_large = len(content) >= LARGE_BYTES
        etag = (
            hashlib.sha256(content).hexdigest()
            if is_large
            else hashlib.sha1(content, usedforsecurity=False).hexdigest()
        )
        body = hub.altered.get(path, content)
        start = 0
        if asked := self.headers.get("range"):
            hub.ranges.setdefault(path, []).append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("etag", f'"{etag}"')
        self.send_header("x-repo-commit", COMMIT)
        self.send_header("accept-ranges", "bytes")
        self.send_header("content-length", str(len(body) - start))
        if start:
            self.send_header("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = hub.breaks.pop(path, len(body))
        half = start + (end - start) // 2
        self.wfile.write(body[start:half])
        self.wfile.flush()
        if path in hub.pauses:
            hub.pauses[path].wait(30)
        with suppress(ConnectionError):  # the client canceled
            self.wfile.write(body[half:end])
        if end < len(body):
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self._send_json({"error": "refused"}, status, code)

    def _send_json(self, value: Any, status: int = 200, code: str = "") -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        if code:
            self.send_header("x-error-code", code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve_repositories(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[RepositoryHub]:
    """Serve a Hub on loopback, and let this process use it with an empty cache."""
    hub = RepositoryHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "ENDPOINT", hub.address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # of 10 MiB: small files have several blocks, too
    try:
        yield hub
    finally:
        for event in hub.pauses.values():
            event.set()
        hub.shutdown()
        hub.server_close()
        thread.join()
