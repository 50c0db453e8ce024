"""Many sessions, and events that no client reads: no setting is lost, and no model call is wasted."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr
import httpx
import pytest

from hart_studio.errors import InputError
from hart_studio.ui import model_calls
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.pages.train import read_base
from tests.attacks.targets import Target

pytestmark = pytest.mark.integration


def test_nothing_that_a_page_needs_is_kept_in_a_session_that_others_push_out(target: Target) -> None:
    assert not [block for block in target.app.blocks.values() if isinstance(block, gr.State)]
    before = set(target.app.state_holder.session_data)
    number = next(number for number, name in target.server_functions if name == "list_runs")
    for count in range(20):
        body = {"component_id": number, "fn_name": "list_runs", "session_hash": f"program{count}", "data": {}}
        assert httpx.post(f"{target.url}gradio_api/component_server", json=body).status_code == 200
    new = set(target.app.state_holder.session_data) - before
    assert not [name for name in new if name.startswith("program")] and len(new) <= 1


@pytest.mark.parametrize("sent", [None, {}, [], ["cpu-demo", {}], ["no preset", {}, []], ["cpu-demo", [], []], "x", 7])
def test_a_base_that_is_missing_is_refused_and_not_replaced(sent: Any) -> None:
    with pytest.raises(InputError, match="Reload the page"):
        read_base(sent)


def test_the_base_that_a_page_sends_is_taken() -> None:
    assert read_base(["cpu-demo", {"name": "mine"}, ["note"]]) == ("cpu-demo", {"name": "mine"}, ("note",))


def test_a_question_whose_answer_no_one_reads_is_not_asked(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_calls, "UNREAD_SECONDS", 0.5)
    asked: list[str] = []
    answer = AskService.answer

    def note(self: AskService, *arguments: Any) -> Any:
        asked.append(str(arguments[1]))
        return answer(self, *arguments)

    monkeypatch.setattr(AskService, "answer", note)
    path = target.upload("x.png", (target.root / "images" / "street.png").read_bytes()).json()[0]
    image = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for _ in range(3):
        body = {"data": [image, "What?", "", "", "scripted", None]}
        assert httpx.post(f"{target.url}gradio_api/call/ask", json=body, timeout=30).status_code == 200
    time.sleep(3)
    assert asked == []
    assert "scripted" in target.ask(image) and len(asked) == 1, "who reads is answered"
