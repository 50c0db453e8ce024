import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.runs.metric_series import RECENT_STEPS, MetricSeries


def test_a_short_run_keeps_every_entry() -> None:
    table = MetricSeries(max_rows=4)
    for step in (1, 2, 3):
        table.add(step, {"reward": step / 10, "kl": None if step == 2 else 0.5})
    assert table.columns() == {
        "first_row": 0,
        "steps": [1, 2, 3],
        "metrics": {"reward": {"mean": [0.1, 0.2, 0.3]}, "kl": {"mean": [0.5, None, 0.5]}},
    }
    assert table.columns(2) == {
        "first_row": 2,
        "steps": [3],
        "metrics": {"reward": {"mean": [0.3]}, "kl": {"mean": [0.5]}},
    }
    assert (table.width, table.revision) == (1, 0)


def test_a_long_run_puts_neighbors_together() -> None:
    table = MetricSeries(max_rows=4)
    for step in range(1, 8):
        table.add(step, {"reward": float(step)})
    # Four rows were full after step 4 and became two: 1-2, 3-4; then 5-6, and 7 alone so far.
    assert (table.width, table.revision, len(table)) == (2, 1, 4)
    assert table.columns() == {
        "first_row": 0,
        "steps": [2, 4, 6, 7],
        "metrics": {"reward": {"mean": [1.5, 3.5, 5.5, 7.0], "low": [1, 3, 5, 7], "high": [2, 4, 6, 7]}},
    }


@given(st.integers(1, 300), st.sampled_from([2, 4, 16]))
def test_nothing_is_lost_and_memory_is_bounded(entries: int, max_rows: int) -> None:
    table = MetricSeries(max_rows)
    for step in range(1, entries + 1):
        table.add(step, {"reward": float(step)})
        assert len(table) <= max_rows
    columns = table.columns()
    assert columns["steps"][-1] == entries and columns["steps"] == sorted(set(columns["steps"]))
    shown = min(entries, RECENT_STEPS)
    assert table.recent()["reward"] == (pytest.approx(entries - (shown - 1) / 2), shown)
    low = columns["metrics"]["reward"].get("low", columns["metrics"]["reward"]["mean"])
    high = columns["metrics"]["reward"].get("high", columns["metrics"]["reward"]["mean"])
    assert (low[0], high[-1]) == (1.0, entries)


def test_a_cut_forgets_what_is_done_again() -> None:
    table = MetricSeries(max_rows=4)
    for step in range(1, 8):
        table.add(step, {"reward": float(step)})
    table.truncate(7)
    assert table.revision == 1, "nothing lies after the last step"
    table.truncate(5)
    assert table.columns()["steps"] == [2, 4], "the row of steps 5 and 6 straddles the cut"
    assert table.revision == 2
    table.add(5, {"reward": 0.0})
    assert table.columns()["steps"] == [2, 4, 5]
    assert (table.first(), table.latest()) == ({"reward": 1.5}, {"reward": 0.0})


def test_an_empty_table() -> None:
    table = MetricSeries()
    assert (len(table), table.first(), table.latest(), table.columns()["steps"]) == (0, {}, {}, [])


def test_rows_must_pair_up() -> None:
    with pytest.raises(ValueError, match="expected an even number of rows, at least 2, got 3"):
        MetricSeries(3)


def test_the_current_value_is_the_mean_of_the_last_entries_that_have_one() -> None:
    table = MetricSeries()
    assert table.recent() == {}
    for step in range(1, 13):
        table.add(step, {"reward": float(step), "loss": None})
    table.add(13, {"loss": 2.0})
    assert table.recent() == {"reward": (7.5, 10), "loss": (2.0, 1)}
    table.truncate(4)
    assert table.recent() == {"reward": (2.5, 4)}, "a short run has every entry that comes before the cut"


def test_the_current_value_of_a_long_run_is_over_steps_not_rows() -> None:
    table = MetricSeries(max_rows=4)
    for step in range(1, 101):
        table.add(step, {"reward": float(step)})
    assert table.width > 1 and table.recent() == {"reward": (95.5, 10)}
    table.truncate(97)
    assert table.recent() == {"reward": (94.0, 7)}, "the count says over how many"
