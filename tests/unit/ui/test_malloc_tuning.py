"""What threads free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

WORK = """
import ctypes, sys, threading
from pathlib import Path
from hart_studio.ui.malloc_tuning import limit_malloc_arenas
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
