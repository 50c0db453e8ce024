"""What threads free goes back to the system."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
import uvicorn

from hart_studio.ui import process_limits
from hart_studio.ui.process_limits import install_connection_limits, raise_file_limit
from tests.asgi import run_async


async def answer(scope, receive, send):
    """A small answer at ``/``, one of 20 MB in blocks elsewhere."""
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    count = 1 if scope["path"] == "/" else 320
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for index in range(count):
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": index < count - 1})
        answer.sent = index


@pytest.fixture
def served(monkeypatch):
    """Run a scene against a server with short timeouts."""
    monkeypatch.setattr(process_limits, "IDLE_SECONDS", 0.4)
    monkeypatch.setattr(process_limits, "READ_SECONDS", 0.6)
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    install_connection_limits()

    def play(scene):
        async def run():
            listening = socket.socket()
            listening.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(answer, log_level="error", lifespan="off", timeout_keep_alive=60))
            task = asyncio.ensure_future(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            try:
                await asyncio.wait_for(scene(listening.getsockname()[1], server), 15)
            finally:
                server.should_exit = True
                await task

        run_async(run())

    return play


def test_a_connection_without_a_request_is_closed(served):
    async def scene(port, server):
        silent, _ = await asyncio.open_connection("127.0.0.1", port)
        torn, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        for reader in (silent, torn):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)

    served(scene)


def test_a_connection_is_not_kept_open_after_an_answer_by_a_head_that_drips(served):
    async def scene(port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HT")
        with suppress(ConnectionResetError):
            while await asyncio.wait_for(reader.read(65_536), 5):
                pass

    served(scene)


def test_a_client_that_reads_nothing_is_cut_off(served):
    async def scene(port, server):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        with client:
            await asyncio.sleep(0.3)
            assert server.server_state.connections and answer.sent < 319, "the answer waits for the client"
            while server.server_state.connections:
                await asyncio.sleep(0.05)

    served(scene)


def test_a_client_that_reads_slowly_gets_everything(served):
    async def scene(port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        size = 0
        while size < 320 * 65_536:
            size += len(await reader.read(2**20))
            await asyncio.sleep(0.004)
        writer.close()

    served(scene)


def test_a_server_ends_while_streams_are_open(served, monkeypatch):
    monkeypatch.setattr(process_limits, "SHUTDOWN_SECONDS", 0.2)

    async def scene(port, server):
        for path in (b"/stream", b"/"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.2)
        server.should_exit = True
        while server.server_state.connections:
            await asyncio.sleep(0.05)

    served(scene)


def test_the_limit_of_open_files_is_raised_to_the_hard_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        raise_file_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = process_limits.MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, process_limits.MAX_FILES)
        assert raised == (wanted, hard)
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


WORK = """
import ctypes, sys, threading
from pathlib import Path
from hart_studio.ui.process_limits import limit_malloc_arenas
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "bound" and not limit_malloc_arenas():
    sys.exit(3)
kept, barrier = [], threading.Barrier(16)

def open_image():
    for _ in range(2):
        block = libc.malloc(20 << 20)
        ctypes.memset(block, 1, 20 << 20)
        kept.append(libc.malloc(4096))  # the trace of an answer, which lies behind the image
        libc.free(block)
        barrier.wait()

threads = [threading.Thread(target=open_image) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096 / 2**20)
"""


def measure(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, text=True, check=False)
    if done.returncode == 3 or not sys.platform.startswith("linux"):
        pytest.skip("the C library is not that of GNU")
    return float(done.stdout)


def test_images_of_many_threads_do_not_stay_in_memory() -> None:
    assert measure("bound") < measure("plain") - 100
