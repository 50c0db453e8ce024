"""HTTP client of a model server: bounded in time, size and attempts; the API key is sent in a header only."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from hart_studio.errors import ModelError
from hart_studio.models.served_settings import ServedSettings

MAX_RESPONSE_BYTES: Final = 16 * 2**20
"""Maximum size of a response. Project default."""

_MAX_ERROR_BYTES: Final = 4096
_MAX_REASON_CHARS: Final = 300
_MIN_KEY_CHARS: Final = 8
"""Minimum length of a key prefix at the end of a text that is treated as a truncated key. Project default."""
_INITIAL_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 30.0
_MAX_RETRY_AFTER_SECONDS: Final = 120.0
"""Maximum wait that a server may request, so that it cannot stall a job. Project default."""
_RETRYABLE_STATUSES: Final = frozenset({408, 425, 429})
"""Statuses, in addition to 5xx, that are retried."""


class _RequestError(Exception):
    """An attempt that failed; ``wait_seconds`` is the wait that the server requests, None if it does not."""

    def __init__(
        self, reason: str, is_retryable: bool, wait_seconds: float | None = None, *, is_server_lost: bool = False
    ) -> None:
        super().__init__(reason)
        self.is_server_lost = is_server_lost
        self.is_retryable = is_retryable
        self.wait_seconds = wait_seconds


class Endpoint:
    """Thread-safe HTTP client of one server.

    Attributes:
        lost_connections: Number of requests without a response or with HTTP 5xx: the server may have been restarted.
    """

    def __init__(self, settings: ServedSettings, environment: Mapping[str, str] = os.environ) -> None:
        """Create the client; nothing is sent.

        Args:
            settings: Settings of the server.
            environment: Environment that holds the key.

        Raises:
            ModelError: If the URL or the key is invalid.
        """
        self._settings, self._url = settings, settings.url
        self.lost_connections = 0
        self._key = environment.get(settings.api_key_variable, "").strip()
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if self._key:
            # httpx would quote an invalid header in its error message.
            if not (self._key.isascii() and self._key.isprintable()):
                raise ModelError(f"The key in {settings.api_key_variable} must be printable ASCII. Set it again.")
            headers["authorization"] = f"Bearer {self._key}"
        seconds = settings.timeout_seconds
        try:
            self._client = httpx.Client(
                headers=headers,
                timeout=httpx.Timeout(seconds, connect=min(seconds, 30.0)),
                limits=httpx.Limits(max_connections=settings.concurrency),
                follow_redirects=False,
                trust_env=not _is_loopback(self._url),  # no proxy for servers on this machine
            )
            httpx.URL(self._url)
        except (httpx.InvalidURL, ValueError) as error:
            raise ModelError(f"Invalid URL or proxy for {self._url}: {error}. Correct it.") from error

    def request(
        self, path: str, body: Mapping[str, Any] | None = None, is_cancelled: threading.Event | None = None
    ) -> bytes:
        """Send JSON, or fetch it if there is no body; return the JSON of the response.

        Args:
            path: Path after the base URL, with a leading slash.
            body: Request body.
            is_cancelled: Set when the request is cancelled; ends a wait and stops further attempts.

        Raises:
            ModelError: If there is no response after all attempts, or the request is refused.
        """
        content = None if body is None else json.dumps(body).encode("ascii")
        is_cancelled = is_cancelled or threading.Event()
        for attempt in range(self._settings.retries + 1):
            try:
                return self._attempt(path, content)
            except _RequestError as failure:
                self.lost_connections += failure.is_server_lost
                is_last = attempt == self._settings.retries or not failure.is_retryable
                if is_last or is_cancelled.wait(_backoff_seconds(attempt, failure.wait_seconds)):
                    tried = f" after {attempt + 1} attempts" if attempt else ""
                    reason = self._redact_key(str(failure))
                    raise ModelError(f"No answer from {self._url}{path}: {reason}{tried}") from None
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _attempt(self, path: str, content: bytes | None) -> bytes:
        deadline = time.monotonic() + self._settings.timeout_seconds
        method, headers = ("GET", {}) if content is None else ("POST", {"content-type": "application/json"})
        try:
            with self._client.stream(method, f"{self._url}{path}", content=content, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response, _read(response, _MAX_ERROR_BYTES, deadline))
                kind = self._redact_key(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
                packing = self._redact_key(response.headers.get("content-encoding", "identity")).strip().lower()
                if kind != "application/json" or packing not in ("", "identity"):
                    what = f"{kind or 'an unnamed kind'}, {packing}"[:80]
                    raise _RequestError(f"{what} instead of plain JSON; check the URL", is_retryable=False)
                found = _read(response, MAX_RESPONSE_BYTES + 1, deadline)
                if len(found) > MAX_RESPONSE_BYTES:
                    raise _RequestError(
                        f"more than {MAX_RESPONSE_BYTES} bytes; lower the token limit", is_retryable=False
                    )
                return found
        except httpx.TimeoutException:
            reason = (
                f"no response within {self._settings.timeout_seconds:g} s; raise timeout_seconds (--served-timeout) "
                "or lower concurrency (--served-concurrency)"
            )
            raise _RequestError(reason, is_retryable=True, is_server_lost=True) from None
        except httpx.TransportError as error:
            reason = (
                f"no connection ({self._summarize(str(error)) or type(error).__name__}); check that the server runs"
            )
            raise _RequestError(reason, is_retryable=True, is_server_lost=True) from None
        except httpx.HTTPError as error:
            raise _RequestError(f"an invalid response ({self._summarize(str(error))})", is_retryable=False) from None

    def _refusal(self, response: httpx.Response, found: bytes) -> _RequestError:
        """Error for a response with another status than 200."""
        status = response.status_code
        reason = f"HTTP {status}: {self._summarize(found.decode('utf-8', 'replace')) or 'no text'}"
        if status in (401, 403):
            reason += f"; set its API key in the environment variable {self._settings.api_key_variable}"
        elif status == httpx.codes.NOT_FOUND:
            reason += "; check the URL, which usually ends with /v1, and the name of the model"
        elif 300 <= status < 400:
            reason += "; redirects are not followed: use the target URL"
        is_retryable = status in _RETRYABLE_STATUSES or 500 <= status < 600
        wait_seconds = read_retry_after(response.headers.get("retry-after", ""))
        return _RequestError(reason, is_retryable, wait_seconds, is_server_lost=500 <= status < 600)

    def _redact_key(self, text: str) -> str:
        """Remove the key from a text; a server may quote the key that it refuses, also truncated."""
        if not self._key:
            return text
        text = text.replace(self._key, "***")
        for length in range(len(self._key) - 1, _MIN_KEY_CHARS - 1, -1):
            if text.endswith(self._key[:length]):
                return f"{text[:-length]}***"
        return text

    def _summarize(self, text: str) -> str:
        """Start of the text on one line; shortened last, so that no part of a key remains."""
        text = self._redact_key(text)
        shown = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(shown.split())[:_MAX_REASON_CHARS]


def read_retry_after(text: str, now: datetime | None = None) -> float | None:
    """Parse a ``Retry-After`` header, a number or a date, to seconds; None if it is missing or invalid.

    Args:
        text: The header.
        now: Current time, for tests.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):  # the parser can raise any of these
        return None


def _backoff_seconds(attempt: int, asked: float | None) -> float:
    """Exponential backoff with jitter; a wait that the server requests takes precedence."""
    if asked is not None:
        return min(asked, _MAX_RETRY_AFTER_SECONDS)
    longest = min(_MAX_BACKOFF_SECONDS, _INITIAL_BACKOFF_SECONDS * 2.0**attempt)
    return longest * secrets.SystemRandom().uniform(0.5, 1.0)


def _read(response: httpx.Response, max_bytes: int, deadline: float) -> bytes:
    """Read a response up to a size limit."""
    # A server that sends single bytes never triggers the timeout of httpx, so the deadline is checked here too.
    found = bytearray()
    for chunk in response.iter_raw():
        found += chunk
        if len(found) >= max_bytes:
            break
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("too slow", request=response.request)
    return bytes(found[:max_bytes])


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
