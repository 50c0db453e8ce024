"""The program in the environment of a Space: read-only source, no libGL and variables; see ``tests.simulate_space``."""

from pathlib import Path

import pytest

from tests.simulate_space import simulate

pytestmark = pytest.mark.integration


def test_a_simulated_space_is_right_and_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path)
    output = capsys.readouterr().out
    for text in ("training is refused", "a stranger's list is empty", "nothing was written to the source"):
        assert text in output


@pytest.mark.slow
def test_a_visitor_labels_and_evaluates_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path, is_thorough=True)
    assert "an evaluation of the examples is completed" in capsys.readouterr().out
