"""The tools ``ask``, ``locate`` and ``verify`` for language models that speak MCP, behind a token of their own."""
