"""Every test belongs to one tier, and the options select the documented tiers."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import TESTS, Tier, folder_of, is_selected, tier_of

TABS = {
    "Ask": "test_ask_page.py",
    "Label": "test_label_page.py",
    "Review": "test_review_page.py",
    "Train": "test_real_runs.py",
    "Watch": "test_run_pages.py",
    "Runs": "test_run_pages.py",
    "Evaluate": "test_evaluate_page.py",
}


@pytest.mark.parametrize(
    ("place", "markers", "tier"),
    [
        ("unit/test_a.py", [], "default"),
        ("contract/test_a.py", ["integration"], "default"),
        ("unit/test_a.py", ["extended"], "extended"),
        ("browser/test_a.py", ["browser"], "extended"),
        ("integration/test_a.py", ["integration", "core"], "default"),
        ("documents/test_a.py", [], "extended"),
        ("integration/test_a.py", ["core", "slow"], "slow"),
        ("unit/test_a.py", ["slow"], "slow"),
    ],
)
def test_the_tier_of_a_test(place: str, markers: list[str], tier: Tier) -> None:
    assert tier_of(TESTS / place, markers) == tier


def test_default_and_rest_are_everything_but_the_slow_tests() -> None:
    tiers: tuple[Tier, ...] = ("default", "extended", "slow")
    for tier, is_fuzz_test in itertools.product(tiers, (False, True)):

        def selects(rest: bool = False, whole: bool = False, tier: Tier = tier, fuzz: bool = is_fuzz_test) -> bool:
            return is_selected(tier, is_fuzz_test=fuzz, runs_all=whole, runs_rest=rest, runs_slow=False)

        default, rest = selects(), selects(rest=True)
        assert (default or rest) == selects(whole=True) == (tier != "slow")
        assert not (default and rest) or is_fuzz_test, "Hypothesis tests are repeated with more examples"
        assert is_selected(tier, is_fuzz_test=is_fuzz_test, runs_all=True, runs_rest=False, runs_slow=True)


def test_the_folder_of_a_test() -> None:
    assert folder_of(TESTS / "unit" / "ui" / "test_a.py") == "unit"
    assert {folder_of(path) for path in TESTS.rglob("test_*.py")} == {
        "attacks", "browser", "contract", "documents", "integration", "unit",
    }  # fmt: skip


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_has_a_test_in_the_default_tier(tab: str) -> None:
    assert re.search(
        r"^@pytest\.mark\.core\n(@.*\n)*def test_", (TESTS / "browser" / TABS[tab]).read_text("utf-8"), re.M
    )


@pytest.mark.extended
def test_left_out_tests_are_counted_and_their_commands_named(tmp_path: Path) -> None:
    """A suite of two tests with this suite's settings, in two workers."""
    suite = tmp_path / "tests"
    (suite / "unit").mkdir(parents=True)
    (suite / "browser").mkdir()
    for name in ("conftest.py", "tiers.py", "examples.py"):
        (suite / name).write_bytes((TESTS / name).read_bytes())
    (suite / "__init__.py").touch()
    (suite / "unit" / "test_here.py").write_text(
        "import os\ndef test_here(): assert os.environ['OMP_NUM_THREADS'] == '1'\n"
    )
    (suite / "browser" / "test_there.py").write_text("def test_there(): pass\n")
    settings = (TESTS.parent / "pyproject.toml").read_text("utf-8")
    (tmp_path / "pyproject.toml").write_text(settings[settings.index("[tool.pytest") :])

    def run(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-n2", "-p", "no:cacheprovider", *options],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    output = run()
    assert "1 passed" in output and "skipped" not in output
    assert re.search(r"^1 tests of other tiers not run: --rest .* --all ", output, re.MULTILINE)
    assert "2 passed" in run("--all") and "1 passed" in run("--rest", "-v")
    assert "1 passed" in run("tests/browser"), "a named folder runs whole"
