"""Test tiers, parallel workers, and fixtures that every part of the suite may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.examples import FEW, FRESH, MANY, register_profiles
from tests.tiers import FOLDERS_BY_LENGTH, folder_of, is_selected, tier_of

if TYPE_CHECKING:
    from hart_studio.models.generation import LocalChatModel

LEFT_OUT = pytest.StashKey[int]()
MOST_WORKERS = 6
"""A worker with a loaded model and a browser takes up to 3 GB."""

# Read by torch, transformers and gradio when they are imported, and by the processes that tests start.
for _name, _value in {
    "OMP_NUM_THREADS": "1",  # the workers share the cores
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}.items():
    os.environ.setdefault(_name, _value)

register_profiles()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Define the options that select tiers."""
    group = parser.getgroup("tiers")
    group.addoption("--all", action="store_true", help="run every test except the slow ones")
    group.addoption("--rest", action="store_true", help="run what the default tier leaves out, except the slow tests")
    group.addoption("--slow", action="store_true", help="run slow tests, too (random kills, scale)")


def pytest_configure(config: pytest.Config) -> None:
    """Load the Hypothesis profile before the test files are imported."""
    is_long = config.getoption("--all") or config.getoption("--rest")
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile(FRESH if config.getoption("--slow") else MANY if is_long else FEW)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one worker per core; none for the debugger and where single files are named."""
    if config.option.usepdb or all(".py" in argument for argument in config.args):
        return 0
    return min(_count_cores(), MOST_WORKERS)


def _count_cores() -> int:
    """Cores that this process may use, with the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # elsewhere than Linux, or without a limit: "max 100000"
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text("utf-8").split())
        cores = max(1, min(cores, round(quota / period)))
    return cores


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of other tiers, and put the files that take longest first."""
    kept, left = [], []
    runs_rest = config.getoption("--rest")
    is_named = config.args_source is pytest.Config.ArgsSource.ARGS
    for item in items:
        is_kept = is_selected(
            tier_of(item.path, (mark.name for mark in item.iter_markers())),
            is_fuzz_test=hasattr(getattr(item, "obj", None), "hypothesis"),
            runs_all=config.getoption("--all") or (is_named and not runs_rest),
            runs_rest=runs_rest,
            runs_slow=config.getoption("--slow"),
        )
        (kept if is_kept else left).append(item)
    items[:] = sorted(kept, key=lambda item: FOLDERS_BY_LENGTH.index(folder_of(item.path)))
    if left:
        config.stash[LEFT_OUT] = len(left)
        config.hook.pytest_deselected(items=left)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report the number of skipped tests of a worker to the main process."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the number from a worker; all of them collect the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how many tests were left out, and how to run them."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{count} tests of other tiers not run: --rest runs them alone, --all everything, --slow kills and scale"
        )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a family, which the workers share: ``tiny_folder("qwen3_vl")``."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny_models"
    root.mkdir(exist_ok=True)

    def folder(family_key: str) -> Path:
        from tests.tiny_models import build_tiny  # noqa: PLC0415 - the core's tests start without torch

        path = root / family_key
        with FileLock(root / f"{family_key}.lock"):
            if not path.exists():
                build_tiny(family_key, root / f"{family_key}.part").rename(path)
        return path

    return folder


@pytest.fixture(scope="session")
def load_tiny(tiny_folder: Callable[[str], Path]) -> Callable[[str], LocalChatModel]:
    """The loaded tiny model of a family, one for the whole session: ``load_tiny("qwen3_vl")``."""
    models: dict[str, LocalChatModel] = {}

    def load(family_key: str) -> LocalChatModel:
        from hart_studio.models.loading import load_model  # noqa: PLC0415 - as above

        if family_key not in models:
            models[family_key] = load_model(str(tiny_folder(family_key)), device="cpu")
        return models[family_key]

    return load
