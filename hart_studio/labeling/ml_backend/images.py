"""Images that a Label Studio task refers to: in one folder, on one host, or inside the task.

A task comes from the network, so it cannot choose where the server reads. The host of a URL is only compared: the
connection goes to the host that the operator configured, also for redirects. The access token is sent only to that
host.
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
"""Maximum size of an image from the network or inside a task, bytes. Project default."""
FETCH_TIMEOUT_SECONDS: Final = 20.0
"""Timeout for one image, seconds. Project default."""
MAX_REDIRECTS: Final = 3

_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_DATA_URI: Final = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


class ServerOrigin(NamedTuple):
    """Scheme, host and port of a server."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Host name or address."""
    port: int
    """Port, also when the URL omits it."""

    @property
    def url(self) -> str:
        """The origin as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_origin(url: str) -> ServerOrigin | None:
    """Parse the origin of a URL; None if it is no ``http(s)`` URL, or has a user name."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return ServerOrigin(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)


def parse_server_url(url: str) -> ServerOrigin:
    """Parse the URL of the Label Studio server.

    Raises:
        InputError: If it has more than scheme, host and port.
    """
    origin = parse_origin(url)
    if origin is None or urlsplit(url)._replace(scheme="", netloc="").geturl() not in ("", "/"):
        raise InputError("Invalid --label-studio-url. Use the form http://HOST:PORT, such as http://localhost:8080.")
    return origin


def parse_token(text: str) -> str:
    """Validate the access token for use in a header.

    Raises:
        InputError: If it has invalid characters. The message does not contain the token.
    """
    token = text.strip()
    if not all(sign in string.ascii_letters + string.digits + string.punctuation for sign in token):
        raise InputError("LABEL_STUDIO_API_KEY has characters other than letters and digits. Copy it again.")
    return token


def make_image_loader(image_root: Path | None, server_url: str, token: str) -> ImageLoader:
    """Create an image loader from the settings of the operator.

    Args:
        image_root: Folder of images, or None.
        server_url: Scheme, host and port of Label Studio, or empty.
        token: Access token of Label Studio, or empty.

    Raises:
        InputError: If the folder is missing, or another setting is invalid.
    """
    if image_root is not None and not image_root.is_dir():
        raise InputError(f"No folder at {image_root}. Check --image-root.")
    return ImageLoader(image_root, parse_server_url(server_url) if server_url else None, parse_token(token))


@dataclass(frozen=True)
class ImageLoader:
    """Opens images that a task may refer to, and rejects others.

    Attributes:
        image_root: Folder of ``/data/local-files/?d=...`` and of relative paths; None = no files.
        server: Label Studio server; None = no downloads.
        token: Access token of the server; empty = none.
        max_bytes: Maximum size of an image that is no file below ``image_root``.
    """

    image_root: Path | None = None
    server: ServerOrigin | None = None
    token: str = field(default="", repr=False)
    max_bytes: int = MAX_IMAGE_BYTES

    def open(self, reference: str, seconds: float = FETCH_TIMEOUT_SECONDS) -> SourceImage:
        """Open an image.

        Args:
            reference: Reference of the image in the task.
            seconds: Download timeout; at most ``FETCH_TIMEOUT_SECONDS``.

        Raises:
            ImageError: If it is no image, cannot be downloaded, or is too large.
            InputError: If the source is not allowed, or the path leads out of the folder.
            ValueError: If the file does not exist.
        """
        if reference[:5].lower() == "data:":
            return self._open_bytes(self._decode(reference))
        if self.image_root and (reference.startswith(LOCAL_FILES) or not re.match(r"/|[\w.+-]+:", reference)):
            return SourceImage(resolve_image_path(self.image_root, image_name(reference)))
        if self.server:
            # A plain path is an uploaded file of Label Studio.
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
        source = origin.url if origin else "unsupported address"
        return InputError(
            f"Image source not allowed: {source}. Use {' or '.join(allowed)}; see --image-root and --label-studio-url."
        )

    def _decode(self, reference: str) -> bytes:
        head = _DATA_URI.match(reference)
        if head is None:
            raise ImageError("The data: URI is not base64. Encode it as base64.")
        if (len(reference) - head.end()) // 4 * 3 > self.max_bytes + 3:
            raise self._size_error()
        try:
            return base64.b64decode(reference[head.end() :], validate=True)
        except ValueError as error:
            raise ImageError("The data: URI has invalid base64. Encode it again.") from error

    def _fetch(self, url: str, server: ServerOrigin, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        for _ in range(MAX_REDIRECTS + 1):
            if parse_origin(url) != server:
                raise ImageError(
                    f"{server.url} redirects the image to another server; such redirects are not followed. "
                    "Copy the image to Label Studio, or use local files."
                )
            found = self._get(url, server, deadline)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise ImageError(f"More than {MAX_REDIRECTS} redirects. Check the settings of Label Studio.")

    def _get(self, url: str, server: ServerOrigin, deadline: float) -> bytes | str:
        """Return the content, or the target of a redirect."""
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
                        f"{server.url} answered the image request with HTTP status {response.status}. "
                        "Check LABEL_STUDIO_API_KEY and that the image exists."
                    )
                data = response.read(self.max_bytes + 1)
            if limit.is_over:
                raise self._timeout_error(server)
        except (OSError, HTTPException, ValueError) as error:
            if time.monotonic() >= deadline or isinstance(error, TimeoutError):
                raise self._timeout_error(server) from error
            # The error text is not shown: it may contain the token.
            raise ImageError(
                f"Cannot load the image from {server.url}: {type(error).__name__}. Check --label-studio-url."
            ) from error
        finally:
            connection.close()
        if len(data) > self.max_bytes:
            raise self._size_error()
        return data

    def _timeout_error(self, server: ServerOrigin) -> ImageError:
        return ImageError(f"Timeout while loading an image from {server.url}. Try again, or use local files.")

    def _size_error(self) -> ImageError:
        return ImageError(f"Image larger than {self.max_bytes:,} bytes. Use local files.")


class _TimeLimit:
    """Closes a connection after a total time; a socket timeout restarts with every byte."""

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
