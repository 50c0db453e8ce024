"""Import the MCP server only if its optional package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart_studio.errors import InputError

if TYPE_CHECKING:
    from hart_studio.ui.mcp.server import McpServer


def find_server() -> type[McpServer]:
    """Return the class of the MCP server.

    Raises:
        InputError: If the package ``mcp`` is missing or has another version.
    """
    try:
        from hart_studio.ui.mcp.server import McpServer  # noqa: PLC0415 - imports the library
    except ImportError as error:
        raise InputError("--mcp needs the package mcp, version 2. Run pip install -r requirements-mcp.txt") from error
    return McpServer
