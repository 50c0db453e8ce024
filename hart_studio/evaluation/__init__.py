"""Measurement: how often boxes and answers are right, as the paper counts it."""
