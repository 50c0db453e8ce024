"""Images that a Label Studio task names: from one folder, from one host, or from the task itself.

A task comes from the network, so it does not choose where the server looks. A URL's host is only compared: the
connection goes to the host that the operator named, and a redirect is held to the same rule. The access token goes to
that host and nowhere else.
"""

from __future__ import annotations

import base64
import re
import socket
import string
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import quote, urljoin, urlsplit

from hart_studio.data.rows import resolve_image_path
from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import ImageLimits, SourceImage
from hart_studio.labeling.formats.label_studio import LOCAL_FILES, image_name

MAX_IMAGE_BYTES: Final = 64 << 20
"""Of an image from the network or from inside a task, bytes (project default)."""
FETCH_TIMEOUT_SECONDS: Final = 20.0
"""Of one image, seconds (project default)."""
MAX_REDIRECTS: Final = 3

_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_DATA_URI: Final = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


class ServerOrigin(NamedTuple):
    """A server: what two URLs must have in common to be of the same one."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Name or address."""
    port: int
    """Also when the URL leaves it out."""

    @property
    def url(self) -> str:
        """As a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_origin(url: str) -> ServerOrigin | None:
    """The server of a URL; None when it is no ``http(s)`` URL, or one with a user name."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return ServerOrigin(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)


def parse_server_url(url: str) -> ServerOrigin:
    """The Label Studio server that an operator named.

    Raises:
        InputError: If it is not scheme, host and port alone.
    """
    origin = parse_origin(url)
    if origin is None or urlsplit(url)._replace(scheme="", netloc="").geturl() not in ("", "/"):
        raise InputError(
            "expected --label-studio-url such as http://localhost:8080, got another form; leave out the rest"
        )
    return origin


def parse_token(text: str) -> str:
    """The access token as it may stand in a header.

    Raises:
        InputError: If it cannot. The message does not show it.
    """
    token = text.strip()
    if not all(sign in string.ascii_letters + string.digits + string.punctuation for sign in token):
        raise InputError("expected LABEL_STUDIO_API_KEY of plain letters and digits, got other signs; copy it again")
    return token


def make_image_loader(image_root: Path | None, server_url: str, token: str) -> ImageLoader:
    """What an operator allows.

    Args:
        image_root: A folder, or None.
        server_url: Label Studio's scheme, host and port, or an empty text.
        token: Its access token, or an empty text.

    Raises:
        InputError: If the folder is missing, or the others have another form.
    """
    if image_root is not None and not image_root.is_dir():
        raise InputError(f"expected a folder at {image_root}, got none; check --image-root")
    return ImageLoader(image_root, parse_server_url(server_url) if server_url else None, parse_token(token))


