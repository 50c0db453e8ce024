"""Whether the tools can be served at all: nothing else needs their protocol's library, which may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart_studio.errors import InputError

if TYPE_CHECKING:
    from hart_studio.ui.mcp.server import McpServer


def find_server() -> type[McpServer]:
    """The server's class.

    Raises:
        InputError: If its library is not installed, or is of another version.
    """
    try:
        from hart_studio.ui.mcp.server import McpServer  # noqa: PLC0415 - imports the library
    except ImportError as error:
        raise InputError(
            "expected the package mcp of version 2 for --mcp, got none or another version; run pip install -r "
            "requirements-mcp.txt"
        ) from error
    return McpServer
