"""How much and how slowly a client may send: bounds on requests before anything is made of them.

A request that drips holds memory and a connection for as long as its sender likes, one without end fills the disk, and
JSON that is nested deep enough stops the program that reads it. None of that may keep others from the pages.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from gradio.utils import get_upload_folder
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.ui.cache import CacheCleaner
from hart_studio.ui.call_limits import CALLS_PATH, JSON_SCOPE_KEY
from hart_studio.ui.json_bodies import BodyError, parse_body
from hart_studio.ui.security.routes import is_open

UPLOAD_LIMIT_BYTES: Final = 200 * 2**20
"""Largest file; an 8192 x 5460 JPEG has about 15 MB, a PNG of that size up to 130 MB."""

MAX_UPLOADED_BYTES: Final = 2 * UPLOAD_LIMIT_BYTES
"""Largest request with files; project default: a page sends all that were chosen at once."""

MAX_JSON_BYTES: Final = 2**20
"""Largest request without files, project default; the largest of the pages' own has some hundred KB."""

MAX_OPEN_BYTES: Final = 8 * 1024
"""Largest request to an address that needs no login; a login form has less than 1 KB. Project default."""

MAX_INLINE_BYTES: Final = 16 * 1024
"""Larger JSON is parsed in a thread, so that other requests do not wait for it. Project default."""

TIMEOUT_SECONDS: Final = 30.0
"""How long a client may send nothing, and how long it may be slower than ``MIN_BYTES_PER_SECOND``."""

MIN_BYTES_PER_SECOND: Final = 2048
"""Project default; a large body must be faster, see ``MAX_SECONDS``."""

MAX_SECONDS: Final = 900.0
"""How long a body may take after ``TIMEOUT_SECONDS``. A client must keep the rate at which the stated size arrives in
that time: 230 KB/s for 200 MB, project default."""

MAX_UNFINISHED: Final = 256
"""Requests of all clients whose body is still on its way, project default. For one more the slowest is ended."""

MAX_UNFINISHED_PER_CLIENT: Final = 64
"""The same of one address, which may be a whole class behind one proxy."""

MAX_UPLOADS_PER_CLIENT: Final = 16
"""Requests with files of one address whose body is still on its way, project default."""

MAX_SHARE_PER_CLIENT: Final = 0.5
"""Part of the space for uploads that the unfinished uploads of one address may take, project default."""

RESERVED_STEP_BYTES: Final = 2**20
"""Space for an upload is reserved each time so many bytes have arrived. Project default."""

_UPLOAD: Final = "/gradio_api/upload"
_FORMS: Final = (b"multipart/form-data", b"application/x-www-form-urlencoded")
_FORM_PATHS: Final = (_UPLOAD, "/login")
_OWN_BOUNDS: Final = "/mcp"
_LEFT_OVER: Final = re.compile(r"tmp[a-z0-9_]{8}")


