"""ASGI middleware that limits size, rate and JSON nesting of request bodies.

Slow requests hold memory and connections, endless requests fill the disk, and deeply nested JSON can crash the parser.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from gradio.utils import get_upload_folder
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.files import is_url
from hart_studio.ui.cache import CacheCleaner
from hart_studio.ui.security.call_limits import CALLS_PATH, JSON_SCOPE_KEY, stated_length
from hart_studio.ui.security.origin_check import is_open
from hart_studio.ui.security.proxy_headers import client_address

UPLOAD_LIMIT_BYTES: Final = 200 * 2**20
"""Largest file; an 8192 x 5460 JPEG has about 15 MB, a PNG of that size up to 130 MB."""

MAX_UPLOADED_BYTES: Final = 2 * UPLOAD_LIMIT_BYTES
"""Largest request with files; a page sends all chosen files at once. Project default."""

MAX_JSON_BYTES: Final = 2**20
"""Largest request without files; the largest of the pages has some hundred KB. Project default."""

MAX_OPEN_BYTES: Final = 8 * 1024
"""Largest request to a path that needs no login; a login form has less than 1 KB. Project default."""

MAX_INLINE_BYTES: Final = 16 * 1024
"""Larger JSON is parsed in a thread, so that other requests do not wait for it. Project default."""

TIMEOUT_SECONDS: Final = 30.0
"""How long a client may send nothing, and how long it may be slower than ``MIN_BYTES_PER_SECOND``."""

MIN_BYTES_PER_SECOND: Final = 2048
"""Project default; a large body must be faster, see ``MAX_SECONDS``."""

MAX_SECONDS: Final = 900.0
"""How long a body may take after ``TIMEOUT_SECONDS``. A client must keep the rate at which the stated size arrives in
that time: 230 KB/s for 200 MB. Project default."""

MAX_UNFINISHED: Final = 256
"""Unfinished requests of all clients; beyond that the slowest is ended. Project default."""

MAX_UNFINISHED_PER_CLIENT: Final = 64
"""Unfinished requests of one address, which may be a proxy with many users."""

MAX_UPLOADS_PER_CLIENT: Final = 16
"""Unfinished uploads of one address. Project default."""

MAX_SHARE_PER_CLIENT: Final = 0.5
"""Share of the upload space that unfinished uploads of one address may use. Project default."""

RESERVED_STEP_BYTES: Final = 2**20
"""Upload space is reserved in steps of this many received bytes. Project default."""

MAX_NESTED: Final = 64
"""Maximum nesting of JSON; the pages send less than 10. Project default."""

MAX_VALUES: Final = 20_000
"""Objects, lists and separators in a body, counted before parsing, including commas in strings; the largest body of the
pages has some hundred. Parsing that many takes a few milliseconds. Project default."""

_UPLOAD: Final = "/gradio_api/upload"
_FORMS: Final = (b"multipart/form-data", b"application/x-www-form-urlencoded")
_FORM_PATHS: Final = (_UPLOAD, "/login")
_OWN_BOUNDS: Final = "/mcp"
_LEFT_OVER: Final = re.compile(r"tmp[a-z0-9_]{8}")


class RequestLimitMiddleware:
    """ASGI middleware that limits request bodies; without a cache, the upload folder has no limit."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        timeout: float = TIMEOUT_SECONDS,
        max_unfinished: int = MAX_UNFINISHED,
        max_per_client: int = MAX_UNFINISHED_PER_CLIENT,
        cache: CacheCleaner | None = None,
    ) -> None:
        self.app = app
        self._cache = cache
        self._timeout, self._max_unfinished, self._max_per_client = timeout, max_unfinished, max_per_client
        self._unfinished: dict[str, list[_Body]] = {}
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Limit the request body, then call the application.

        Large bodies get 413, slow ones 408, other content than JSON 400 or 415.
        The slowest of too many requests gets 503, and an upload that does not fit into the cache gets 507.
        """
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"].rstrip("/") == _UPLOAD
        is_started = False

        async def send_noting(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        max_bytes = _find_size_limit(scope["path"], is_upload=is_upload)
        address = client_address(scope)
        space = _UploadSpace(self._cache) if is_upload and self._cache is not None else None
        stated = stated_length(scope)
        body = _Body(receive, max_bytes, self._timeout, stated, space, is_upload=is_upload)
        body.on_close = lambda: self._end(address, body)
        body.on_arrival = lambda: self._bound_bytes(address)
        self._uploads += is_upload
        try:
            self._begin(address, body)
            if stated > max_bytes:  # a wrong Content-Length is noticed while reading
                _refuse_large(max_bytes)
            if space is not None:
                await space.check(stated)
            if not scope["path"].startswith(_OWN_BOUNDS) and not _is_form(scope):
                value = await body.read_json(takes_files=scope["path"].rstrip("/") != CALLS_PATH)
                scope = {**scope, JSON_SCOPE_KEY: value}
            await self.app(scope, body.receive, send_noting)
        except BodyError as refused:
            if not is_started:
                await _answer(refused)(scope, receive, send)
        finally:
            body.close()
            if space is not None:
                space.release()
            self._uploads -= is_upload
            if is_upload and not self._uploads:
                _sweep(Path(get_upload_folder()))

    def _begin(self, address: str, body: _Body) -> None:
        """Count a request, and end the slowest one if there are too many.

        Ending the slowest keeps the server usable even if all clients share the address of one proxy.
        """
        same = self._unfinished.get(address, [])
        uploads = [each for each in same if each.is_upload]
        if body.is_upload and len(uploads) >= MAX_UPLOADS_PER_CLIENT:
            _end_slowest(uploads)
        elif len(same) >= self._max_per_client:
            _end_slowest(same)
        elif sum(map(len, self._unfinished.values())) >= self._max_unfinished:
            _end_slowest(max(self._unfinished.values(), key=len))
        self._unfinished.setdefault(address, []).append(body)

    def _bound_bytes(self, address: str) -> None:
        """End the slowest upload of an address whose unfinished uploads use too much space."""
        uploads = [each for each in self._unfinished.get(address, []) if each.is_upload]
        if self._cache is not None and len(uploads) > 1:
            share = MAX_SHARE_PER_CLIENT * self._cache.max_bytes
            if sum(each.size for each in uploads) > share:
                _end_slowest(uploads)

    def _end(self, address: str, body: _Body) -> None:
        self._unfinished[address].remove(body)
        if not self._unfinished[address]:
            del self._unfinished[address]


class _UploadSpace:
    """Space of one upload: reserved in steps as bytes arrive, and released once they are on disk."""

    def __init__(self, cache: CacheCleaner) -> None:
        self._cache = cache
        self._arrived = self._reserved = 0

    async def check(self, stated: int) -> None:
        """Refuse an upload that does not fit; nothing is reserved, because the client may send less."""
        if not await asyncio.to_thread(self._cache.fits, stated):
            _refuse_full()

    async def take(self, size: int, *, is_last: bool) -> None:
        """Count received bytes before the application writes them."""
        self._arrived += size
        if self._arrived and (is_last or self._arrived >= RESERVED_STEP_BYTES):
            arrived, self._arrived = self._arrived, 0
            self.release()  # from now on the cleaner finds these bytes in the folder
            if not await asyncio.to_thread(self._cache.reserve, arrived):
                _refuse_full()
            self._reserved = arrived

    def release(self) -> None:
        """Free what is reserved."""
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._cache.release(reserved)


class _Body:
    """Request body, counted and timed while it arrives.

    Attributes:
        is_upload: Whether it contains files.
        size: Received bytes.
        on_close: Called once when the body is complete or ended.
        on_arrival: Called for each received part of an upload.
    """

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        timeout: float,
        stated: int,
        space: _UploadSpace | None,
        *,
        is_upload: bool,
    ) -> None:
        self.is_upload, self.size = is_upload, 0
        self.on_close: Callable[[], None] = lambda: None
        self.on_arrival: Callable[[], None] = lambda: None
        self._receive, self._max_bytes, self._timeout, self._space = receive, max_bytes, timeout, space
        self._min_rate = max(MIN_BYTES_PER_SECOND, min(stated, max_bytes) / MAX_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[Message] | None = None
        self._is_closed = self._is_ended = self._is_whole = False
        self._began = time.monotonic()
        self._kept: list[Message] = []

    @property
    def rate(self) -> float:
        """Bytes per second; one second is added, so that new requests do not appear fast."""
        return self.size / (time.monotonic() - self._began + 1)

    async def receive(self) -> Message:
        """Return the next message; after the complete body the application may wait for the end of the connection."""
        if self._kept:
            return self._kept.pop(0)
        if self._is_whole:
            return await self._receive()
        message = await self._wait()
        if message["type"] != "http.request":
            return message
        arrived = len(message.get("body", b""))
        self.size += arrived
        self._is_whole = not message.get("more_body", False)
        if self._is_whole:
            self.close()
        elif self.is_upload:
            self.on_arrival()
        if self.size > self._max_bytes:
            _refuse_large(self._max_bytes)
        late = time.monotonic() - self._began - self._timeout
        if not self._is_whole and late > 0 and (self.size < late * self._min_rate or late > MAX_SECONDS):
            _refuse_slow()
        if self._space is not None:
            await self._space.take(arrived, is_last=self._is_whole)
        return message

    async def _wait(self) -> Message:
        if self._is_ended:
            _refuse_slowest()
        self._waiting = asyncio.ensure_future(self._receive())
        try:
            return await asyncio.wait_for(self._waiting, self._timeout)
        except TimeoutError:
            _refuse_slow()
        except asyncio.CancelledError:
            if self._is_ended:
                _refuse_slowest()
            raise
        finally:
            self._waiting = None

    def end(self) -> None:
        """End the request: its client gets 503, and it is not counted any more."""
        self._is_ended = True
        self.close()
        if self._waiting is not None:
            self._loop.call_soon_threadsafe(self._waiting.cancel)

    def close(self) -> None:
        """Mark the body as complete or ended."""
        if not self._is_closed:
            self._is_closed = True
            self.on_close()

    async def read_json(self, *, takes_files: bool) -> Any:
        """Read the whole body and parse it as JSON.

        Args:
            takes_files: Whether gradio reads files named in the body.

        Returns:
            The parsed value; None for an empty body.
        """
        parts = []
        while not self._is_whole:
            message = await self.receive()
            if message["type"] != "http.request":
                self._kept = [message]
                return None
            parts.append(message.get("body", b""))
        text = b"".join(parts)
        value = None
        if len(text) > MAX_INLINE_BYTES:
            value = await asyncio.to_thread(parse_body, text, takes_files=takes_files)
        elif text:
            value = parse_body(text, takes_files=takes_files)
        self._kept = [{"type": "http.request", "body": text, "more_body": False}]
        return value


def _find_size_limit(path: str, *, is_upload: bool) -> int:
    if is_upload or path.startswith(_OWN_BOUNDS):
        return MAX_UPLOADED_BYTES
    return min(MAX_OPEN_BYTES, MAX_JSON_BYTES) if is_open(path) else MAX_JSON_BYTES


def _is_form(scope: Scope) -> bool:
    """Whether the body is a form (uploads and logins only); all others must be declared as JSON.

    Other sites can send forms and plain text across origins, but not JSON.
    """
    kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"").lower()
    if kind.startswith(_FORMS) and scope["path"].rstrip("/") in _FORM_PATHS:
        return True
    if kind and not kind.startswith(b"application/json"):
        raise BodyError(415, "Expected JSON. Set the header Content-Type: application/json.")
    return False


def _end_slowest(bodies: list[_Body]) -> None:
    min(bodies, key=lambda body: body.rate).end()


def _refuse_large(max_bytes: int) -> NoReturn:
    size = f"{max_bytes / 2**20:.0f} MB" if max_bytes >= 2**20 else f"{max_bytes / 2**10:.0f} KB"
    raise BodyError(413, f"Request too large: at most {size} are allowed. Send less at once.")


def _refuse_slow() -> NoReturn:
    raise BodyError(408, "The request did not arrive in time. Send it again.")


def _refuse_slowest() -> NoReturn:
    raise BodyError(503, "Too many unfinished requests, and this was the slowest. Send it again in a moment.")


def _refuse_full() -> NoReturn:
    raise BodyError(507, "The space for uploads is full. Try again in a few minutes.")


def _answer(refused: BodyError) -> JSONResponse:
    # The rest of the body is not read, so the connection cannot be reused.
    return JSONResponse({"detail": str(refused)}, refused.status, {"connection": "close"})


def _sweep(folder: Path) -> None:
    """Remove temporary files of aborted uploads; complete uploads are in their own folders."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _LEFT_OVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


