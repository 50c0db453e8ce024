from __future__ import annotations

from collections.abc import Callable

import pytest

from hart_studio.errors import DataError, HartError, ModelError
from hart_studio.runs.cleanup import has_done_work, removing_empty_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import RunWriter
from tests.unit.runs.conftest import PROVENANCE


def fail(layout: RunLayout, work: Callable[[RunWriter], object], error: BaseException) -> list[str]:
    """Let an attempt fail after some work; gives what was reported."""
    messages: list[str] = []
    with pytest.raises(type(error)), removing_empty_run(layout, messages.append), RunWriter(layout, 10) as run:
        run.start(PROVENANCE)
        run.warn("3 rows are left out")
        work(run)
        raise error
    return messages


def test_a_run_that_failed_before_it_did_anything_is_removed(layout: RunLayout) -> None:
    messages = fail(layout, lambda _: None, ModelError("no such model"))
    assert messages == [f"Run {layout.run_id} had done no work and was removed"]
    assert not layout.folder.exists()


def test_a_run_that_never_began_is_removed(layout: RunLayout) -> None:
    with pytest.raises(HartError), removing_empty_run(layout, lambda _: None):
        raise DataError("no such file")
    assert not layout.folder.exists()


@pytest.mark.parametrize(
    "work",
    [
        lambda run: run.log_step(1, "", {"questions": 1.0}),
        lambda run: run.log_evaluation(0, {"iou": 0.5}, 3, "a1b2c3"),
        lambda run: run.log_rollouts(1, []),
        lambda run: run.saving_checkpoint(1, "sft").__enter__(),
    ],
    ids=["step", "evaluation", "rollouts", "an unfinished checkpoint"],
)
def test_a_run_that_did_something_stays(
    layout: RunLayout, work: Callable[[RunWriter], object], request: pytest.FixtureRequest
) -> None:
    is_work = "unfinished" not in request.node.callspec.id
    assert bool(fail(layout, work, ModelError("later"))) != is_work
    assert layout.folder.exists() == is_work
    if is_work:
        assert has_done_work(layout) and read_status(layout).state == "failed"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a fault of the program"), OSError("full")])
def test_only_what_a_user_can_repair_removes_a_run(layout: RunLayout, error: BaseException) -> None:
    assert fail(layout, lambda _: None, error) == []
    assert layout.folder.exists()
