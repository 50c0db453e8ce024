"""MCP tool calls with the official client, one connection each."""

from __future__ import annotations

import asyncio
import io
from base64 import b64decode
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2
from mcp.client import Client
from mcp.client.client import ConnectMode
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from PIL import Image

TOKEN = "0123456789abcdef0123456-"  # noqa: S105 - of the tests alone

Result = TypeVar("Result")


def talk(
    url: str, action: Callable[[Client], Awaitable[Result]], token: str | None = TOKEN, mode: ConnectMode = "auto"
) -> Result:
    """Connect, do something, and disconnect.

    Args:
        url: Of the page.
        action: Gets the client.
        token: What the client sends; None = nothing.
        mode: Version of the protocol.
    """

    async def connect() -> Result:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=120) as http,
            Client(streamable_http_client(f"{url}mcp", http_client=http), mode=mode) as client,
        ):
            return await action(client)

    # In a thread of its own: browser tests of the same process keep an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, connect()).result()


def use(url: str, tool: str, mode: ConnectMode = "auto", **arguments: Any) -> CallToolResult:
    """Call a tool."""
    return talk(url, lambda client: client.call_tool(tool, arguments), mode=mode)


def words(result: CallToolResult) -> str:
    """The text of an answer."""
    return result.content[0].text  # type: ignore[union-attr]


def images(result: CallToolResult) -> list[Image.Image]:
    """The images of an answer."""
    return [Image.open(io.BytesIO(b64decode(part.data))) for part in result.content if part.type == "image"]