class BodyError(Exception):
    """Refused JSON body; the message is for the client.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def parse_body(text: bytes, *, takes_files: bool) -> Any:
    """Parse and check a JSON body.

    Args:
        text: The body.
        takes_files: Whether Gradio reads files named in it.

    Raises:
        BodyError: If it is not JSON, has too many values, is nested too deeply, or names a file by URL.
    """
    if text.count(b"{") + text.count(b"[") + text.count(b",") > MAX_VALUES:
        raise BodyError(413, f"Request too large: at most {MAX_VALUES:,} JSON values are allowed. Send less at once.")
    try:
        value = json.loads(text, parse_constant=_refuse_word, object_pairs_hook=_read_object)
    except (ValueError, RecursionError):
        raise BodyError(400, "Invalid JSON, or JSON with NaN, infinity or duplicate names.") from None
    layer, depth = [value], 0
    while layer := [child for each in layer for child in _children(each)]:
        depth += 1
        if depth > MAX_NESTED:
            raise BodyError(400, f"JSON is nested too deeply: at most {MAX_NESTED} levels are allowed.")
        # Gradio would fetch a file from any server that the URL names.
        if takes_files and any(isinstance(each, dict) and _is_address(each.get("path")) for each in layer):
            raise BodyError(400, "Expected an uploaded file, got a URL. Upload the file.")
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name")
    return found


def _is_address(path: Any) -> bool:
    return isinstance(path, str) and is_url(path)


def _refuse_word(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