class RequestLimitMiddleware:
    """ASGI middleware that bounds the bodies of requests; answers pass through as they come."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        patience: float = TIMEOUT_SECONDS,
        max_unfinished: int = MAX_UNFINISHED,
        max_per_client: int = MAX_UNFINISHED_PER_CLIENT,
        cache: CacheCleaner | None = None,
    ) -> None:
        """Nothing is on its way yet.

        Args:
            app: What gets the requests.
            patience: Seconds, see ``TIMEOUT_SECONDS``.
            max_unfinished: See ``MAX_UNFINISHED``.
            max_per_client: See ``MAX_UNFINISHED_PER_CLIENT``.
            cache: Bounds the folder of uploads; None = it has no bound.
        """
        self.app = app
        self._cache = cache
        self._patience, self._most, self._most_of_one = patience, max_unfinished, max_per_client
        self._unfinished: dict[str, list[_Body]] = {}
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to too much, 408 to too slowly, 400 and 415 to what is no JSON; else pass on.

        The slowest of too many requests gets 503, and an upload that the cache has no room for 507.
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

        most = _find_size_limit(scope["path"], is_upload=is_upload)
        address = (scope.get("client") or ("unknown",))[0]
        space = _UploadSpace(self._cache) if is_upload and self._cache is not None else None
        stated = _stated_length(scope)
        body = _Body(receive, most, self._patience, stated, space, is_upload=is_upload)
        body.on_close = lambda: self._end(address, body)
        body.on_arrival = lambda: self._bound_bytes(address)
        self._uploads += is_upload
        try:
            self._begin(address, body)
            if stated > most:  # what lies about its size is counted as it comes
                _refuse_large(most)
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
        """Count a request, and end the slowest one where there are too many.

        Requests that drip go before the others, and no one is kept out by those who drip, not even where all clients
        have the address of one proxy.
        """
        same = self._unfinished.get(address, [])
        uploads = [each for each in same if each.is_upload]
        if body.is_upload and len(uploads) >= MAX_UPLOADS_PER_CLIENT:
            _end_slowest(uploads)
        elif len(same) >= self._most_of_one:
            _end_slowest(same)
        elif sum(map(len, self._unfinished.values())) >= self._most:
            _end_slowest(max(self._unfinished.values(), key=len))
        self._unfinished.setdefault(address, []).append(body)

    def _bound_bytes(self, address: str) -> None:
        """End the slowest upload of an address whose unfinished uploads take too much of the space."""
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
    """Space for one upload: reserved in steps for bytes that have arrived, and freed once they are on the disk."""

    def __init__(self, cache: CacheCleaner) -> None:
        self._cache = cache
        self._arrived = self._reserved = 0

    async def check(self, stated: int) -> None:
        """Refuse at once what has no room. A promise reserves nothing: the client may never keep it."""
        if not await asyncio.to_thread(self._cache.fits, stated):
            _refuse_full()

    async def take(self, size: int, *, is_last: bool) -> None:
        """Count bytes that have arrived, before the application writes them."""
        self._arrived += size
        if self._arrived and (is_last or self._arrived >= RESERVED_STEP_BYTES):
            arrived, self._arrived = self._arrived, 0
            self.release()  # the sweeper finds these in the folder
            if not await asyncio.to_thread(self._cache.reserve, arrived):
                _refuse_full()
            self._reserved = arrived

    def release(self) -> None:
        """Free what is reserved."""
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._cache.release(reserved)


class _Body:
    """The body of a request as it comes, counted and timed.

    Attributes:
        is_upload: Whether it brings files.
        size: Bytes that have arrived.
        on_close: Called once, when the body is not on its way any more.
        on_arrival: Called when a part of an upload has arrived.
    """

    def __init__(
        self, receive: Receive, most: int, patience: float, stated: int, space: _UploadSpace | None, *, is_upload: bool
    ) -> None:
        self.is_upload, self.size = is_upload, 0
        self.on_close: Callable[[], None] = lambda: None
        self.on_arrival: Callable[[], None] = lambda: None
        self._receive, self._most, self._patience, self._space = receive, most, patience, space
        self._least_rate = max(MIN_BYTES_PER_SECOND, min(stated, most) / MAX_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[Message] | None = None
        self._is_closed = self._is_ended = self._is_whole = False
        self._began = time.monotonic()
        self._kept: list[Message] = []

    @property
    def rate(self) -> float:
        """Bytes per second; a second is added, so that a request does not look fast by having just begun."""
        return self.size / (time.monotonic() - self._began + 1)

    async def receive(self) -> Message:
        """The next message; once the body is whole, the application waits for the end of the connection, as it may."""
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
        if self.size > self._most:
            _refuse_large(self._most)
        late = time.monotonic() - self._began - self._patience
        if not self._is_whole and late > 0 and (self.size < late * self._least_rate or late > MAX_SECONDS):
            _refuse_slow()
        if self._space is not None:
            await self._space.take(arrived, is_last=self._is_whole)
        return message

    async def _wait(self) -> Message:
        if self._is_ended:
            _refuse_slowest()
        self._waiting = asyncio.ensure_future(self._receive())
        try:
            return await asyncio.wait_for(self._waiting, self._patience)
        except TimeoutError:
            _refuse_slow()
        except asyncio.CancelledError:
            if self._is_ended:
                _refuse_slowest()
            raise
        finally:
            self._waiting = None

    def end(self) -> None:
        """Take no more of it: its client gets 503, and it does not count from now on."""
        self._is_ended = True
        self.close()
        if self._waiting is not None:
            self._loop.call_soon_threadsafe(self._waiting.cancel)

    def close(self) -> None:
        """It is not on its way any more."""
        if not self._is_closed:
            self._is_closed = True
            self.on_close()

    async def read_json(self, *, takes_files: bool) -> Any:
        """Read all of it, and refuse what is no JSON that a page would send.

        Args:
            takes_files: Whether gradio looks for files in it.

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
    """Whether the body is a form, which only files and logins may be; all others are JSON, and say so.

    A page of another site can send forms and plain text without being asked, JSON it cannot.
    """
    kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"").lower()
    if kind.startswith(_FORMS) and scope["path"].rstrip("/") in _FORM_PATHS:
        return True
    if kind and not kind.startswith(b"application/json"):
        raise BodyError(415, "Expected JSON, got something else.")
    return False


def _stated_length(scope: Scope) -> int:
    """The size that a request states, the largest one where it states several; 0 = it states none."""
    found = [value for name, value in scope["headers"] if name.lower() == b"content-length" and value.isdigit()]
    return max((int(value[:20]) for value in found), default=0)


def _end_slowest(bodies: list[_Body]) -> None:
    min(bodies, key=lambda body: body.rate).end()


def _refuse_large(most: int) -> NoReturn:
    size = f"{most / 2**20:.0f} MB" if most >= 2**20 else f"{most / 2**10:.0f} KB"
    raise BodyError(413, f"Expected at most {size}, got more. Send less at once.")


def _refuse_slow() -> NoReturn:
    raise BodyError(408, "The request did not arrive in time. Send it again.")


def _refuse_slowest() -> NoReturn:
    raise BodyError(503, "Too many requests are being sent, and this was the slowest. Send it again in a moment.")


def _refuse_full() -> NoReturn:
    raise BodyError(507, "The space for uploads is full. Try again in a few minutes.")


def _answer(refused: BodyError) -> JSONResponse:
    # What is left of the body is not read, so the connection cannot be used again.
    return JSONResponse({"detail": str(refused)}, refused.status, {"connection": "close"})


def _sweep(folder: Path) -> None:
    """Remove what uploads that were broken off have left; whole ones lie in folders of their own by now."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _LEFT_OVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
