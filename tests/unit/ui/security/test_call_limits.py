import asyncio
import json

import pytest
from starlette.responses import JSONResponse

from hart_studio.ui.security import call_limits
from hart_studio.ui.security.call_limits import CALLS_PATH, JSON_SCOPE_KEY, CallLimits
from tests.asgi import run_async


class Client:
    """One request, whose client stays until ``leave``."""

    def __init__(self, limits, name="poll", data=None, address="10.0.0.1", session="tab"):
        self.messages = []
        self.left = asyncio.Event()
        body = {"component_id": 1, "fn_name": name, "data": data, "session_hash": session}
        sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive():
            if sent:
                return sent.pop()
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            self.messages.append(message)

        scope = {"type": "http", "method": "POST", "path": CALLS_PATH, "headers": [(b"content-length", b"1")]}
        scope |= {"client": (address, 1), JSON_SCOPE_KEY: body}
        self.task = asyncio.ensure_future(limits(scope, receive, send))

    @property
    def status(self):
        return self.messages[0]["status"] if self.messages else 0

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.messages)

    def leave(self):
        self.left.set()


class Application:
    """Answers once it is let go; remembers what it was asked."""

    def __init__(self, answer=None):
        self.begun, self.running, self.most = [], 0, 0
        self.go = asyncio.Event()
        self.answer = {"ok": True} if answer is None else answer

    async def __call__(self, scope, receive, send):
        body = json.loads((await receive())["body"])
        self.begun.append(body)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.go.wait()
        self.running -= 1
        await JSONResponse(self.answer)(scope, receive, send)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def run(scene, **kwargs):
    async def play():
        application = Application(**kwargs)
        await asyncio.wait_for(scene(CallLimits(application), application), 20)

    run_async(play())


def test_a_call_passes_and_takes_no_place_among_the_visits():
    async def scene(limits, application):
        application.go.set()
        client = Client(limits, data={"x": 1})
        await client.task
        assert (client.status, json.loads(client.body)) == (200, {"ok": True})
        assert application.begun[0]["data"] == {"x": 1}
        other = Client(limits, session="another")
        await other.task
        assert application.begun[0]["session_hash"] == application.begun[1]["session_hash"]

    run(scene)


def test_calls_of_clients_that_left_are_never_carried_out():
    async def scene(limits, application):
        first = Client(limits, "report", session="a", data={"runs": ["x"]})
        await settle()
        gone = [Client(limits, "report", session=f"s{n}", data={"runs": ["x"]}) for n in range(30)]
        await settle()
        for client in gone:
            client.leave()
        await settle()
        assert all(client.task.done() and not client.messages for client in gone)
        application.go.set()
        await first.task
        await settle()
        assert len(application.begun) == 1 and not limits._calls

    run(scene)


def test_one_heavy_call_of_a_tab_or_a_project_runs_at_a_time():
    async def scene(limits, application):
        same_tab = [Client(limits, "report", {"runs": [n]}, session="a") for n in range(4)]
        await settle()
        assert len(application.begun) == 1
        same_project = [Client(limits, "export", {"project": "p"}, f"10.0.0.{n}", f"s{n}") for n in range(9)]
        await settle()
        assert len(application.begun) == 2, "two of all clients"
        light = Client(limits, "poll", {"project": "p"}, session="z")
        await settle()
        assert len(application.begun) == 3, "what is quick continues meanwhile"
        application.go.set()
        await asyncio.gather(*(each.task for each in (*same_tab, *same_project, light)))
        assert len(application.begun) == 14

    run(scene)


def test_an_address_with_many_calls_leaves_slots_for_others():
    async def scene(limits, application):
        many = [Client(limits, session=f"s{n}") for n in range(call_limits.MAX_CALLS_PER_ADDRESS)]
        await settle()
        assert application.running == call_limits.MAX_RUNNING_PER_ADDRESS["light"]
        refused = Client(limits, session="new")
        await refused.task
        assert refused.status == 429
        assert dict(refused.messages[0]["headers"])[b"retry-after"] == b"2"
        assert b"Try again" in refused.body
        other = Client(limits, address="10.0.0.2")
        await settle()
        assert application.running == call_limits.MAX_RUNNING_PER_ADDRESS["light"] + 1
        application.go.set()
        await asyncio.gather(other.task, *(each.task for each in many))
        assert application.most <= call_limits.MAX_RUNNING["light"]

    run(scene)


def test_a_tab_has_so_many_calls_and_all_clients_together_have_so_many():
    async def scene(limits, application):
        own = [Client(limits) for _ in range(call_limits.MAX_CALLS_PER_SESSION + 1)]
        await settle()
        assert [each.status for each in own].count(429) == 1
        per, rest = call_limits.MAX_CALLS_PER_ADDRESS, call_limits.MAX_CALLS - call_limits.MAX_CALLS_PER_SESSION
        others = [Client(limits, address=f"a{n // per}", session=f"s{n}") for n in range(rest)]
        await settle()
        last = Client(limits, address="last")
        await last.task
        assert last.status == 503
        application.go.set()
        await asyncio.gather(*(each.task for each in (*own, *others)))

    run(scene)


def test_a_large_answer_goes_out_in_blocks_and_a_huge_one_not_at_all():
    async def scene(limits, application):
        application.go.set()
        client = Client(limits)
        await client.task
        sizes = [len(message.get("body", b"")) for message in client.messages]
        assert max(sizes) <= call_limits.SEND_BLOCK_BYTES and sum(sizes) > 300_000
        assert [message.get("more_body") for message in client.messages][-1] is False
        application.answer = "x" * (call_limits.MAX_ANSWER_BYTES + 1)
        huge = Client(limits)
        await huge.task
        assert huge.status == 413 and len(huge.body) < 200

    run(scene, answer="x" * 300_000)


def test_a_fault_of_the_application_frees_its_slot():
    async def broken(scope, receive, send):
        raise RuntimeError("fault")

    async def scene(limits, application):
        limits.app = broken
        client = Client(limits, "report")
        with pytest.raises(RuntimeError):
            await client.task
        assert not limits._calls and not limits._running and not limits._waiting

    run(scene)


def test_other_requests_pass_as_they_are():
    async def scene(limits, application):
        seen = []

        async def app(scope, receive, send):
            seen.append(scope["path"])
            await send({"type": "http.response.body", "body": b"x" * 200_000})

        limits.app = app
        sent = []

        async def send(message):
            sent.append(message)

        await limits({"type": "http", "method": "GET", "path": "/config", "headers": []}, None, send)
        assert seen == ["/config"] and b"".join(each["body"] for each in sent) == b"x" * 200_000

    run(scene)
