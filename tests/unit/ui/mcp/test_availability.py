import sys

import pytest

from hart_studio.errors import InputError
from hart_studio.ui.mcp.availability import find_server


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hart_studio.ui.mcp.server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with pytest.raises(InputError, match=r"the package mcp, version 2.* requirements-mcp\.txt"):
        find_server()


def test_the_library_is_found() -> None:
    assert find_server().__name__ == "McpServer"
