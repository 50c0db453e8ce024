"""Number of examples of a Hypothesis test in the tier that runs."""

from __future__ import annotations

from hypothesis import settings

FEW, MANY, FRESH = "few", "many", "fresh"
"""Hypothesis profiles: the default tier; ``--all`` and ``--rest``; both with ``--slow``."""
LEAST = 5


def register_profiles() -> None:
    """Define the profiles. Only ``FRESH`` draws new examples each time; the others pass or fail alike for a commit."""
    settings.register_profile(FEW, max_examples=25, deadline=None, derandomize=True)
    settings.register_profile(MANY, max_examples=400, deadline=None, derandomize=True)
    settings.register_profile(FRESH, max_examples=400, deadline=None, print_blob=True)


def example_count(cost: int = 1) -> int:
    """Scale the profile's number of examples.

    Args:
        cost: Time of one example, relative to that of a call of a pure function.
    """
    return max(LEAST, settings().max_examples // cost)
