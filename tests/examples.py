"""Number of examples of a Hypothesis test in the tier that runs."""

from __future__ import annotations

from hypothesis import settings

FEW, MANY = "few", "many"
"""Hypothesis profiles: the default tier; ``--all`` and ``--rest``."""
LEAST = 5


def register_profiles() -> None:
    """Define both profiles. The default tier repeats the same examples, so that it passes or fails alike each time."""
    settings.register_profile(FEW, max_examples=25, deadline=None, derandomize=True)
    settings.register_profile(MANY, max_examples=400, deadline=None, print_blob=True)


def example_count(cost: int = 1) -> int:
    """Scale the profile's number of examples.

    Args:
        cost: Time of one example, relative to that of a call of a pure function.
    """
    return max(LEAST, settings().max_examples // cost)
