"""MCP server with the tools ``ask``, ``locate`` and ``verify``, protected by a token."""