@dataclass(frozen=True)
class ImageLoader:
    """Opens what a task may name, and refuses the rest.

    Attributes:
        image_root: Folder of ``/data/local-files/?d=...`` and of relative paths; None = no files.
        server: The Label Studio server; None = nothing is fetched.
        token: Its access token; empty = none.
        max_bytes: Most bytes of an image that is no file below ``image_root``.
    """

    image_root: Path | None = None
    server: ServerOrigin | None = None
    token: str = field(default="", repr=False)
    max_bytes: int = MAX_IMAGE_BYTES

    def open(self, reference: str, seconds: float = FETCH_TIMEOUT_SECONDS) -> SourceImage:
        """Open an image.

        Args:
            reference: As the task has it.
            seconds: For fetching it; never more than ``FETCH_TIMEOUT_SECONDS``.

        Raises:
            ImageError: If it is none, cannot be fetched, or is too large.
            InputError: If it is from anywhere else, or leads out of the folder.
            ValueError: If there is no such file.
        """
        if reference[:5].lower() == "data:":
            return self._open_bytes(self._decode(reference))
        if self.image_root and (reference.startswith(LOCAL_FILES) or not re.match(r"/|[\w.+-]+:", reference)):
            return SourceImage(resolve_image_path(self.image_root, image_name(reference)))
        if self.server:
            # A path alone is one of Label Studio's own: an uploaded file.
            url = self.server.url + reference if re.match(r"/[^/\\]", reference) else reference
            if parse_origin(url) == self.server:
                return self._open_bytes(self._fetch(url, self.server, min(seconds, FETCH_TIMEOUT_SECONDS)))
        raise self._refused_error(reference)

    def _open_bytes(self, data: bytes) -> SourceImage:
        return SourceImage(data, ImageLimits(max_bytes=self.max_bytes))

    def _refused_error(self, reference: str) -> InputError:
        allowed = ["a data: URI"]
        allowed += ["a file below --image-root"] if self.image_root else []
        allowed += [f"a URL of {self.server.url}"] if self.server else []
        origin = parse_origin(reference)
        got = f"one of {origin.url}" if origin else "another kind of address"
        return InputError(
            f"expected an image that is {' or '.join(allowed)}, got {got}; see --image-root and --label-studio-url"
        )

    def _decode(self, reference: str) -> bytes:
        head = _DATA_URI.match(reference)
        if head is None:
            raise ImageError("expected a data: URI in base64, got another one; encode it again")
        if (len(reference) - head.end()) // 4 * 3 > self.max_bytes + 3:
            raise self._size_error()
        try:
            return base64.b64decode(reference[head.end() :], validate=True)
        except ValueError as error:
            raise ImageError("expected base64 in a data: URI, got other signs; encode it again") from error

    def _fetch(self, url: str, server: ServerOrigin, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        for _ in range(MAX_REDIRECTS + 1):
            if parse_origin(url) != server:
                raise ImageError(
                    f"expected an image of {server.url}, got a redirect to another server, which is not followed; "
                    "copy the image to Label Studio, or use local files"
                )
            found = self._get(url, server, deadline)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise ImageError(f"expected at most {MAX_REDIRECTS} redirects, got more; look at Label Studio's settings")

    def _get(self, url: str, server: ServerOrigin, deadline: float) -> bytes | str:
        """The content, or where it is."""
        parts = urlsplit(url)
        path = quote(f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/", string.punctuation)
        headers = {"Authorization": f"Token {self.token}"} if self.token else {}
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._timeout_error(server)
        connect = HTTPSConnection if server.scheme == "https" else HTTPConnection
        connection = connect(server.host, server.port, timeout=left)
        try:
            connection.connect()
            with _TimeLimit(connection.sock, deadline - time.monotonic()) as limit:
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                if response.status != 200:
                    raise ImageError(
                        f"expected an image of {server.url}, got HTTP status {response.status}; "
                        "check LABEL_STUDIO_API_KEY and that the image is there"
                    )
                data = response.read(self.max_bytes + 1)
            if limit.is_over:
                raise self._timeout_error(server)
        except (OSError, HTTPException, ValueError) as error:
            if time.monotonic() >= deadline or isinstance(error, TimeoutError):
                raise self._timeout_error(server) from error
            # The text of the error is not shown: it may quote what was sent.
            raise ImageError(
                f"expected an image of {server.url}, got {type(error).__name__}; check --label-studio-url"
            ) from error
        finally:
            connection.close()
        if len(data) > self.max_bytes:
            raise self._size_error()
        return data

    def _timeout_error(self, server: ServerOrigin) -> ImageError:
        return ImageError(f"expected an image of {server.url} in time, got none; try again, or use local files")

    def _size_error(self) -> ImageError:
        return ImageError(f"expected an image of at most {self.max_bytes:,} bytes, got more; use local files")


class _TimeLimit:
    """Ends a connection when its time is over: a time-out of the socket begins again with every byte."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self.is_over = False
        self._sock = sock
        self._timer = threading.Timer(max(0.0, seconds), self._close_socket)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _close_socket(self) -> None:
        self.is_over = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
